"""Layers with paths: GLoRA against its equations, a supernet that draws them, and the search."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from petiole.errors import ConfigError
from petiole.layers.glora import LARGEST, GLoRA, SearchableGLoRA
from petiole.layers.searchable import choose_paths, searchable_layers
from petiole.methods.path_search import Paths, PathSearch
from training_for_tests import batches, descend

OUT, WIDTH, RANK = 5, 3, 2
WEIGHT, BIAS = torch.randn(OUT, WIDTH), torch.randn(OUT)
SMALL = "scalar-none-vector-scalar-none"


def written_out(layer: GLoRA, path: str) -> tuple[Tensor, Tensor]:
    """W' and b' number by number."""
    value = {name: dict(part.named_parameters()) for name, part in layer.supports.items()}

    def at(name: str, kind: str, row: int, column: int) -> Tensor:
        own = value[name]
        match kind:
            case "lora":
                return sum(own["down"][row, r] * own["up"][r, column] for r in range(RANK))
            case "vector":
                return own["down"][row, 0]
            case "scalar":
                return own["down"][0, 0]
        return torch.zeros(())

    a, b, c, d, e = path.split("-")
    weight, bias = WEIGHT.clone(), BIAS.clone()
    for i in range(OUT):
        bias[i] += BIAS[i] * at("d", d, i, 0) + at("e", e, i, 0)
        for j in range(WIDTH):
            weight[i, j] += WEIGHT[i, j] * at("a", a, i, j) + at("b", b, i, j)
            bias[i] += WEIGHT[i, j] * at("c", c, j, 0)
    return weight, bias


PATHS = (LARGEST, SMALL, "vector-scalar-none-vector-scalar", "none-lora-lora-none-vector")


@pytest.mark.parametrize("path", PATHS)
@torch.no_grad()
def test_a_path_is_its_equation_and_starts_at_zero(path: str) -> None:
    x = torch.randn(4, WIDTH)
    layer = GLoRA(WEIGHT, BIAS, RANK, path)
    assert not layer(x).any()
    for value in layer.parameters():
        nn.init.normal_(value)
    want = written_out(layer, path)
    torch.testing.assert_close(linear(x, WEIGHT, BIAS) + layer(x), linear(x, *want))
    for got, one in zip(layer.merged(WEIGHT, BIAS), want, strict=True):
        torch.testing.assert_close(got, one)


@torch.no_grad()
def test_what_a_supernet_settles_on_is_what_it_computed_along_that_path() -> None:
    x = torch.randn(4, WIDTH)
    for path in (*PATHS, "none-none-none-none-none"):
        layer = SearchableGLoRA(WEIGHT, BIAS, RANK, 0).eval()
        for value in layer.parameters():
            nn.init.normal_(value)
        choose_paths([layer], [path])
        want, size = layer(x), layer.size(path)
        layer.settle()
        assert torch.equal(layer(x), want)
        kept = GLoRA(WEIGHT, BIAS, RANK, path)
        kept.load_state_dict(layer.state_dict())
        assert torch.equal(kept(x), want)
        assert sum(p.numel() for p in kept.parameters()) == size
    sizes = {"lora": RANK * (OUT + WIDTH), "vector": OUT, "scalar": 1, "none": 0}
    whole = SearchableGLoRA(WEIGHT, BIAS, RANK, 0)
    assert whole.size(LARGEST) == 2 * sizes["lora"] + RANK * (WIDTH + 1) + 2 * OUT
    assert whole.size(SMALL) == 1 + WIDTH + 1


def test_without_a_bias_nothing_scales_it() -> None:
    layer = SearchableGLoRA(WEIGHT, None, RANK, 0)
    assert {path.split("-")[3] for path in layer.paths} == {"none"}
    assert GLoRA(WEIGHT, None, RANK, LARGEST).path.split("-")[3] == "none"


class Supernet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            SearchableGLoRA(torch.eye(4), torch.zeros(4), 1, number) for number in range(2)
        )
        self.taken: list[Paths] = []

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)
        self.taken.append(tuple(layer.path for layer in self.layers))
        return ((x.sum(1) - y) ** 2).mean()


def test_a_supernet_draws_a_path_for_every_layer_in_every_step() -> None:
    """By the seed of the step; paths that have not had their turn do not stop the run."""
    net, again = Supernet(), Supernet()
    for one in (net, again):
        torch.manual_seed(0)
        descend(one, batches, weight_decay=0.0)
    assert len(set(net.taken)) == len(net.taken) == 6
    assert all(first != second for first, second in net.taken)
    assert net.taken == again.taken


def test_paths_are_chosen_by_name() -> None:
    layers = searchable_layers(Supernet())
    choose_paths(layers, [LARGEST, SMALL])
    assert [layer.path for layer in layers] == [LARGEST, SMALL]
    with pytest.raises(ConfigError, match="1 paths are given for 2"):
        choose_paths(layers, [SMALL])
    with pytest.raises(ConfigError, match="turn"):
        choose_paths(layers, [SMALL, "turn-none-none-none-none"])
    assert layers[0].path == LARGEST  # nothing was half done


def test_the_search_finds_what_scores_and_asks_for_each_once() -> None:
    """Of equal scores the smaller paths win; and it is the same every time."""
    layers = tuple(searchable_layers(Supernet()))
    asked: list[Paths] = []

    def score(paths: Paths) -> float:
        asked.append(paths)
        return float(sum(path.startswith("vector-lora") for path in paths))

    def size(paths: Paths) -> int:
        return sum(layer.size(path) for layer, path in zip(layers, paths, strict=True))

    search = PathSearch(layers, population=16, rounds=12)
    best = search.best(score)
    first = tuple(asked)
    assert all(path.startswith("vector-lora") for path in best)
    assert size(best) == min(size(paths) for paths in first if score(paths) == 2)
    assert len(first) == len(set(first)) <= 16 * 12
    asked.clear()
    assert search.best(score) == best
    assert tuple(asked) == first


def test_every_round_tries_as_many_as_the_population() -> None:
    layers = tuple(SearchableGLoRA(WEIGHT, BIAS, RANK, number) for number in range(4))
    asked: list[Paths] = []
    PathSearch(layers, population=5, rounds=3, parents=2).best(
        lambda paths: asked.append(paths) or 0.0
    )  # type: ignore[func-returns-value]
    assert len(asked) == len(set(asked)) == 5 * 3

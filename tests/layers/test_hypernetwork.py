"""Adapters that a network writes, against the equations written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from petiole.errors import ConfigError
from petiole.layers.hypernetwork import EMBEDDING, HIDDEN, Hypernetwork, Written
from petiole.layers.tasks import routed

STREAMS = {"encoder": (2, ("attn", "mlp")), "decoder": (3, ("attn", "cross", "mlp"))}
WIDTH, SIZE, CODE = 10, 4, 3


def network(tasks: int = 3) -> Hypernetwork:
    torch.manual_seed(0)
    made = Hypernetwork(tasks, STREAMS, WIDTH, SIZE, CODE).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) / 5)
    return made


def code_by_hand(made: Hypernetwork, task: int, stream: str, layer: int) -> Tensor:
    """z = LN(W_2 relu(W_1 [task ; layer] + b_1) + b_2)."""
    own = dict(made.named_parameters())
    given = torch.cat([own["tasks.weight"][task], own[f"streams.{stream}.layers.weight"][layer]])
    at = f"streams.{stream}.project"
    hidden = (own[f"{at}.0.weight"] @ given + own[f"{at}.0.bias"]).clamp(min=0)
    raw = own[f"{at}.2.weight"] @ hidden + own[f"{at}.2.bias"]
    normed = (raw - raw.mean()) / (raw.var(correction=0) + 1e-6).sqrt()
    norm = f"streams.{stream}.norm"
    return normed * own[f"{norm}.weight"] + own[f"{norm}.bias"]


def branch_by_hand(
    made: Hypernetwork, h: Tensor, task: int, stream: str, layer: int, kind: str
) -> Tensor:
    """W_up gelu(W_down h + b_down) + b_up with every number of every weight from its own row."""
    own, z = dict(made.named_parameters()), code_by_hand(made, task, stream, layer)

    def written(half: str, out: int, width: int) -> tuple[Tensor, Tensor]:
        at = f"streams.{stream}.{half}.{kind}"
        flat = own[f"{at}.weight.weight"] @ z + own[f"{at}.weight.bias"]
        rows = [flat[i * width : (i + 1) * width] for i in range(out)]
        return torch.stack(rows), own[f"{at}.bias.weight"] @ z + own[f"{at}.bias.bias"]

    down, b = written("down", SIZE, WIDTH)
    up, c = written("up", WIDTH, SIZE)
    x = h @ down.T + b
    gelu = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return gelu @ up.T + c


@pytest.mark.parametrize(
    ("stream", "layer", "kind"), [("encoder", 1, "mlp"), ("decoder", 2, "cross")]
)
def test_it_writes_what_its_equations_say(stream: str, layer: int, kind: str) -> None:
    made = network()
    place = Written(made, stream, layer, kind)
    h, tasks = torch.randn(4, 5, WIDTH, dtype=torch.float64), (2, 0, 1, 2)
    with routed(tasks):
        got = place(h)
    for i, task in enumerate(tasks):
        want = branch_by_hand(made, h[i], task, stream, layer, kind)
        torch.testing.assert_close(got[i], want, rtol=1e-10, atol=1e-10)
    with routed([0]):
        assert not torch.allclose(place(h[:1]), got[:1]), "tasks must differ"


def test_shapes_at_the_published_size() -> None:
    with torch.device("meta"):
        made = Hypernetwork(4, {"encoder": (6, ("attn", "mlp"))}, 768, 96, 8)
    shapes = [tuple(w.shape) for w in made.weights(0, "encoder", 5, "attn")]
    assert shapes == [(96, 768), (96,), (768, 96), (768,)]
    assert (EMBEDDING, HIDDEN) == (512, 128)
    controller = made.streams["encoder"]
    rest = [controller.layers, controller.project, controller.norm]
    assert sum(p.numel() for part in rest for p in part.parameters()) == 135_320
    kind = [controller.down["mlp"], controller.up["mlp"]]
    assert sum(p.numel() for part in kind for p in part.parameters()) == 1_334_880
    assert made.tasks.weight.numel() == 2_048


def test_gradients_reach_the_embeddings_of_the_tasks_and_layers_that_are_there() -> None:
    made = network()
    with routed([2, 0]):
        Written(made, "encoder", 1, "mlp")(torch.randn(2, 5, WIDTH).double()).sum().backward()

    def touched(weight: torch.nn.Parameter) -> list[bool]:
        assert weight.grad is not None
        return weight.grad.any(dim=1).tolist()

    assert touched(made.tasks.weight) == [True, False, True]
    assert touched(made.streams["encoder"].layers.weight) == [False, True]
    assert made.streams["decoder"].layers.weight.grad is None
    assert made.streams["encoder"].down["attn"].weight.weight.grad is None


def test_a_place_holds_nothing_and_knows_how_many_tasks_there_are() -> None:
    made = network()
    place = Written(made, "encoder", 0, "attn")
    assert not place.state_dict()
    h = torch.zeros(2, 1, WIDTH, dtype=torch.float64)
    with routed([0, 3]), pytest.raises(ConfigError, match="this layer has 3"):
        place(h)
    with pytest.raises(ConfigError, match=r"with routed\(tasks\)"):
        place(h)
    for sizes, words in (((0, 4, 3), "tasks"), ((1, 0, 3), "size"), ((1, 4, 0), "code")):
        with pytest.raises(ConfigError, match=f"{words} must be at least 1"):
            Hypernetwork(sizes[0], STREAMS, WIDTH, sizes[1], sizes[2])

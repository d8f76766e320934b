"""Layers of several tasks: routing is a loop over rows, and what is shared is one parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.dora import DoRA
from petiole.layers.lowrank import LowRank
from petiole.layers.phm import PHM
from petiole.layers.rows import Overwrite, Prepend, Reparametrised, Rows
from petiole.layers.tasks import PerTask, Sharing, routed, rows_by_task, shared

WIDTH, SIZE, TASKS = 6, 4, 3
WEIGHT = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3))


def bottleneck() -> Bottleneck:
    return Bottleneck(WIDTH, SIZE, init="bert/bert")


def compacter() -> Bottleneck:
    return Bottleneck(WIDTH, SIZE, projection=lambda a, b: PHM(a, b, 2))


def low_rank() -> LowRank:
    return LowRank(WIDTH, 2)


def dora() -> DoRA:
    return DoRA(WEIGHT, 2)


def prompts() -> Prepend:
    return Prepend(Reparametrised(2, WIDTH, SIZE))


HALVED: dict[str, Callable[[], nn.Module]] = {
    f.__name__: f for f in (bottleneck, compacter, low_rank, dora, prompts)
}
UP = {
    "bottleneck": {"up.weight", "up.bias"},
    "compacter": {"up.terms", "up.bias", "up.rule.value"},
    "low_rank": {"b"},
    "dora": {"b", "magnitude"},
    "prompts": {"rows.mlp.0.weight", "rows.mlp.0.bias", "rows.mlp.2.weight", "rows.mlp.2.bias"},
}


def made(name: str, sharing: Sharing, tasks: int = TASKS) -> nn.Module:
    """With every number its own, so that no two layers are equal by chance."""
    torch.manual_seed(0)
    layer = shared(HALVED[name], tasks, sharing)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    return layer.eval()


def values(rows: int) -> Tensor:
    return torch.randn(rows, 5, WIDTH, generator=torch.Generator().manual_seed(rows))


def equal(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


# --- routing -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, TASKS - 1), min_size=1, max_size=9), st.integers(1, 3))
def test_a_mixed_batch_is_a_loop_over_its_rows_and_their_beams(
    tasks: list[int], beams: int
) -> None:
    layer = made("bottleneck", "multiple").double()  # rows of a batch round otherwise than alone
    assert isinstance(layer, PerTask)
    x = values(len(tasks) * beams).double()
    with routed(tasks):
        got = layer(x)
    for i in range(len(x)):
        equal(got[i], layer.layers[tasks[i // beams]](x[i : i + 1])[0])


@pytest.mark.parametrize("name", list(HALVED))
@pytest.mark.parametrize("sharing", ["multiple", "half_up", "half_down"])
def test_every_layer_and_sharing_gives_each_row_what_it_gives_it_alone(
    name: str, sharing: Sharing
) -> None:
    layer = made(name, sharing)
    tasks, x = (2, 0, 1, 2), values(4)
    with routed(tasks):
        got = layer(x)
    outs = []
    for i, task in enumerate(tasks):
        with routed([task]):
            outs.append(layer(x[i : i + 1])[0])
    equal(got, torch.stack(outs))
    with routed([0]):
        other = layer(x[:1])[0]
    assert not torch.allclose(got[0], other), "tasks must differ"


def test_gradients_reach_the_tasks_that_are_there_and_no_other() -> None:
    layer = made("bottleneck", "multiple")
    assert isinstance(layer, PerTask)
    with routed([2, 0, 2]):
        layer(values(3)).sum().backward()
    seen = [all(p.grad is not None for p in one.parameters()) for one in layer.layers]
    assert seen == [True, False, True]
    assert all(p.grad is None for p in layer.layers[1].parameters())


def test_what_is_shared_gathers_the_gradients_of_all_tasks() -> None:
    layer = made("bottleneck", "half_up")
    assert isinstance(layer, PerTask)
    x, one = values(3), dict(layer.layers[0].named_parameters())["up.weight"]
    with routed([0, 1, 2]):
        layer(x).sum().backward()
    assert one.grad is not None
    whole, parts = one.grad.clone(), torch.zeros_like(one)
    for task in range(TASKS):
        layer.zero_grad()
        with routed([task]):
            layer(x[task : task + 1]).sum().backward()
        assert one.grad is not None
        parts += one.grad
    equal(whole, parts)


def test_outside_a_statement_of_tasks_or_with_a_wrong_one_it_is_an_error() -> None:
    layer = made("low_rank", "multiple")
    with pytest.raises(ConfigError, match=r"with routed\(tasks\)"):
        layer(values(2))
    with routed([0, 1]), pytest.raises(ConfigError, match="saw 3 rows, and the tasks of 2"):
        layer(values(3))
    for wrong in (TASKS, -1):
        with routed([0, wrong]), pytest.raises(ConfigError, match=f"this layer has {TASKS}"):
            layer(values(2))
    with pytest.raises(ConfigError, match="saw 1 rows, and the tasks of 0"):
        rows_by_task(1)


def test_statements_nest_and_end() -> None:
    with routed([1]):
        with routed([0, 2]):
            assert list(rows_by_task(2)) == [0, 2]
        assert list(rows_by_task(1)) == [1]


# --- sharing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(HALVED))
@pytest.mark.parametrize("half", ["up", "down"])
def test_half_sharing_holds_one_half_once_and_the_other_for_each_task(name: str, half: str) -> None:
    single = {k: v.shape for k, v in made(name, "single").state_dict().items()}
    common = UP[name] if half == "up" else single.keys() - UP[name]
    assert common < single.keys()
    layer = made(name, "half_up" if half == "up" else "half_down")
    own = single.keys() - common
    want = {f"layers.0.{key}" for key in single} | {
        f"layers.{task}.{key}" for task in range(1, TASKS) for key in own
    }
    assert layer.state_dict().keys() == want
    assert {key for key, _ in layer.named_parameters()} == want
    counts = {k: shape.numel() for k, shape in single.items()}
    total = sum(counts[k] * (1 if k in common else TASKS) for k in counts)
    assert sum(p.numel() for p in layer.parameters()) == total


@pytest.mark.parametrize("name", list(HALVED))
@pytest.mark.parametrize("sharing", ["half_up", "half_down"])
@pytest.mark.parametrize("how", ["copied", "converted", "loaded", "changed", "on meta and back"])
def test_the_common_half_stays_common(name: str, sharing: Sharing, how: str) -> None:
    layer = made(name, sharing)
    x, tasks = values(3), (0, 1, 2)
    match how:
        case "copied":
            before, layer = layer, copy.deepcopy(layer)
            with torch.no_grad():
                for p in before.parameters():
                    p.zero_()
        case "converted" if (
            name != "dora"
        ):  # the frozen weight that it stands beside is not its own
            layer, x = layer.to(torch.float64), x.double()
        case "loaded":
            state = {k: v + 1 for k, v in layer.state_dict().items()}
            layer.load_state_dict(state)
        case "on meta and back":
            state = copy.deepcopy(layer.state_dict())
            layer = layer.to("meta").to_empty(device="cpu")
            layer.load_state_dict(state)
    for parameter in layer.parameters() if how == "changed" else ():
        parameter.data.mul_(0.5)
    plain = made(name, "multiple").to(x.dtype)
    state, first = layer.state_dict(), "layers.0."
    # A key that the state lacks is the common half's, which the first task holds.
    plain.load_state_dict(
        {k: state.get(k, state.get(first + k.split(".", 2)[2])) for k in plain.state_dict()}
    )
    with routed(tasks):
        equal(layer(x), plain(x))


def test_one_task_may_be_shared_in_any_way() -> None:
    x = values(2)
    for sharing in ("single", "multiple", "half_up", "half_down"):
        layer = made("bottleneck", sharing, tasks=1)  # type: ignore[arg-type]
        with routed([0, 0]):
            equal(layer(x), made("bottleneck", "single")(x))


def test_a_layer_without_halves_says_so() -> None:
    with pytest.raises(ConfigError, match=r"Overwrite has no up part to share\. Use single or"):
        shared(lambda: Overwrite(Rows(2, WIDTH), 0), 2, "half_up")
    with pytest.raises(ConfigError, match="tasks must be at least 1"):
        shared(bottleneck, 0, "multiple")

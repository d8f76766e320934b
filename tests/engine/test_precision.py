"""fp16: a scaled loss trains to what fp32 does, leaves out steps that overflow, and resumes to the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petiole.engine.optimizer import make_optimizer
from petiole.engine.precision import LossScaler, autocast
from petiole.errors import ConfigError
from petiole.methods.recipe import Recipe
from training_for_tests import batches, descend, learned, regression, same

CPU = torch.device("cpu")


class Line(nn.Module):
    """(w x)^2 / 2, computed in whatever autocast says; its gradient is w x^2."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(1, 1))
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.w
        self.seen.append(y.dtype)
        return (y.float() ** 2).sum() / 2


class Quiet(nn.Module):
    """Squared error of a small network, so small a loss that 2^16 times its gradient does not overflow."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((self.net(x)[:, 0] - y) ** 2).mean() / 256


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)],
)
def test_the_forward_pass_is_computed_in_the_precision_and_the_weights_stay_wide(
    precision: Any, dtype: torch.dtype
) -> None:
    line = Line()
    feed = lambda _: (torch.full((2, 1), 0.1),)  # noqa: E731 - so small that nothing overflows
    trained = descend(line, feed, precision=precision, steps=2)
    assert line.seen == [dtype] * 2
    assert trained["w"].dtype is torch.float32
    assert float(trained["w"]) != 1
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype is dtype


@pytest.mark.parametrize("recipe", [{}, {"clip": 1e-3}, {"optimizer": "sgd"}])
def test_fp16_trains_to_what_fp32_does(recipe: dict[str, Any]) -> None:
    wide, narrow = (
        descend(Quiet(), precision=precision, steps=12, lr=0.01, **recipe)
        for precision in ("fp32", "fp16")
    )
    assert learned(narrow, Quiet().state_dict())
    assert not same(wide, narrow)
    for name, value in wide.items():
        torch.testing.assert_close(narrow[name], value, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_clipped_gradients_are_those_of_the_loss(precision: Any) -> None:
    """And not of the scaled loss: a step of SGD at a rate of 1 is as long as they may be."""
    terms = {"optimizer": "sgd", "momentum": 0.0, "lr": 1.0, "steps": 1, "weight_decay": 0.0}
    trained = descend(Quiet(), clip=1e-4, precision=precision, **terms)
    moved = [value - Quiet().state_dict()[name] for name, value in trained.items()]
    assert torch.cat([one.flatten() for one in moved]).norm() == pytest.approx(1e-4, rel=0.02)


def test_gradients_too_small_for_fp16_are_not_lost() -> None:
    """The gradient of the product is 4e-8 / 2, less than the smallest fp16 (6e-8): without a scale it is 0."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return 2e-8 * (x @ self.w).float().sum()

    def moved(precision: Any) -> float:
        """By SGD, whose step is the gradient."""
        feed = lambda _: (torch.ones(1, 1),)  # noqa: E731
        terms = {"optimizer": "sgd", "momentum": 0.0, "lr": 1e6, "steps": 1, "weight_decay": 0.0}
        return 1 - float(descend(Small(), feed, precision=precision, **terms)["w"])

    assert moved("fp16") == pytest.approx(moved("fp32"), rel=1e-3)
    assert moved("fp32") == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_a_step_that_overflows_is_left_out_and_halves_the_scale(kind: Any) -> None:
    """The first one too, after which torch's fused SGD had a momentum of whatever lay in memory."""
    line = Line()
    optimizer = make_optimizer(line, Recipe(optimizer=kind, lr=0.1, weight_decay=0.0))
    scaler = LossScaler(CPU, enabled=True)
    scaler.prepare(optimizer)
    inf, start = float("inf"), line.w.detach().clone()
    for x, moves, scale in ((inf, False, 2**15), (1.0, True, 2**15), (inf, False, 2**14), (1.0, True, 2**14)):  # fmt: skip
        before = line.w.detach().clone()
        scaler.backward(line(torch.full((1, 1), x)))
        scaler.step(optimizer)
        optimizer.zero_grad()
        assert torch.equal(line.w, before) != moves
        assert float(scaler.state_dict()["scale"]) == scale
    # the gradient is w: two steps of each as they are without a scale
    again = Line()
    plain = make_optimizer(again, Recipe(optimizer=kind, lr=0.1, weight_decay=0.0))
    for _ in range(2):
        again(torch.ones(1, 1)).backward()
        plain.step()
        plain.zero_grad()
    assert torch.equal(line.w, again.w)
    assert not torch.equal(line.w, start)


def test_scale_and_count_are_kept() -> None:
    scaler, line = LossScaler(CPU, enabled=True), Line()
    optimizer = torch.optim.SGD(line.parameters(), lr=0.1, fused=True)
    for x in (float("inf"), 1.0, 1.0, 1.0):
        scaler.backward(line(torch.full((1, 1), x)))
        scaler.step(optimizer)
        optimizer.zero_grad()
    kept = scaler.state_dict()
    assert {name: float(v) for name, v in kept.items()} == {"scale": 2**15, "_growth_tracker": 3}
    again = LossScaler(CPU, enabled=True)
    again.load_state_dict(kept)
    assert again.state_dict() == kept
    assert not LossScaler(CPU, enabled=False).state_dict()


def test_an_interrupted_training_in_fp16_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Steps 0 and 1 overflow, so that a scale which is not kept would be another."""

    def feed(step: int) -> tuple[Tensor, Tensor]:
        x, y = batches(step)
        return x, y * (1e4 if step < 2 else 1)

    whole = descend(regression(), feed, precision="fp16")
    assert learned(whole, regression().state_dict())
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        descend(regression(), feed, checkpoint=file, stop=4, precision="fp16")
    assert same(descend(regression(), feed, checkpoint=file, precision="fp16"), whole)


def test_rules_that_read_gradients_are_refused_in_fp16() -> None:
    with pytest.raises(ConfigError, match=r"step_rule=sam reads gradients.*--precision bf16"):
        descend(regression(), precision="fp16", step_rule="sam")

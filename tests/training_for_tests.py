"""The smallest thing that can be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.device import Precision
from petiole.engine.optimizer import make_optimizer
from petiole.engine.trainer import Callbacks, Trainer, accelerate
from petiole.methods.recipe import Recipe


class Bare:
    """A model with nothing to attach."""

    @contextmanager
    def attached(self) -> Iterator[None]:
        yield


class Regression(nn.Module):
    """Squared error of a small network with dropout and a batch norm, whose statistics a step moves."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((self.net(x)[:, 0] - y) ** 2).mean()


def batches(step: int) -> tuple[Tensor, Tensor]:
    """Rows of a step, by its number alone."""
    generator = torch.Generator().manual_seed(step)
    return torch.randn(6, 4, generator=generator), torch.randn(6, generator=generator)


def descend(
    loss_module: nn.Module,
    feed: Callable[[int], tuple[Any, ...]] = batches,
    *,
    checkpoint: Path | None = None,
    stop: int = 0,
    a_pass: float = 2.0,
    precision: Precision = "fp32",
    **recipe: Any,
) -> dict[str, Tensor]:
    """Train in place; what is trained, afterwards. ``stop`` presses Ctrl-C before that step."""

    def measure(step: int) -> None:
        if stop and step == stop:
            raise KeyboardInterrupt

    chosen = Recipe(**{"steps": 6, "warmup": 0.0, "lr": 0.05} | recipe)
    Trainer(
        accelerate(loss_module),
        loss_module,
        Bare(),
        feed,
        make_optimizer(loss_module, chosen),
        chosen,
        a_pass,
        seed=3,
        precision=precision,
    ).run(Callbacks(checkpoint=checkpoint, every=0.0, quiet=True), measure=measure)
    return {name: value.clone() for name, value in loss_module.state_dict().items()}


def regression() -> Regression:
    """Always with the same start."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Regression()


def learned(trained: dict[str, Tensor], start: dict[str, Tensor] | None = None) -> bool:
    """Whether no floating tensor is all zeros, and each is another than at the start: else equal bits say little."""
    return all(
        bool(value.any()) and (start is None or not torch.equal(value, start[name]))
        for name, value in trained.items()
        if value.is_floating_point()
    )


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """To the bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)

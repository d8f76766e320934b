"""Layers that know which task a row belongs to: sharing over tasks is a property of any layer.

    single     one layer for all tasks                    theta_t = theta
    multiple   a layer for each task                      theta_t
    half_up    as multiple, with the up part in common    theta_t = (down_t, up)
    half_down  the other way round                        theta_t = (down, up_t)

(VL-Adapter, Sung et al., 2022, section 3; its half-shared rows share the up projection.) The tasks of the rows are
an argument of the forward, given by ``routed`` for its length, and never state of a layer. A batch may mix tasks: each
row then passes through its own task's layer, as it would alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.checks import positive

Sharing = Literal["single", "multiple", "half_up", "half_down"]

_ROWS: ContextVar[tuple[int, ...]] = ContextVar("tasks of the rows")


@contextmanager
def routed(tasks: Sequence[int]) -> Iterator[None]:
    """Say to which task each row of the batch belongs, for the length of a forward and its backward."""
    token = _ROWS.set(tuple(tasks))
    try:
        yield
    finally:
        _ROWS.reset(token)


def rows_by_task(count: int) -> dict[int, Tensor]:
    """Row numbers (int64) of each task that is there, for a value of ``count`` rows.

    Beam search repeats every row some times; its copies stay with their task.

    Raises:
        ConfigError: outside ``routed``, or for a batch of another size.
    """
    tasks = _ROWS.get(())
    if not tasks or count % len(tasks):
        raise ConfigError(
            f"A layer of several tasks saw {count} rows, and the tasks of {len(tasks)} were stated. Say "
            "which task each row belongs to: with routed(tasks): ..."
        )
    repeats = count // len(tasks)
    each = torch.tensor(tasks).repeat_interleave(repeats)
    return {task: (each == task).nonzero()[:, 0] for task in dict.fromkeys(tasks)}


def by_task(x: Tensor, layer: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Each row as its task's layer gives it: (B, ..., in) -> (B, ..., out).

    Args:
        x: rows of any tasks, in any order.
        layer: (task, its rows) -> their values.
    """
    rows = rows_by_task(len(x))
    if len(rows) == 1:
        return layer(next(iter(rows)), x)
    parts = [layer(task, x[index.to(x.device)]) for task, index in rows.items()]
    order = torch.cat(list(rows.values())).to(x.device)
    return torch.cat(parts)[order.argsort()]


class PerTask(nn.Module):
    """Each row through the layer of its task: (B, ..., in) -> (B, ..., out).

    Args:
        layers: one for each task, all of one kind.
    """

    used_within = "pass"
    """A batch may hold rows of some tasks only; in a pass over the data every task has its turn."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return by_task(x, self._one)

    def _one(self, task: int, rows: Tensor) -> Tensor:
        check_task(task, len(self.layers))
        out: Tensor = self.layers[task](rows)
        return out


def check_task(task: int, count: int) -> None:
    """Raise ConfigError unless there is such a task."""
    if not 0 <= task < count:
        raise ConfigError(f"Task {task} is asked for, and this layer has {count} (from 0).")


def shared(make: Callable[[], nn.Module], tasks: int, sharing: Sharing) -> nn.Module:
    """A layer for so many tasks.

    Args:
        make: gives a fresh layer. For half sharing its class states ``halves``, the parameters
            (or modules) that are its down and its up part.

    Raises:
        ConfigError: the layer has no halves.
    """
    positive(tasks=tasks)
    if sharing == "single":
        return make()
    layers = [make() for _ in range(tasks)]
    if sharing != "multiple":
        half = sharing.removeprefix("half_")
        halves = getattr(layers[0], "halves", {})
        if half not in halves:
            raise ConfigError(
                f"{type(layers[0]).__name__} has no {half} part to share. Use single or multiple."
            )
        for layer in layers[1:]:
            _tie(layer, layers[0], halves[half])
    return PerTask(layers)


def _tie(layer: nn.Module, first: nn.Module, parts: Sequence[str]) -> None:
    """Let a layer use the first one's parameters; they stay the first one's, so each is there once."""
    for name, parameter in list(first.named_parameters()):
        path, _, leaf = name.rpartition(".")
        if any(name == part or name.startswith(f"{part}.") for part in parts):
            owner = layer.get_submodule(path)
            del owner._parameters[leaf]
            owner.__dict__[leaf] = parameter

"""Batches of many tasks, as a pure function of (seed, step): a resumed run needs no state.

Task t has n_t samples and batches of b_t, and so ceil(n_t / b_t) batches a pass; an epoch has

    proportional  all batches of one pass of every task, shuffled; one task a batch
    balanced      equally many batches of every task, about as many in all, shuffled; one task a batch
    mixed         as many batches as proportional, each with samples of all tasks by their n_t

VL-Adapter's code (Sung et al., CVPR 2022) calls proportional "roundrobin" and has no mixed batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from petiole.errors import ConfigError, unknown

Mode = Literal["proportional", "balanced", "mixed"]
Batch = list[tuple[str, NDArray[np.int64]]]
"""Tasks and the rows of their samples."""

_ORDER, _MIXED = 0, 1


class TaskBatches:
    """Which samples of which tasks make step 0, 1, 2, ...

    Proportional and mixed batches bring every sample exactly once an epoch. Balanced ones run through
    each task's shuffled passes one after another, across the ends of epochs.

    Args:
        sizes: samples of each task.
        batches: batch size of each task.
        seed: of the run.
        mode: as above.

    Raises:
        ConfigError: no task, an empty task, a batch size that is missing or below 1, an unknown mode.
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        batches: Mapping[str, int],
        seed: int,
        mode: Mode = "proportional",
    ) -> None:
        if mode not in get_args(Mode):
            raise unknown("mode", mode, get_args(Mode))
        _check(sizes, batches)
        self.tasks = tuple(sizes)
        self.sizes = np.array([sizes[t] for t in self.tasks])
        self.batches = np.array([batches[t] for t in self.tasks])
        self.seed, self.mode = seed, mode
        self._passes = -(-self.sizes // self.batches)  # batches of one pass of each task
        equal = -(-self._passes.sum() // len(self.tasks))
        self._counts = np.full_like(self._passes, equal) if mode == "balanced" else self._passes
        # Only speed: what an epoch looks like is computed once, and again after a resume.
        self._planned = lru_cache(maxsize=2)(self._plan)
        self._merged = lru_cache(maxsize=2)(self._merge)
        self._shuffled = lru_cache(maxsize=2 * len(self.tasks))(self._shuffle)

    def __len__(self) -> int:
        """Steps of an epoch."""
        return int(self._counts.sum())

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step, counted from 0 over all epochs."""
        epoch, place = divmod(step, len(self))
        if self.mode == "mixed":
            return self._mixed(epoch, place)
        order, before = self._planned(epoch)
        task = int(order[place])
        # The task's own count of batches since step 0.
        batch = epoch * int(self._counts[task]) + int(before[place])
        number, index = divmod(batch, int(self._passes[task]))
        size = int(self.batches[task])
        rows = self._shuffled(task, number)[index * size : (index + 1) * size]
        return [(self.tasks[task], rows)]

    def _mixed(self, epoch: int, place: int) -> Batch:
        task, rank = self._merged(epoch)
        cut = slice(*(len(task) * edge // len(self) for edge in (place, place + 1)))
        parts = ((t, rank[cut][task[cut] == t]) for t in range(len(self.tasks)))
        return [(self.tasks[t], self._shuffled(t, epoch)[rows]) for t, rows in parts if len(rows)]

    def _plan(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The task of each batch, and how many batches of that task come before it."""
        order = self._rng(epoch, _ORDER).permutation(
            np.repeat(range(len(self.tasks)), self._counts)
        )
        before = np.empty_like(order)
        for task, count in enumerate(self._counts):
            before[order == task] = np.arange(count)
        return order, before

    def _merge(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All samples of an epoch, tasks evenly spread: the task, and the rank in its shuffled pass.

        Sample k of task t stands at (k + u_t) / n_t with a random u_t in 0..1, so any stretch of
        the line has all tasks by their sizes.
        """
        start = self._rng(epoch, _MIXED).random(len(self.tasks))
        task = np.repeat(np.arange(len(self.tasks)), self.sizes)
        rank = np.concatenate([np.arange(n) for n in self.sizes])
        line = np.argsort((rank + start[task]) / self.sizes[task], kind="stable")
        return task[line], rank[line]

    def _shuffle(self, task: int, number: int) -> NDArray[np.int64]:
        """Pass ``number`` of a task."""
        rows: NDArray[np.int64] = self._rng(number, 2 + task).permutation(int(self.sizes[task]))
        rows.flags.writeable = False
        return rows

    def _rng(self, count: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream, count])


def _check(sizes: Mapping[str, int], batches: Mapping[str, int]) -> None:
    if not sizes:
        raise ConfigError("No task to draw batches of. Give at least one.")
    for task, size in sizes.items():
        if size < 1:
            raise ConfigError(f"Task {task!r} has no samples. Leave it out, or add some.")
        if batches.get(task, 0) < 1:
            raise ConfigError(
                f"Task {task!r} has batch size {batches.get(task)}. Give it one of 1 or more."
            )

"""Processes that train together as threads of this one: what they say to each other, without starting Python for each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

T = TypeVar("T")


class _Group:
    """As much of torch.distributed as the library asks for; ranks are threads.

    Args:
        size: ranks.
        begun: whether the group is open already.
    """

    def __init__(self, size: int, begun: bool) -> None:
        self.size = size
        self.begun = dict.fromkeys(range(size), begun)
        self.own = threading.local()
        self._said: list[Any] = [None] * size
        self._met = threading.Barrier(size, timeout=10)

    def get(self, name: str, default: str) -> str:
        """Of this thread's environment, as ``torchrun`` sets it; a thread that is no rank has none."""
        if not hasattr(self.own, "rank"):
            return default
        return {"WORLD_SIZE": str(self.size), "RANK": str(self.own.rank)}.get(name, default)

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return self.begun[self.own.rank]

    def get_backend(self) -> str:
        return "gloo"

    def barrier(self) -> None:
        self._met.wait()

    def all_gather(self, into: list[Tensor], value: Tensor) -> None:
        for place, said in zip(into, self._exchanged(value), strict=True):
            place.copy_(said)

    def all_reduce(self, value: Tensor) -> None:
        value.copy_(torch.stack(self._exchanged(value)).sum(0))

    def _exchanged(self, value: Tensor) -> list[Tensor]:
        self._said[self.own.rank] = value.clone()
        self._met.wait()
        said = list(self._said)
        self._met.wait()  # before anyone says the next thing
        return said


def together(
    work: Callable[[int], T], patch: pytest.MonkeyPatch, *, size: int = 2, begun: bool = True
) -> list[T | BaseException]:
    """What ``work(rank)`` returns or raises in each rank, all at once; a rank that waits for one that has ended breaks."""
    group = _Group(size, begun)
    patch.setattr("petiole.processes.os", SimpleNamespace(environ=group))
    patch.setattr("petiole.collective.dist", group)
    patch.setattr("accelerate.PartialState", lambda **how: _open(group, **how))
    ended: list[Any] = [None] * size

    def begin(rank: int) -> None:
        group.own.rank = rank
        try:
            ended[rank] = work(rank)
        except BaseException as error:
            ended[rank] = error

    threads = [threading.Thread(target=begin, args=[rank]) for rank in range(size)]
    with torch.random.fork_rng():  # one generator for all threads, which put it back in any order
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return ended


def _open(group: _Group, *, cpu: bool) -> None:
    assert cpu, "gloo is for the CPU"
    group.begun[group.own.rank] = True
    group.barrier()

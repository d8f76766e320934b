"""Where jobs run. Comparisons and sweeps know only ``Executor``, so other places can be added.

Another place is one new file beside this one, or a distribution with an entry point of the group ``petiole.executors``:

    @EXECUTORS.register("cluster", "jobs on the machines of a cluster")
    class Cluster: ...
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from inspect import signature
from multiprocessing import get_context, parent_process
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any, Protocol, TypeVar

from petiole.allocator import tune_allocator
from petiole.errors import ConfigError, RunError, everywhere
from petiole.processes import world
from petiole.registry import Registry

J = TypeVar("J")
R = TypeVar("R")


class Executor(Protocol):
    """Runs a function over jobs and yields the results in the order of the jobs.

    Attributes:
        places: jobs that it does at a time.
    """

    @property
    def places(self) -> int: ...

    def map(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[R]:
        """Yield ``work(job)`` for every job; an exception of one ends the iteration."""
        ...


EXECUTORS = Registry[Callable[..., Executor]](
    "executor", "petiole.engine", "EXECUTORS.register", "petiole.executors", described=True
)


def executor(name: str = "local", **options: Any) -> Executor:
    """Make an executor by name, e.g. ``executor("local", processes=2)``.

    Raises:
        ConfigError: an unknown name, an option that this executor does not take, or this is one of several processes that
            train one model.
    """
    if world() > 1:
        raise everywhere(
            ConfigError(
                f"{world()} processes were started to train one model (WORLD_SIZE), and this does many runs. Use petiole fit, or "
                "start petiole without torchrun or accelerate launch; --processes N does several runs at a time."
            )
        )
    kind = EXECUTORS.find(name)
    try:
        signature(kind).bind(**options)
    except TypeError as error:
        raise ConfigError(
            f"The executor {name!r} cannot be made so: {error}. It is {name}{signature(kind)}."
        ) from error
    return kind(**options)


@EXECUTORS.register("local", "this machine, in this process or in several")
@dataclass
class Local:
    """This machine: in this process, or in others, which live as long as the executor: importing torch takes seconds.

    Attributes:
        processes: 1 runs here; more start that many processes, one BLAS thread each.
    """

    processes: int = 1
    _pool: ProcessPoolExecutor | None = field(default=None, init=False, repr=False, compare=False)

    @property
    def places(self) -> int:
        """Its processes."""
        return self.processes

    def map(self, work: Callable[[J], R], jobs: Sequence[J]) -> Iterator[R]:
        """See ``Executor.map``."""
        if self.processes <= 1:
            yield from map(work, jobs)
            return
        if self._pool is None:
            self._pool = ProcessPoolExecutor(self.processes, _context(), initializer=_begin)
        begun = False
        try:
            for result in self._pool.map(work, jobs):
                begun = True
                yield result
        except BrokenProcessPool as error:
            self._pool = None
            raise RunError(_why_it_broke(begun=begun)) from error
        except BaseException:
            # After an error or Ctrl-C the jobs that have not begun are dropped.
            pool, self._pool = self._pool, None
            pool.shutdown(cancel_futures=True)
            raise

    def __del__(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _why_it_broke(*, begun: bool) -> str:
    """A worker ended without a word; one that never began may have begun the caller's script instead."""
    main = sys.modules["__main__"]
    script = getattr(main, "__file__", None)
    if not begun and script and main.__spec__ is None and Path(script).suffix == ".py":
        return (
            f"No process could be started: each one imports {script} first, which begins the same work again. Put what it does under "
            'if __name__ == "__main__":, or leave processes at 1.'
        )
    return (
        "A process ended without a word, as where memory runs out. What is finished is kept: repeat it with --resume and fewer "
        "--processes."
    )


def _context() -> BaseContext:
    """How a process is started: as a fork of a server that has imported what this process has, so that importing costs once.

    Not of this process, which has OpenMP threads, after which a fork can hang. Where there are no such servers, and on CUDA, which
    some libraries touch on import and a fork cannot share, each process imports for itself.
    """
    import torch

    if sys.platform != "linux" or torch.cuda.is_available():
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload([name for name in sys.modules if name.startswith("petiole.")])
    return context


def _begin() -> None:
    """Set up a fresh worker process; the parent's malloc settings do not reach it, nor does its end if it is killed."""
    Thread(target=_end_with, args=[parent_process()], daemon=True).start()
    tune_allocator()
    import torch

    torch.set_num_threads(1)


def _end_with(parent: BaseProcess | None) -> None:
    """A worker without a parent would wait for jobs for ever, and the one in hand would hold its folder's lock."""
    if parent:
        parent.join()
        os._exit(1)

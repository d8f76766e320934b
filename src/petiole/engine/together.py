"""Several processes train one model: who does what, and how they end together.

All of them open data and backbone, store their share of the features, and take the same steps, each on its share of every
batch. The main process alone owns the run's folder: it locks and claims it, logs, keeps checkpoints, opens the test set once,
and writes the adapter and the record. What stops one of them stops all, with the same error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import petiole.errors
from petiole.collective import opened, said_by_all
from petiole.errors import PetioleError, RunError, everywhere
from petiole.processes import is_main, world

T = TypeVar("T")


def open_group(device_type: str) -> None:
    """Open the group that the processes talk in, if there are several: gloo on CPU, NCCL on CUDA."""
    if world() > 1:
        from accelerate import PartialState

        PartialState(cpu=device_type == "cpu")


def main_does(work: Callable[[], T]) -> T:
    """Let the main process do it; every process has the result, which JSON must be able to hold.

    Raises:
        PetioleError: what the main process raised, in every process.
    """
    if not opened():
        return work()
    result, failure = _tried(work) if is_main() else (None, None)
    said, failed = said_by_all([result, failure])[0]
    if failed:
        raise _error(failed)
    return result if is_main() else said  # type: ignore[return-value]


def all_do(work: Callable[[], T]) -> T:
    """Let every process do its part.

    Raises:
        PetioleError: what the first of them raised that failed, in every process.
    """
    if not opened():
        return work()
    result, failure = _tried(work)
    for failed in said_by_all(failure):
        if failed:
            raise _error(failed)
    return result  # type: ignore[return-value]


def _tried(work: Callable[[], T]) -> tuple[T | None, list[str] | None]:
    try:
        return work(), None
    except PetioleError as error:
        return None, [type(error).__name__, str(error)]
    except KeyboardInterrupt:
        return None, ["KeyboardInterrupt", ""]
    except Exception as error:  # the others would wait for ever
        return None, ["RunError", f"One of the processes failed: {type(error).__name__}: {error}"]


def _error(failed: list[str]) -> BaseException:
    name, text = failed
    if name == "KeyboardInterrupt":
        return KeyboardInterrupt()
    return everywhere(getattr(petiole.errors, name, RunError)(text))

"""The largest memory that a stretch of work takes."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from petiole.allocator import release_memory

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    """Give a function that tells the peak since the start of the context, in MB.

    On a GPU it counts what torch allocated there. Elsewhere it is the resident memory of the whole
    process, libraries included; where the system cannot reset its high-water mark (all but Linux),
    the mark is that since the start of the process. What earlier work has freed and the heap still holds is given
    back first, so that it does not count.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device) / 2**20
        return
    release_memory()
    try:
        _RESET.write_text("5")  # man 5 proc: reset the peak of the resident set
    except OSError:
        yield lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return
    yield _resident_peak


def _resident_peak() -> float:
    line = next(row for row in _STATUS.read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024

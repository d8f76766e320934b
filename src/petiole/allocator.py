"""Memory of a process: glibc's malloc, set for tensors, and how often Python looks for what nobody reaches.

By default glibc maps every block above some hundred kB (at most 32 MB) afresh and unmaps it when freed. A network frees
and takes the same large activations all the time, so that the kernel zeroes page after page: 11,000 page faults an image
in EfficientNet-Lite0. ``tune_allocator`` keeps them in the heap; ``release_memory`` gives back between two phases of work
what the heap no longer needs. Figures: docs/benchmarks.md, "Allocator".
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from functools import cache

SWITCH = "PETIOLE_ALLOCATOR"
"""Environment variable; ``off`` leaves malloc as it is."""

# The keys of mallopt(3), from malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
MB = 1 << 20
NEW_OBJECTS = 10_000
"""After so many new ones Python looks for objects that nobody reaches; see ``tune_collector``."""
SETTINGS = {
    # Nothing is mapped by itself. A threshold (M_MMAP_THRESHOLD) cannot do it: glibc refuses more than 32 MB.
    M_MMAP_MAX: 0,
    # Free memory at the heap's end goes back to the kernel from here on: the largest value that mallopt takes.
    M_TRIM_THRESHOLD: 2**31 - 1,
    # The heap grows by so much more than it needs, so that it grows seldom.
    M_TOP_PAD: 64 * MB,
}

_tuned = False


def tune_allocator() -> bool:
    """Set glibc's malloc for large tensors, in this process; to be called before tensors are made.

    The commands and their worker processes do it by themselves. The price is memory: up to 2 GB of what was freed stay
    with the process until ``release_memory``.

    Returns:
        Whether it is set: not without glibc (macOS, Windows, musl), nor with ``PETIOLE_ALLOCATOR=off``.
    """
    global _tuned
    libc = _glibc()
    if libc is None or os.environ.get(SWITCH, "").lower() == "off":
        return False
    if not _tuned:
        taken = [libc.mallopt(key, value) for key, value in SETTINGS.items()]
        _tuned = all(one == 1 for one in taken)
    return _tuned


def tune_collector() -> None:
    """Let Python look for unreachable objects after each 10,000 new ones instead of 700 (gen. 0; the older ones as they are).

    Importing torch and its companions makes half a million objects that stay, and every full look goes through all of them: a tenth
    of the processor time of ``petiole predict`` on one image. The commands do this; who imports petiole decides for themselves.
    """
    _, *older = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *older)


def release_memory() -> None:
    """Give what is free in the heap back to the kernel, between two phases; nothing where malloc was not set."""
    libc = _glibc()
    if _tuned and libc is not None:
        libc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """The C library of this process, if it is glibc."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None

"""Processes: which of several that train one model together this is, as ``torchrun`` and ``accelerate launch`` tell it; how one ended."""

from __future__ import annotations

import os
import signal


def world() -> int:
    """How many processes were started together: WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0 on: RANK."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def is_main() -> bool:
    """Whether this is the one that writes and prints."""
    return rank() == 0


def how_it_ended(code: int | None) -> str:
    """An exit code as ``subprocess`` and ``multiprocessing`` give it, for people."""
    if code is None:
        return "does not answer any more"
    if code >= 0:
        return f"ended with code {code}"
    short = ", as the kernel does where memory runs out" if code == -signal.SIGKILL else ""
    return f"was ended by {signal.Signals(-code).name}{short}"

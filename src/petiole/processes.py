"""Which of several processes that train one model together this is, as ``torchrun`` and ``accelerate launch`` tell it."""

from __future__ import annotations

import os


def world() -> int:
    """How many processes were started together: WORLD_SIZE."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Which of them this is, from 0 on: RANK."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def is_main() -> bool:
    """Whether this is the one that writes and prints."""
    return rank() == 0

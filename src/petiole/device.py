"""Which device is meant."""

from __future__ import annotations

import os

from petiole.processes import world


def device(name: str) -> str:
    """``auto`` is CUDA where there is a device, else the CPU; of processes that train together each has its own device."""
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and world() > 1 else name

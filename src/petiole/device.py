"""Which device is meant."""

from __future__ import annotations

import os
from pathlib import Path

from petiole.processes import world


def device(name: str) -> str:
    """``auto`` is CUDA where there is a device, else the CPU; of processes that train together each has its own device."""
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and world() > 1 else name


def bf16_unit(name: str) -> str | None:
    """What computes in bf16 on a device, so that ``--precision bf16`` is worth a thought; ``None`` where nothing does.

    Args:
        name: of the device, as ``device`` gives it.
    """
    if name.startswith("cuda"):
        import torch

        return "this GPU" if torch.cuda.is_bf16_supported(including_emulation=False) else None
    flags = Path("/proc/cpuinfo")
    if name != "cpu" or not flags.is_file():
        return None
    known = flags.read_text()
    return next((unit for unit in ("amx_bf16", "avx512_bf16") if unit in known), None)

"""Which device is meant."""

from __future__ import annotations


def device(name: str) -> str:
    """``auto`` is CUDA where there is a device, else the CPU."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"

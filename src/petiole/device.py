"""Which device is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from petiole.processes import world

Precision = Literal["fp32", "bf16", "fp16"]
"""In which matrix products are computed; what is trained stays fp32."""


def device(name: str) -> str:
    """``auto`` is CUDA where there is a device, else the CPU; of processes that train together each has its own device."""
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if name == "cuda" and world() > 1 else name


def narrow_unit(name: str) -> tuple[Precision, str] | None:
    """The narrower precision that a device computes faster in, and what does so there; ``None`` where nothing does.

    GPUs before Ampere (T4, V100) have fp16 alone.

    Args:
        name: of the device, as ``device`` gives it.
    """
    if name.startswith("cuda"):
        import torch

        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU"
        return ("fp16", "this GPU") if torch.cuda.get_device_capability(name) >= (7, 0) else None
    flags = Path("/proc/cpuinfo")
    if name != "cpu" or not flags.is_file():
        return None
    known = flags.read_text()
    unit = next((unit for unit in ("amx_bf16", "avx512_bf16") if unit in known), None)
    return ("bf16", unit) if unit else None


def cuda_arithmetic() -> dict[str, str]:
    """How CUDA computes here, as torch is set: what may differ between two machines of one program. Nothing without a GPU.

    torch's own settings are left as they are: products of matrices in fp32, convolutions in TF32 (10 bits of mantissa) where the
    GPU has it, algorithms of cuDNN without a trial. ``torch.backends.cudnn.conv.fp32_precision = "ieee"`` makes convolutions fp32.
    """
    import torch

    if not torch.cuda.is_available():
        return {}
    matmul: Any = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    if hasattr(matmul, "fp32_precision"):
        tf32 = [matmul.fp32_precision == "tf32", cudnn.conv.fp32_precision == "tf32"]
    else:  # torch before 2.9
        tf32 = [matmul.allow_tf32, cudnn.allow_tf32]
    places = [place for place, on in zip(("products", "convolutions"), tf32, strict=True) if on]
    where = " and ".join(places)
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": str(torch.version.cuda),
        "cudnn": str(cudnn.version()),
        "tf32": f"in {where}" if where else "nowhere",
        "cudnn algorithms": "by trial" if cudnn.benchmark else "without a trial",
    }

"""Weights in and out of modules: strict, complete, never unpickled, and with a fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from petiole.errors import BackboneError

COUNTER = "num_batches_tracked"
"""BatchNorm's count of training steps: no output depends on it, and converted files lack it."""

PACKAGED = Path(__file__).parent / "weights"
"""Where the distribution petiole-weights puts its files; a checkout has them."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted (name, dtype, shape, bytes): equal exactly when the weights are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith(COUNTER):
            continue
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that describes weights.

    Raises:
        BackboneError: the file is missing or damaged.
    """
    _check_installed(path)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path} cannot be read ({error}). Fetch it again.") from error
    if not isinstance(found, dict):
        raise BackboneError(f"{path} holds no JSON object. Fetch it again.")
    return found


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        BackboneError: the file is missing, truncated or of another format.
    """
    if not path.is_file():
        _check_installed(path)
        raise BackboneError(f"No weights at {path}. Give the path of a .safetensors file.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise BackboneError(
            f"{path} is not a complete safetensors file ({error}). "
            "Download it again, or convert a .pth file with safetensors.torch.save_file."
        ) from error


def _check_installed(path: Path) -> None:
    if path.is_relative_to(PACKAGED) and not path.is_file():
        raise BackboneError(
            f"The weights of the packaged models are not installed ({path.name} is missing). Install: pip install "
            "petiole-weights, or in a checkout: pip install ./packaging/weights"
        )


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Copy ``tensors`` into ``module``, every one of them, in the module's own dtype.

    Only BatchNorm's training counters may be absent.

    Raises:
        BackboneError: a tensor is missing, left over or of another shape. A partial load is
            never accepted, because it would leave random weights behind.
    """
    own = module.state_dict()
    missing = sorted(k for k in own.keys() - tensors.keys() if not k.endswith(COUNTER))
    extra = sorted(tensors.keys() - own.keys())
    wrong = sorted(
        f"{k}: file {tuple(tensors[k].shape)}, model {tuple(own[k].shape)}"
        for k in own.keys() & tensors.keys()
        if tensors[k].shape != own[k].shape
    )
    if missing or extra or wrong:
        parts = [
            f"{len(rows)} {what} ({', '.join(rows[:4])}{', ...' if len(rows) > 4 else ''})"
            for what, rows in (("missing", missing), ("unexpected", extra), ("misshapen", wrong))
            if rows
        ]
        raise BackboneError(
            f"The weights in {origin} do not fit the architecture: {'; '.join(parts)}. "
            "Name the architecture that these weights were saved from."
        )
    counters = {k: v for k, v in own.items() if k.endswith(COUNTER)}
    module.load_state_dict({**counters, **tensors}, strict=True)

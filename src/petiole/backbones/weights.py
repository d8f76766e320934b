"""Weights in and out of modules: strict, complete, never unpickled, and with a fingerprint."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from petiole.errors import BackboneError, boundary
from petiole.layers.packed import dense

COUNTER = "num_batches_tracked"
"""BatchNorm's count of training steps: no output depends on it, and converted files lack it."""

PACKAGED = Path(__file__).parent / "weights"
"""Where the distribution petiole-weights puts its files; a checkout has them."""


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over sorted (name, dtype, shape, bytes): equal exactly when the weights are; packed ones as what they stand for."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if name.endswith(COUNTER):
            continue
        tensor = dense(tensors[name].detach()).cpu().contiguous()
        digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that describes weights.

    Raises:
        BackboneError: the file is missing or damaged.
    """
    _check_installed(path)
    with boundary(path, "Fetch it again.", BackboneError):
        found = json.loads(path.read_text(encoding="utf-8"))
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
    remedy = "Download it again, or convert a .pth file with safetensors.torch.save_file."
    with boundary(path, remedy, BackboneError, what="is not a complete safetensors file"):
        return load_file(path)


def _check_installed(path: Path) -> None:
    if path.is_relative_to(PACKAGED) and not path.is_file():
        raise BackboneError(
            f"The weights of the packaged models are not installed ({path.name} is missing). Install: pip install "
            "petiole-weights, or in a checkout: pip install ./packaging/weights"
        )


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], origin: str, heads: Sequence[str] = ()
) -> None:
    """Copy ``tensors`` into ``module``, every one of them, in the module's own dtype.

    A prefix that all of the module's names have in the file is taken off. Only BatchNorm's training counters may be absent.

    Args:
        heads: first names of what the file may hold beside the module: classifiers, which a backbone has no use for.

    Raises:
        BackboneError: a tensor is missing, left over or of another shape. A partial load is
            never accepted, because it would leave random weights behind.
    """
    own = module.state_dict()
    tensors = without_prefix(tensors, own)
    tensors = {k: v for k, v in tensors.items() if k in own or k.split(".")[0] not in heads}
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
            f"The weights in {origin} do not fit the architecture: {'; '.join(parts)}. {remedy(own, tensors)}"
        )
    counters = {k: v for k, v in own.items() if k.endswith(COUNTER)}
    module.load_state_dict({**counters, **tensors}, strict=True)


def without_prefix(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """The tensors under the names of ``own``, if all of these stand behind one prefix (``module.``, ``model.``, ...).

    What stands beside the prefix (a head of a fine-tuned model) keeps its name.
    """
    wanted = {key for key in own if not key.endswith(COUNTER)}
    some = next(iter(sorted(wanted)), "")
    for key in sorted(tensors):
        prefix = key.removesuffix(some)
        behind = some and key.endswith(f".{some}")
        if behind and all(prefix + each in tensors for each in wanted):
            return {k.removeprefix(prefix): v for k, v in tensors.items()}
    return dict(tensors)


def remedy(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """What to do, as far as two sets of names and shapes tell."""
    shared = own.keys() & tensors.keys()
    if not shared:
        kind = next((kind for mark, kind in LAYOUTS.items() if any(mark in k for k in tensors)), "")
        return (
            f"They have no name in common; the file's begin with {', '.join(sorted(tensors)[:2]) or 'nothing'}"
            + (f", as {kind} writes them" if kind else "")
            + ". Name the architecture that these weights were saved from, or give the folder that they came in."
        )
    found = []
    depths = _depth(tensors), _depth(own)
    if depths[0] != depths[1]:
        found.append(f"the file has {depths[0]} blocks and this architecture {depths[1]}")
    if any("reg" in k for k in tensors.keys() - own.keys()):
        found.append("the file has register tokens, and this architecture has none")
    if any("reg" in k for k in own.keys() - tensors.keys()):
        found.append("this architecture has register tokens, and the file has none")
    if len(tables := _other_tables(own, tensors)) == len(
        [k for k in shared if own[k].shape != tensors[k].shape]
    ):
        found += [
            f"its position table is for {have} tokens, not for {want}" for have, want in tables
        ]
    else:
        widths = (
            {t.shape[-1] for t in tensors.values() if t.ndim == 1},
            {t.shape[-1] for t in own.values() if t.ndim == 1},
        )
        if widths[0] and widths[1] and max(widths[0]) != max(widths[1]):
            found.append(
                f"the file's layers are up to {max(widths[0])} wide and this architecture's {max(widths[1])}"
            )
    told = f"As it seems, {'; '.join(found)}. " if found else ""
    return f"{told}Name the architecture that these weights were saved from."


LAYOUTS = {
    "visual.trunk.": "open_clip, around a network of timm,",
    "visual.transformer.": "OpenAI or open_clip",
    "vision_model.": "transformers (CLIP, SigLIP)",
    "encoder.layer": "transformers",
    "blocks.0.attn.qkv": "timm",
    "layer1.0.conv1": "timm or torchvision (ResNet)",
}
"""Parts of names that tell who wrote a file."""


def _depth(tensors: Mapping[str, Tensor]) -> int:
    """Blocks: how many numbers follow the name that most tensors begin with."""
    numbers: dict[str, set[str]] = {}
    for key in tensors:
        if found := re.match(r"(.*?)\.(\d+)\.", key):
            numbers.setdefault(found[1], set()).add(found[2])
    return max(map(len, numbers.values()), default=0)


def _other_tables(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> list[tuple[int, int]]:
    """Tokens of position tables that differ in nothing else: in the file, in the module."""
    return [
        (tensors[k].shape[-2], own[k].shape[-2])
        for k in sorted(own.keys() & tensors.keys())
        if "pos" in k
        and own[k].ndim >= 2
        and tensors[k].shape != own[k].shape
        and tensors[k].ndim == own[k].ndim
        and tensors[k].shape[-1] == own[k].shape[-1]
    ]

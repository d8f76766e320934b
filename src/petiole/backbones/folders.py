"""The weights of a model folder, in whichever form its library saved them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from petiole.backbones.torchscript import read_checkpoint
from petiole.backbones.weights import read_json, read_safetensors
from petiole.errors import BackboneError

NAMES = ("model.safetensors", "open_clip_model.safetensors")
SHARDS = "model.safetensors.index.json"
OLD = ("pytorch_model.bin", "open_clip_pytorch_model.bin")


def read_weights(folder: Path, weights: Path | None = None) -> tuple[Mapping[str, Tensor], str]:
    """Every tensor of a folder by name, and the file that it came from; nothing is unpickled.

    Args:
        weights: a file to read instead.

    Raises:
        BackboneError: there is none, or it is damaged.
    """
    if weights is not None:
        whole = read_safetensors if weights.suffix == ".safetensors" else read_checkpoint
        return whole(weights), str(weights)
    if (index := folder / SHARDS).is_file():
        parts = sorted(set(read_json(index).get("weight_map", {}).values()))
        if odd := [part for part in parts if Path(part).name != part]:
            raise BackboneError(f"{index} points out of its folder ({odd[0]}). Fetch it again.")
        tensors = {k: t for part in parts for k, t in read_safetensors(folder / part).items()}
        return tensors, str(index)
    for name in NAMES:
        if (folder / name).is_file():
            return read_safetensors(folder / name), str(folder / name)
    for name in OLD:
        if (folder / name).is_file():
            return read_checkpoint(folder / name), str(folder / name)
    raise BackboneError(
        f"{folder} has no weights ({', '.join((*NAMES, SHARDS, *OLD))}). Copy them from where the model came from."
    )

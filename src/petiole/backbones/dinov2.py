"""A folder with a Hugging Face ``Dinov2Model``: config.json and model.safetensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from petiole.backbones.base import Backbone, Site
from petiole.backbones.registry import Request, folder_loader
from petiole.backbones.transformer import Branches, Parts, Transformer
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

if TYPE_CHECKING:
    from transformers import Dinov2Config, Dinov2Model

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}  # PIL's numbering


@folder_loader("dinov2")
def load(request: Request) -> Backbone:
    """Load a ``Dinov2Model`` folder; preprocessing comes from its preprocessor_config.json.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    from transformers import Dinov2Config, Dinov2Model

    folder = Path(request.name)
    config = Dinov2Config(**json.loads((folder / "config.json").read_text()))
    with torch.device("meta" if request.meta else "cpu"):
        module = Dinov2Model(config)
    if not request.meta:
        file = request.weights or folder / "model.safetensors"
        tensors = {k.removeprefix("dinov2."): v for k, v in read_safetensors(file).items()}
        load_strictly(module, {_current(k): v for k, v in tensors.items()}, str(file))
    return wrap(request.name, module, _preprocessing(folder, config, request.image_size))


def wrap(name: str, module: Dinov2Model, preprocessing: Preprocessing) -> Transformer:
    """Turn a ``Dinov2Model`` into a backbone."""

    def tokenise(images: Tensor) -> Tensor:
        tokens: Tensor = module.embeddings(images)
        return tokens

    width = module.config.hidden_size
    blocks = []
    for layer in module.encoder.layer:
        a = layer.attention
        q, k, v = (Site(linear, "out", width) for linear in (a.q_proj, a.k_proj, a.v_proj))
        blocks.append(
            Branches(
                layer, a, q, k, v, layer.layer_scale1, layer.norm2, layer.mlp, layer.layer_scale2
            )
        )
    parts = Parts(
        tokenise=tokenise,
        blocks=blocks,
        norm=module.layernorm,
        prefix=1,
        has_cls=True,
        block_prefix="encoder.layer.",
        norm_prefix="layernorm.",
    )
    return Transformer(name, module, preprocessing, width, parts)


def _current(key: str) -> str:
    """Checkpoints written before transformers 5 nest the projections one level deeper."""
    for old, new in (
        ("attention.attention.query", "attention.q_proj"),
        ("attention.attention.key", "attention.k_proj"),
        ("attention.attention.value", "attention.v_proj"),
        ("attention.output.dense", "attention.o_proj"),
    ):
        key = key.replace(old, new)
    return key


def _preprocessing(folder: Path, config: Dinov2Config, image_size: int | None) -> Preprocessing:
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        raise BackboneError(
            f"{folder} has no preprocessor_config.json, so the size and colours that these weights "
            "expect are unknown. Copy it from where the model came from."
        )
    stated: dict[str, Any] = json.loads(file.read_text())
    crop = stated.get("crop_size") or stated["size"]
    size = image_size or (crop["height"] if isinstance(crop, dict) else int(crop))
    if size % config.patch_size:
        raise BackboneError(
            f"{folder} cuts images into {config.patch_size} px patches; {size} does not fit. "
            f"Use a multiple, e.g. {max(1, round(size / config.patch_size)) * config.patch_size}."
        )
    resized = stated["size"].get("shortest_edge", size) if image_size is None else None
    return Preprocessing(
        size=(size, size),
        crop=size / resized if resized else 0.875,
        interpolation=_RESAMPLE[stated.get("resample", 3)],  # type: ignore[arg-type]
        mean=tuple(stated["image_mean"]),
        std=tuple(stated["image_std"]),
    )

"""A folder with a Hugging Face ``Dinov2Model``: config.json and model.safetensors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from petiole.backbones.base import Backbone, Site
from petiole.backbones.registry import Request, folder_loader
from petiole.backbones.transformer import Branches, Parts, Transformer, first_cut, whole_patches
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.data.preprocessing import Interpolation, Preprocessing
from petiole.errors import BackboneError

if TYPE_CHECKING:
    from transformers import Dinov2Config, Dinov2Model

_RESAMPLE: dict[int, Interpolation] = {
    0: "nearest",
    1: "lanczos",
    2: "bilinear",
    3: "bicubic",
}  # PIL's numbering


@folder_loader("dinov2")
def load(request: Request) -> Backbone:
    """Load a ``Dinov2Model`` folder; preprocessing comes from its preprocessor_config.json.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    from transformers import Dinov2Config, Dinov2Model

    folder = Path(request.name)
    config = Dinov2Config(**read_json(folder / "config.json"))
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
                block=layer,
                attn_in=Site(a, "in", width),
                q=q,
                k=k,
                v=v,
                attn_out=layer.layer_scale1,
                norm2=layer.norm2,
                mlp=layer.mlp,
                hidden=getattr(layer.mlp, "fc1", None),
                mlp_out=layer.layer_scale2,
            )
        )
    parts = Parts(
        tokenise=tokenise,
        embed=module.embeddings.patch_embeddings,
        blocks=blocks,
        norm=module.layernorm,
        prefix=1,
        pool=None,
        block_prefix="encoder.layer.",
        top_prefixes=("layernorm.",),
        first_cut=first_cut(len(blocks)),
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
    stated = read_json(file)
    try:
        resized = _side(stated["size"])
        cropped = _side(stated["crop_size"]) if stated.get("do_center_crop", True) else resized
        mean, std = tuple(stated["image_mean"]), tuple(stated["image_std"])
        interpolation = _RESAMPLE[stated.get("resample", 3)]
    except (KeyError, TypeError) as error:
        raise BackboneError(
            f"{file} does not state size, crop_size, image_mean, image_std and a known resample "
            f"({type(error).__name__}: {error}). Copy it from where the model came from."
        ) from error
    size = whole_patches(
        str(folder), cropped if image_size is None else image_size, config.patch_size
    )
    return Preprocessing(
        size=(size, size), crop=cropped / resized, interpolation=interpolation, mean=mean, std=std
    )


def _side(size: int | dict[str, int]) -> int:
    """Older files state a number, newer ones the shortest edge or height and width."""
    if isinstance(size, int):
        return size
    return size["shortest_edge"] if "shortest_edge" in size else size["height"]

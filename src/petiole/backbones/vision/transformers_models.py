"""Folders of transformers' image models: ViT, DeiT, DINOv2 with registers, DINOv3 (ViT and ConvNeXt), BEiT, Swin, ConvNeXt and kin.

The library builds the model and reads its weights, old names and all; here the reading is held to be complete. A fine-tuned
model's head is left out. Roles are those of ``block_roles.toml``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.folders import read_weights
from petiole.backbones.preprocessor import quiet, read_preprocessor
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.block_network import BlockNetwork
from petiole.backbones.vision.trace import traced
from petiole.backbones.weights import remedy
from petiole.errors import BackboneError, first_line

HEADS = (
    "classifier",
    "cls_classifier",
    "distillation_classifier",
    "head",
    "fc",
    "decoder",
    "lm_head",
)
"""First names of what a fine-tuned model has beside its network."""
UNPOOLED = ("vit", "deit")
"""Models whose vector is the class token: their dense pooler is not in every file, and no classifier reads it."""
LEFT_OUT = (*UNPOOLED, "data2vec-vision")
"""Models without a pooler whose files may have one; that of Data2Vec lies in fine-tuned ones, between network and head."""


@folder_loader(
    "vit",
    "deit",
    "dinov2_with_registers",
    "dinov3_vit",
    "dinov3_convnext",
    "beit",
    "data2vec-vision",
    "convnext",
    "convnextv2",
    "swin",
    "swinv2",
    "hiera",
    "pvt_v2",
    "resnet",
    "regnet",
    "mobilenet_v2",
    "efficientnet",
    "focalnet",
)
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A folder of an image model.

    Raises:
        BackboneError: a file is missing or does not fit, or the model does not take images of that size.
    """
    assert folder is not None  # no shape of these is built in
    module = model(request, config, folder)
    preprocessing = read_preprocessor(folder, request.image_size)
    found = traced(request.name, module, run, preprocessing.size)
    return BlockNetwork(request.name, module, preprocessing, run, found)


def run(module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """The last hidden state, and the pooled output or, where there is none, the class token or the mean of a map."""
    options = {}
    if module.config.model_type in UNPOOLED:
        own = module.config.image_size
        sides = tuple(own) if isinstance(own, (tuple, list)) else (own, own)
        options["interpolate_pos_encoding"] = tuple(images.shape[2:]) != sides
    out = module(images, **options)
    features: Tensor = out.last_hidden_state
    vector: Tensor | None = getattr(out, "pooler_output", None)
    if vector is not None:
        return features, vector.flatten(1)
    return features, features[:, 0] if features.ndim == 3 else features.mean(dim=(2, 3))


def model(request: LoadRequest, config: dict[str, Any], folder: Path) -> nn.Module:
    """Build what config.json states and, unless it is only a shape, fill it.

    Raises:
        BackboneError: the library cannot build it, or the weights are not all of it.
    """
    from transformers import AutoConfig, AutoModel

    stated = {key: value for key, value in config.items() if key != "model_type"}
    built = AutoConfig.for_model(config["model_type"], **stated)
    built.dtype = torch.float32
    options = {"add_pooling_layer": False} if built.model_type in UNPOOLED else {}
    with torch.device("meta"):
        shape: nn.Module = AutoModel.from_config(built, **options)
    if request.meta:
        return shape
    tensors, origin = read_weights(folder, request.weights)
    heads = HEADS + (("pooler",) if built.model_type in LEFT_OUT else ())
    tensors = {k: t for k, t in tensors.items() if not set(k.split(".")[:2]) & set(heads)}
    try:
        with quiet():
            module, info = type(shape).from_pretrained(  # type: ignore[attr-defined]
                None,
                config=built,
                state_dict=tensors,
                output_loading_info=True,
                dtype=torch.float32,
                **options,
            )
    except (RuntimeError, ValueError, KeyError) as error:
        raise BackboneError(
            f"The weights in {origin} do not fit the architecture ({first_line(error)}). "
            f"{remedy(shape.state_dict(), tensors)}"
        ) from error
    rows = [
        f"{len(info[f'{what}_keys'])} {word} ({', '.join(map(str, sorted(info[f'{what}_keys'])[:4]))})"
        for what, word in (
            ("missing", "missing"),
            ("unexpected", "unexpected"),
            ("mismatched", "misshapen"),
        )
        if info[f"{what}_keys"]
    ]
    if rows:
        raise BackboneError(
            f"The weights in {origin} do not fit the architecture: {'; '.join(rows)}. "
            f"{remedy(shape.state_dict(), tensors)}"
        )
    filled: nn.Module = module
    return filled

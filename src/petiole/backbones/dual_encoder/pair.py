"""A pair: any image backbone beside any sentence encoder, joined by two linear maps (locked-image tuning).

    v = P_v image(x),   e = P_t mean(text(t)),   s(x, t) = exp(logit_scale) cos(v, e)

For those without CLIP weights. A pair is a folder:

    config.json                {"model_type": "petiole-pair", "image": ..., "text": ...}
    projections.safetensors    text.weight (d, d_t), logit_scale; where they are wanted text.bias, image.weight, image.bias

``image`` is what ``petiole.load`` takes (``image_weights`` a file beside it), ``text`` a folder with a BERT or RoBERTa
encoder; relative paths begin at the pair's folder. ``petiole pair`` writes one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from petiole.backbones import registry
from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder import bert
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.backbones.dual_encoder.towers import ImageTower, TwoTowers
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.attention import patch_attention
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.errors import BackboneError

KIND = "petiole-pair"
PROJECTIONS = "projections.safetensors"
IMAGE_PROJECTION = "projections.image."


class PairConfig(BaseModel):
    """config.json of a pair.

    Attributes:
        image: of the image backbone.
        text: folder of the sentence encoder.
        image_weights: file, where the image backbone needs one.
        image_size: pixels, where it is not the backbone's own.
    """

    model_config = ConfigDict(extra="forbid")

    model_type: str = KIND
    image: str
    text: str
    image_weights: str | None = None
    image_size: int | None = None


class PairModule(nn.Module):
    """Both networks, their projections and the scale, under one set of names."""

    def __init__(self, image: nn.Module, text: nn.Module, projections: nn.ModuleDict) -> None:
        super().__init__()
        self.image, self.text, self.projections = image, text, projections
        self.logit_scale = nn.Parameter(torch.zeros(()))


@folder_loader(KIND)
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A folder with a pair.

    Raises:
        BackboneError: a part is missing or does not fit.
    """
    assert folder is not None  # no pair is built in
    try:
        stated = PairConfig.model_validate(config)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))} {e['msg']}" for e in error.errors())
        raise BackboneError(f"{folder}/config.json states no pair: {problems}.") from error
    image, text = halves(stated, folder, device="meta" if request.meta else "cpu")
    tensors = read_safetensors(request.weights or folder / PROJECTIONS)
    return join(request.name, image, text, tensors, FolderTokenizer(folder / stated.text))


def halves(stated: PairConfig, folder: Path, *, device: str) -> tuple[Backbone, Any]:
    """Both networks, with their weights.

    Raises:
        BackboneError: one cannot be loaded completely.
    """
    own = folder / stated.image
    image = registry.load_backbone(
        str(own) if own.is_dir() else stated.image,
        weights=folder / stated.image_weights if stated.image_weights else None,
        image_size=stated.image_size,
        device=device,
    )
    place = folder / stated.text
    text = bert.build(place, meta=device == "meta")
    if device != "meta":
        file = place / "model.safetensors"
        load_strictly(text, bert.own_tensors(read_safetensors(file)), str(file))
    return image, text


def join(
    name: str,
    image: Backbone,
    text: Any,
    tensors: Mapping[str, Tensor],
    tokenizer: FolderTokenizer | None,
) -> TwoTowers:
    """Make two towers of their halves.

    Args:
        tensors: of projections.safetensors.

    Raises:
        BackboneError: the projections do not fit, or the image's local tokens are of another width than
            its vector.
    """
    local = image.width_of(image.patches)
    if local != image.width:
        raise BackboneError(
            f"{image.name} has local tokens of {local} numbers and a vector of {image.width}; a pair needs "
            "one width. Choose a ViT or a network like EfficientNet or ResNet."
        )
    rest = {key: tensor for key, tensor in tensors.items() if key != "logit_scale"}
    try:
        projections = nn.ModuleDict({"text": _linear(rest, "text", int(text.config.hidden_size))})
        if "image.weight" in rest:
            projections["image"] = _linear(rest, "image", image.width)
        scale = tensors["logit_scale"]
    except KeyError as error:
        raise BackboneError(
            f"{name}/{PROJECTIONS} lacks {error.args[0]}. Make the pair again."
        ) from error
    load_strictly(projections, rest, f"{name}/{PROJECTIONS}")
    module = PairModule(image.module, text, projections)
    module.logit_scale.data = scale.float().reshape(())
    if image.is_meta:
        module.to("meta")
    tower = bert.tower(text, projections["text"], tokenizer)
    image_tower = ImageTower(
        image,
        projections["image"] if "image" in projections else nn.Identity(),
        patch_attention(image),
        prefix="image.",
        project_prefix=IMAGE_PROJECTION,
    )
    return TwoTowers(
        name,
        module,
        len(rest["text.weight"]),
        image_tower,
        tower,
        scale=module.logit_scale,
        text_prefixes=("text.", "projections.text.", "logit_scale"),
    )


def _linear(tensors: Mapping[str, Tensor], name: str, width: int) -> nn.Linear:
    """A map as its stored tensors are shaped; whether they fit is checked when they are loaded."""
    out = len(tensors[f"{name}.weight"])
    return nn.Linear(width, out, bias=f"{name}.bias" in tensors)

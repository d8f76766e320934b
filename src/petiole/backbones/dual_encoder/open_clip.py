"""A folder as open_clip writes it: ``open_clip_config.json`` and ``open_clip_model.safetensors``.

Plain CLIPs only (a vision transformer or a ResNet, and a causal text transformer); with a vision transformer they are the
same function as transformers' ``CLIPModel``. What the configuration states beyond that is refused rather than ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder import resnet_clip
from petiole.backbones.dual_encoder.clip import wrap
from petiole.backbones.dual_encoder.openai_names import (
    HEAD,
    clip_config,
    to_transformers,
    tokenizer_beside,
)
from petiole.backbones.folders import read_weights
from petiole.backbones.preprocessor import CLIP_COLOURS
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.weights import load_strictly
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

PLAIN = {
    "vision_cfg": {"layers", "width", "head_width", "patch_size", "image_size"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers"},
}
MODES: dict[str, Literal["center", "squash", "border"]] = {
    "shortest": "center",
    "squash": "squash",
    "longest": "border",
}
"""open_clip's words for how an image comes to its size."""
PREPARED = {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"}


@folder_loader("open_clip")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A plain CLIP of open_clip's.

    Raises:
        BackboneError: another architecture, or a file that is missing or does not fit.
    """
    from transformers import CLIPConfig, CLIPModel

    assert folder is not None  # no shape of open_clip's is built in
    model = config.get("model_cfg", {})
    _check_plain(request.name, model)
    act = "quick_gelu" if model.get("quick_gelu") else "gelu"
    vision, tokenizer = model["vision_cfg"], tokenizer_beside(folder, request.name)
    resnet = isinstance(vision["layers"], list)
    with torch.device("meta" if request.meta else "cpu"):
        module = (
            resnet_clip.build(model["embed_dim"], vision, model["text_cfg"], act)
            if resnet
            else CLIPModel(CLIPConfig(**_config(model, act)))
        )
    if not request.meta:
        tensors, origin = read_weights(folder, request.weights)
        if resnet:
            resnet_clip.fill(module, tensors, origin)
        else:
            load_strictly(module, to_transformers(tensors), origin)
    size = request.fixed_size(vision["image_size"])
    stated = prepared(config.get("preprocess_cfg", {}), size, request.name)
    if resnet:
        return resnet_clip.wrap(request, module, stated, tokenizer)
    return wrap(request.name, module, stated, tokenizer)


def prepared(stated: dict[str, Any], size: int, origin: str) -> Preprocessing:
    """The evaluation transform of a preprocess_cfg of open_clip's, for a model of this image size.

    Raises:
        BackboneError: it states what open_clip does not know.
    """
    given = {key: value for key, value in stated.items() if value is not None}
    odd = sorted(set(given) - PREPARED)
    mode = given.get("resize_mode", "shortest")
    odd += [] if mode in MODES else [f"resize_mode {mode}"]
    odd += [] if given.get("mode", "RGB") == "RGB" else [f"mode {given['mode']}"]
    if odd:
        raise BackboneError(
            f"{origin}: preprocess_cfg states {', '.join(odd)}, which "
            "petiole does not know, so images might be prepared otherwise than these weights expect."
        )
    colour = int(given.get("fill_color", 0))
    mean, std = (given.get(name, CLIP_COLOURS[name]) for name in ("mean", "std"))
    return Preprocessing(
        size=(size, size),
        crop=1.0,
        # open_clip takes any other word for bicubic too.
        interpolation="bilinear" if given.get("interpolation") == "bilinear" else "bicubic",
        mean=tuple(mean) if isinstance(mean, (list, tuple)) else (mean,) * 3,
        std=tuple(std) if isinstance(std, (list, tuple)) else (std,) * 3,
        crop_mode=MODES[mode],
        fill=(colour,) * 3,
    )


def _check_plain(name: str, model: dict[str, Any]) -> None:
    known = {"embed_dim", "quick_gelu", *PLAIN}
    odd = sorted(set(model) - known)
    for part, plain in PLAIN.items():
        odd += sorted(
            f"{part}.{key}"
            for key, v in model.get(part, {}).items()
            if key not in plain and v is not None
        )
    if odd or not set(PLAIN) <= set(model):
        raise BackboneError(
            f"{name} is no plain CLIP: its open_clip_config.json states {', '.join(odd) or 'no towers'}. Use "
            "its Hugging Face form, or a model such as ViT-B-16, ViT-L-14 or RN50."
        )


def _config(model: dict[str, Any], act: str) -> dict[str, Any]:
    vision = model["vision_cfg"]
    heads = vision["width"] // vision.get("head_width", HEAD)
    return clip_config(
        model["embed_dim"], text=model["text_cfg"], vision={**vision, "heads": heads}, act=act
    )

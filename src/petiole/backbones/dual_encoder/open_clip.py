"""A folder as open_clip writes it: ``open_clip_config.json`` and ``open_clip_model.safetensors``.

Plain CLIPs only (a vision transformer and a causal text transformer), which are the same function as transformers'
``CLIPModel``. What the configuration states beyond that is refused rather than ignored.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.clip import wrap
from petiole.backbones.dual_encoder.openai_names import (
    HEAD,
    clip_config,
    to_transformers,
    tokenizer_beside,
)
from petiole.backbones.preprocessor import CLIP_COLOURS
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

PLAIN = {
    "vision_cfg": {"layers", "width", "head_width", "patch_size", "image_size"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers"},
}


@folder_loader("open_clip")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A plain CLIP of open_clip's.

    Raises:
        BackboneError: another architecture, or a file that is missing or does not fit.
    """
    from transformers import CLIPConfig, CLIPModel

    assert folder is not None  # no shape of open_clip's is built in
    model = config.get("model_cfg", {})
    with torch.device("meta" if request.meta else "cpu"):
        module = CLIPModel(CLIPConfig(**_config(request.name, model)))
    size = request.fixed_size(module.config.vision_config.image_size)
    if not request.meta:
        file = request.weights or folder / "open_clip_model.safetensors"
        load_strictly(module, to_transformers(read_safetensors(file)), str(file))
    colours = config.get("preprocess_cfg", {})
    stated = Preprocessing(
        size=(size, size),
        crop=1.0,
        interpolation=colours.get("interpolation", "bicubic"),
        mean=tuple(colours.get("mean", CLIP_COLOURS["mean"])),
        std=tuple(colours.get("std", CLIP_COLOURS["std"])),
    )
    return wrap(request.name, module, stated, tokenizer_beside(folder, request.name))


def _config(name: str, model: dict[str, Any]) -> dict[str, Any]:
    known = {"embed_dim", "quick_gelu", *PLAIN}
    odd = sorted(set(model) - known)
    for part, plain in PLAIN.items():
        odd += sorted(f"{part}.{key}" for key in set(model.get(part, {})) - plain)
    if odd or not set(PLAIN) <= set(model):
        raise BackboneError(
            f"{name} is no plain CLIP: its open_clip_config.json states {', '.join(odd) or 'no towers'}. Use "
            "its Hugging Face form, or a model such as ViT-B-16 or ViT-L-14."
        )
    vision, text = model["vision_cfg"], model["text_cfg"]
    heads = vision["width"] // vision.get("head_width", HEAD)
    return clip_config(
        model["embed_dim"],
        text=text,
        vision={**vision, "heads": heads},
        act="quick_gelu" if model.get("quick_gelu") else "gelu",
    )

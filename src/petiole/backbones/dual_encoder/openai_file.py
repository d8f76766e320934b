"""``ViT-B-16.pt`` and its kin: OpenAI's own files, as the prompt-learning family keeps them in ``~/.cache/clip``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder import resnet_clip
from petiole.backbones.dual_encoder.clip import wrap
from petiole.backbones.dual_encoder.openai_names import (
    SIZES,
    config_of,
    joint_width,
    text_of,
    to_transformers,
    tokenizer_beside,
)
from petiole.backbones.preprocessor import CLIP_COLOURS
from petiole.backbones.registry import LoadRequest, file_loader
from petiole.backbones.torchscript import read_torchscript
from petiole.backbones.weights import load_strictly
from petiole.data.preprocessing import Preprocessing


@file_loader(".pt")
def load(request: LoadRequest) -> Backbone:
    """A CLIP out of OpenAI's TorchScript archive, none of whose code is run; weights in fp32.

    Raises:
        BackboneError: another file, or no tokenizer.
    """
    from transformers import CLIPConfig, CLIPModel

    file = Path(request.name)
    tensors = read_torchscript(file)
    if resnet_clip.is_resnet(tensors):
        return _resnet(request, tensors, file)
    with torch.device("meta" if request.meta else "cpu"):
        module = CLIPModel(CLIPConfig(**config_of(tensors, request.name)))
    size = request.fixed_size(module.config.vision_config.image_size)
    if not request.meta:
        whole = {name: tensor.float() for name, tensor in to_transformers(tensors).items()}
        load_strictly(module, whole, request.name)
    stated = Preprocessing(size=(size, size), crop=1.0, interpolation="bicubic", **CLIP_COLOURS)
    return wrap(request.name, module, stated, tokenizer_beside(file.parent, request.name))


def _resnet(request: LoadRequest, tensors: Mapping[str, Tensor], file: Path) -> Backbone:
    vision = resnet_clip.resnet_config(tensors)
    joint, text = joint_width(tensors, request.name), text_of(tensors, request.name)
    with torch.device("meta" if request.meta else "cpu"):
        module = resnet_clip.build(joint, vision, text, "quick_gelu")
    if not request.meta:
        kept = {key: tensor for key, tensor in tensors.items() if key not in SIZES}
        resnet_clip.fill(module, kept, request.name)
    size = request.fixed_size(vision["image_size"])
    stated = Preprocessing(size=(size, size), crop=1.0, interpolation="bicubic", **CLIP_COLOURS)
    return resnet_clip.wrap(request, module, stated, tokenizer_beside(file.parent, request.name))

"""``ViT-B-16.pt`` and its kin: OpenAI's own files, as the prompt-learning family keeps them in ``~/.cache/clip``."""

from __future__ import annotations

from pathlib import Path

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.clip import wrap
from petiole.backbones.dual_encoder.openai_names import config_of, to_transformers, tokenizer_beside
from petiole.backbones.preprocessor import CLIP_COLOURS
from petiole.backbones.registry import LoadRequest, file_loader
from petiole.backbones.torchscript import read_torchscript
from petiole.backbones.weights import load_strictly
from petiole.data.preprocessing import Preprocessing


@file_loader(".pt")
def load(request: LoadRequest) -> Backbone:
    """A CLIP out of OpenAI's TorchScript archive, none of whose code is run; weights in fp32.

    Raises:
        BackboneError: another file, a ResNet, or no tokenizer.
    """
    from transformers import CLIPConfig, CLIPModel

    file = Path(request.name)
    tensors = read_torchscript(file)
    with torch.device("meta" if request.meta else "cpu"):
        module = CLIPModel(CLIPConfig(**config_of(tensors, request.name)))
    size = request.fixed_size(module.config.vision_config.image_size)
    if not request.meta:
        whole = {name: tensor.float() for name, tensor in to_transformers(tensors).items()}
        load_strictly(module, whole, request.name)
    stated = Preprocessing(size=(size, size), crop=1.0, interpolation="bicubic", **CLIP_COLOURS)
    return wrap(request.name, module, stated, tokenizer_beside(file.parent, request.name))

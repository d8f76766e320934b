"""Tiny backbones of every family, with random weights, built offline and seeded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import timm
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from transformers import Dinov2Config, Dinov2Model

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load_backbone
from petiole.backbones.vision import cnn, vit
from petiole.testing import dual_encoder
from petiole.testing.random_weights import (
    HF_PREPROCESSOR,
    images,
    preprocessing,
    seeded,
    shaken,
)

__all__ = [
    "DEPTH",
    "HEADS",
    "HF_CONFIG",
    "HF_PREPROCESSOR",
    "NAMES",
    "PATCH",
    "TIMM",
    "WIDTH",
    "build",
    "dinov2",
    "dinov2_folder",
    "images",
    "plain",
    "preprocessing",
    "registers",
    "resnet",
    "seeded",
    "shaken",
    "timm_vit",
    "two_towers",
    "without_class_token",
]

WIDTH, DEPTH, HEADS, PATCH = 24, 3, 3, 14
HF_CONFIG = {
    "model_type": "dinov2",
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "image_size": 28,
    "patch_size": PATCH,
    "layerscale_value": 0.5,
}


def timm_vit(**options: object) -> VisionTransformer:
    """A ViT of three blocks, with layer scale; ``options`` go to timm."""
    settings = {
        "img_size": 28,
        "patch_size": PATCH,
        "embed_dim": WIDTH,
        "depth": DEPTH,
        "num_heads": HEADS,
        "num_classes": 0,
        "init_values": 0.5,
        **options,
    }
    with seeded():
        return shaken(VisionTransformer(**settings))


def plain(name: str = "test/vit") -> Backbone:
    """A ViT."""
    return vit.wrap(name, timm_vit(), preprocessing())


def registers() -> Backbone:
    """A ViT with four registers, of any image size."""
    module = timm_vit(reg_tokens=4, dynamic_img_size=True)
    return vit.wrap("test/vit-registers", module, preprocessing())


def without_class_token() -> Backbone:
    """A ViT that averages its patches."""
    module = timm_vit(class_token=False, global_pool="avg", init_values=None)
    return vit.wrap("test/vit-pooled", module, preprocessing())


def resnet() -> Backbone:
    """A CNN, which has no blocks."""
    with seeded():
        module = shaken(timm.create_model("test_resnet", num_classes=0))
    return cnn.wrap("test/resnet", module, preprocessing(32))


def dinov2_folder(folder: Path, *, old_names: bool = False) -> Path:
    """Write a tiny Dinov2Model as Hugging Face does; ``old_names`` as transformers 4 did."""
    folder.mkdir(parents=True, exist_ok=True)
    with seeded():
        tensors = shaken(Dinov2Model(Dinov2Config(**HF_CONFIG))).state_dict()
    if old_names:
        for new, old in (
            ("attention.q_proj", "attention.attention.query"),
            ("attention.k_proj", "attention.attention.key"),
            ("attention.v_proj", "attention.attention.value"),
            ("attention.o_proj", "attention.output.dense"),
        ):
            tensors = {key.replace(new, old): value for key, value in tensors.items()}
    (folder / "config.json").write_text(json.dumps(HF_CONFIG))
    (folder / "preprocessor_config.json").write_text(json.dumps(HF_PREPROCESSOR))
    save_file(tensors, folder / "model.safetensors")
    return folder


def dinov2(folder: Path) -> Backbone:
    """A DINOv2 from a folder of Hugging Face, which is written."""
    return load_backbone(str(dinov2_folder(folder)))


def two_towers() -> Backbone:
    """A CLIP."""
    return dual_encoder.towers()


TIMM: dict[str, Callable[[], Backbone]] = {
    "vit": plain,
    "vit-registers": registers,
    "vit-pooled": without_class_token,
    "resnet": resnet,
    "clip": two_towers,
}
NAMES = (*TIMM, "dinov2")


def build(name: str, folder: Path) -> Backbone:
    """A fresh backbone by name; ``folder`` is written to by those that need one."""
    return dinov2(folder) if name == "dinov2" else TIMM[name]()

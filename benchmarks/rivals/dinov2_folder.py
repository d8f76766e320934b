"""A timm ViT's weights as the folder that transformers writes for a Dinov2Model."""

from __future__ import annotations

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import BitImageProcessor, Dinov2Config

NAMES = {
    "norm1": "norm1",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "ls2.gamma": "layer_scale2.lambda1",
}


def write_dinov2(weights: Path, out: Path, image_size: int) -> None:
    """Same network, other names: q, k and v apart, positions of ``image_size``."""
    source = timm.create_model(
        "vit_small_patch14_dinov2",
        pretrained=True,
        pretrained_cfg_overlay={"file": str(weights)},
        num_classes=0,
        img_size=image_size,
    )
    config = Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=image_size, patch_size=14
    )
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(out)
    save_file(renamed(source.state_dict()), out / "model.safetensors", {"format": "pt"})
    side = {"height": image_size, "width": image_size}
    half = [0.5, 0.5, 0.5]
    BitImageProcessor(
        size={"shortest_edge": image_size}, crop_size=side, image_mean=half, image_std=half
    ).save_pretrained(out)


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    new = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": torch.zeros(1, 384),
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    for block in range(12):
        old, name = f"blocks.{block}.", f"encoder.layer.{block}."
        for kind in ("weight", "bias"):
            parts = state[f"{old}attn.qkv.{kind}"].chunk(3)
            for part, value in zip(("query", "key", "value"), parts, strict=True):
                new[f"{name}attention.attention.{part}.{kind}"] = value
        for source, target in NAMES.items():
            for kind in ("", ".weight", ".bias"):
                if f"{old}{source}{kind}" in state:
                    new[f"{name}{target}{kind}"] = state[f"{old}{source}{kind}"]
    return {name: value.contiguous().float() for name, value in new.items()}

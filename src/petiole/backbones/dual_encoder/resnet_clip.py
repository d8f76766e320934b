"""CLIP with a ResNet (RN50 and its kin; Radford et al., 2021, section 2.4): the image tower is open_clip's, the text tower CLIP's.

    v = attention pool (x),   local tokens = W_c (W_v x_i + b_v) + b_c

x are the 2048-wide positions of the last stage. What the attention pool does to values it does to each of them for itself
(Zhou et al., 2022, "Extract free dense labels from CLIP"), so they lie in the joint space. No role lies inside.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.clip import text_tower
from petiole.backbones.dual_encoder.openai_names import HEAD, text_config, to_transformers
from petiole.backbones.dual_encoder.text_tower import Tokenizer
from petiole.backbones.dual_encoder.towers import ImageTower, TwoTowers
from petiole.backbones.registry import LoadRequest
from petiole.backbones.vision.attention import CosineAttention
from petiole.backbones.vision.block_network import BlockNetwork
from petiole.backbones.vision.trace import traced
from petiole.backbones.weights import load_strictly
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

SHRINKING = 32
"""Pixels to a side of a position in the last stage."""


class ResNetCLIP(nn.Module):
    """Both towers under one set of names."""

    def __init__(self, visual: nn.Module, text: Any) -> None:
        super().__init__()
        self.visual, self.text_model = visual, text.text_model
        self.text_projection = text.text_projection
        self.logit_scale = nn.Parameter(torch.zeros(()))


def is_resnet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether OpenAI's or open_clip's tensors are of such a model."""
    return "visual.layer1.0.conv1.weight" in tensors


def resnet_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """``layers``, ``width`` and ``image_size`` of the image tower, which the shapes of the tensors imply."""

    def blocks(stage: int) -> int:
        start = f"visual.layer{stage}."
        return len(
            {key.removeprefix(start).split(".")[0] for key in tensors if key.startswith(start)}
        )

    side = isqrt(len(tensors["visual.attnpool.positional_embedding"]) - 1)
    return {
        "layers": [blocks(stage) for stage in (1, 2, 3, 4)],
        "width": len(tensors["visual.layer1.0.conv1.weight"]),
        "image_size": SHRINKING * side,
    }


def build(joint: int, vision: Mapping[str, Any], text: Mapping[str, int], act: str) -> ResNetCLIP:
    """The module, with random weights.

    Raises:
        BackboneError: open_clip, which has the image tower, is not installed.
    """
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    try:
        from open_clip.modified_resnet import ModifiedResNet
    except ImportError as error:
        raise BackboneError(
            "A CLIP with a ResNet needs open_clip's image tower: pip install 'petiole[clip]'."
        ) from error
    width, size = vision["width"], vision["image_size"]
    heads = width * 32 // vision.get("head_width", HEAD)
    visual = ModifiedResNet(vision["layers"], joint, heads, size, width)
    stated = CLIPTextConfig(**text_config(text, act), projection_dim=joint)
    return ResNetCLIP(visual, CLIPTextModelWithProjection(stated))


def fill(module: ResNetCLIP, tensors: Mapping[str, Tensor], origin: str) -> None:
    """Load tensors of OpenAI's names, in fp32.

    Raises:
        BackboneError: they are not all of it.
    """
    images = {key: t for key, t in tensors.items() if key.startswith("visual.")}
    texts = to_transformers({key: t for key, t in tensors.items() if key not in images})
    whole = {key: tensor.float() for key, tensor in {**images, **texts}.items()}
    load_strictly(module, whole, origin)


def wrap(
    request: LoadRequest,
    module: ResNetCLIP,
    preprocessing: Preprocessing,
    tokenizer: Tokenizer | None,
) -> Backbone:
    """Turn it into a backbone."""
    found = traced(request.name, module, run, preprocessing.size)
    image = BlockNetwork(request.name, module, preprocessing, run, found)
    return TwoTowers(
        request.name,
        module,
        found.vector,
        ImageTower(image, nn.Identity(), CosineAttention()),
        text_tower(module.text_model, module.text_projection, tokenizer),
        scale=module.logit_scale,
        text_prefixes=("text_model.", "text_projection.", "logit_scale"),
    )


def run(module: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Local tokens (B, N, d) and the image vector (B, d), both in the joint space."""
    tower = module.visual
    stages = tower.stem(images)
    for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
        stages = stage(stages)
    vector: Tensor = tower.attnpool(stages)
    pool = tower.attnpool
    tokens: Tensor = pool.c_proj(pool.v_proj(stages.flatten(2).transpose(1, 2)))
    return tokens, vector

"""Which vector stands for an image: class token, patch mean, both, or attention over patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from petiole.backbones.base import Backbone
from petiole.layers.pool import AttentionPool, Concat, First, Mean

Representation = Literal["cls", "patch", "cls+patch", "attention"]


@dataclass(frozen=True)
class FeatureReading:
    """Final roles, the layer that makes one vector of them, and that vector's size."""

    reads: tuple[str, ...]
    pool: nn.Module
    width: int


def read(backbone: Backbone, representation: Representation, heads: int = 6) -> FeatureReading:
    """Plan how to read a backbone (Yong, 2026, rows of Table 3).

    ``cls`` is the backbone's own image vector: the class token of a ViT, the pooled feature of a
    CNN. Patches never include class or register tokens.

    Args:
        heads: of the attention pooling.
    """
    vector, patches = backbone.vector, backbone.patches
    if representation == "cls":  # all that every backbone has
        return FeatureReading((vector,), First(), backbone.width)
    inner = backbone.width_of(patches)
    match representation:
        case "patch":
            return FeatureReading((patches,), Mean(), inner)
        case "cls+patch":
            return FeatureReading((vector, patches), Concat(), backbone.width + inner)
        case "attention":
            return FeatureReading((patches,), AttentionPool(inner, heads), inner)

"""LayerNorm tuning: scales and shifts of all normalisation layers, and the head (Basu et al., 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.methods.peft.weights import Tuning, norms
from petiole.methods.registry import register


@register("layernorm", "scales and shifts of the normalisation layers")
@dataclass(frozen=True)
class LayerNormTuning(Tuning):
    """2 d parameters a LayerNorm; on a CNN the BatchNorms' (their statistics stay)."""

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        return norms(backbone)

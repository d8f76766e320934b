"""BitFit: every bias of the backbone, and the head (Ben Zaken et al., 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.methods.peft.weights import Tuning
from petiole.methods.registry import register


@register("bitfit", "the backbone's biases")
@dataclass(frozen=True)
class BitFit(Tuning):
    """Biases of projections and of normalisation layers."""

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        own = backbone.parameters_under()
        return tuple(name for name in own if name.rpartition(".")[2] == "bias")

"""Full and partial fine-tuning: copies of the backbone's own parameters are trained."""

from __future__ import annotations

from dataclasses import dataclass

from petiole.backbones.base import Backbone
from petiole.layers.heads import LinearHead
from petiole.methods.base import Method, Plan
from petiole.methods.registry import register


@register("full", "full fine-tuning, linear head", lr=1e-4)
@dataclass(frozen=True)
class FullFineTuning(Method):
    """Every parameter whose role starts with ``part`` is trained, with a linear head.

    BatchNorm statistics stay those of the pretraining, because the backbone stays in eval mode.

    Attributes:
        part: e.g. ``block.11`` or ``final.tokens``; empty for the whole backbone.
    """

    part: str = ""

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            tune=backbone.parameters_under(self.part),
        )

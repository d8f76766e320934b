"""Partial unfreezing: the chosen blocks, usually the last, and all that comes after the blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.base import Backbone
from petiole.methods.blocks import select
from petiole.methods.peft.weights import Tuning
from petiole.methods.registry import register


@register("partial", "fine-tuning of the last blocks", lr=1e-4, head_lr=10.0)
@dataclass(frozen=True)
class PartialFineTuning(Tuning):
    """Copies of whole blocks and of the final normalisation.

    Attributes:
        blocks: last:k | first:k | every:k | 0,3,7 | all.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-5, 1e-4, 3e-4)

    blocks: str = "last:1"

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        chosen = [f"block.{i}" for i in select(self.blocks, backbone)]
        parts = map(backbone.parameters_under, [*chosen, "final.tokens"])
        return tuple(name for part in parts for name in part)

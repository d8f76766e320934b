"""Full fine-tuning: copies of all of the backbone's parameters, or of one part's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.base import Backbone
from petiole.methods.peft.weights import Tuning
from petiole.methods.registry import register


@register("full", "full fine-tuning", lr=1e-4, head_lr=10.0)
@dataclass(frozen=True)
class FullFineTuning(Tuning):
    """Every parameter whose role starts with ``part``.

    The copies start from weights that are good already and the head from noise, so the head's rate
    is ten times theirs. ``--set layer_decay=0.75`` lowers the rate block by block towards the image.

    Attributes:
        part: e.g. ``block.11`` or ``final.tokens``; empty for the whole backbone.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (1e-5, 3e-5, 1e-4, 3e-4)

    part: str = ""

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        return backbone.parameters_under(self.part)

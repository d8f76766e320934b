"""Fine-tuning of the encoder in the continuous interface, bare or held near its start (LDIFS).

    VisionFT   L = CE(answers)                                              what CRAFT is without a codebook
    LDIFS      L = CE(answers) + lambda mean_l || Phi_l - Phi_l at the start ||^2   (Mukhoti et al., 2023)

Layers and lambda of LDIFS are ours: the features after each quarter of the encoder (spec craft.md, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.codebook_lvlm import LVLM
from petiole.methods.codebook.base import CRAFT, CodebookLossTerm, LVLMMethod
from petiole.methods.codebook.losses import (
    Captioning,
    FeatureAnchor,
    SigmoidContrast,
    SurrogateAlignment,
    with_weight,
)
from petiole.methods.registry import register


@register("vision-ft", "the encoder in the continuous interface", **CRAFT)
@register("ldifs", "the same, held near its features at the start", **CRAFT, anchor=1.0)
@dataclass(frozen=True)
class VisionFT(LVLMMethod):
    """Fine-tuning of the encoder of a continuous twin.

    Attributes:
        anchor: lambda.
        end: as for CRAFT.
        describe: factor of the loss on captions, so that it sees what CRAFT sees.
        wish: question that asks for one.
        contrast: factor of CRAFT's contrastive loss instead; without a codebook to hold z it runs away (docs/craft.md).
    """

    discrete: ClassVar[bool | None] = False

    encoder: str = "full"
    anchor: float = 0.0
    end: bool = False
    describe: float = 1.0
    wish: str = "describe ."
    contrast: float = 0.0

    def losses(self, model: LVLM) -> tuple[CodebookLossTerm, ...]:
        depth = model.tower.eye.depth
        ends = sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)})
        roles = tuple(f"block.{end - 1}.out" for end in ends)
        asked = model.tokenizer.split(self.wish) if model.tokenizer else []
        return with_weight(
            SurrogateAlignment(1.0, end=self.end),
            Captioning(self.describe, asked),
            SigmoidContrast(self.contrast),
            FeatureAnchor(self.anchor, roles),
        )

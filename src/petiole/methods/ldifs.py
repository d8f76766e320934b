"""Fine-tuning of the encoder in the continuous interface, bare or held near its start (LDIFS).

    VisionFT   L = CE(answers)                                              what CRAFT is without a codebook
    LDIFS      L = CE(answers) + lambda mean_l || Phi_l - Phi_l at the start ||^2   (Mukhoti et al., 2023)

Layers and lambda of LDIFS are ours: the features after each quarter of the encoder (spec craft.md, section 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.lvlm import LVLM
from petiole.methods.lvlm import CRAFT, LookTerm, LVLMMethod
from petiole.methods.lvlm_terms import Alignment, Contrastive, FeatureAnchor, weighed
from petiole.methods.registry import register


@register("vision-ft", "the encoder in the continuous interface", **CRAFT)
@register("ldifs", "the same, held near its features at the start", **CRAFT, anchor=1.0)
@dataclass(frozen=True)
class VisionFT(LVLMMethod):
    """Fine-tuning of the encoder of a continuous twin.

    Attributes:
        anchor: lambda.
        end: as for CRAFT.
        contrast: factor of the contrastive loss on captions, so that it sees what CRAFT sees.
    """

    discrete: ClassVar[bool | None] = False

    encoder: str = "full"
    anchor: float = 0.0
    end: bool = False
    contrast: float = 0.1

    def terms(self, model: LVLM) -> tuple[LookTerm, ...]:
        depth = model.tower.eye.depth
        ends = sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)})
        roles = tuple(f"block.{end - 1}.out" for end in ends)
        return weighed(
            Alignment(1.0, end=self.end),
            Contrastive(self.contrast),
            FeatureAnchor(self.anchor, roles),
        )

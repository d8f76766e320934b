"""Fine-tuning of a codebook model's encoder: CRAFT, and its rivals in the continuous interface.

    z = E(x),   z~ = z + sg[z^ - z],   z^ by the frozen residual quantiser

    CRAFT      L = L_SAL(M_s(P_s(z~), question), answer) + lambda_commit L_commit + lambda_con L_con  (arXiv 2602.19449)
    VisionFT   L = CE(answers)                                               what CRAFT is without a codebook
    LDIFS      L = CE(answers) + lambda mean_l || Phi_l - Phi_l at the start ||^2        (Mukhoti et al., 2023)

CRAFT tunes the encoder alone, so that it picks better entries of a frozen codebook. Language models never change, and
none but the surrogate M_s is needed: the tuned encoder serves every model over the same codebook. The paper trains all
of the encoder; ``encoder=lora-qkv`` or any other method for images is ours. Published: lambda_commit 0.1, lambda_con 0.1
for questions and 1.0 for classes; everything else of the training is not stated there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from petiole.backbones.codebook_lvlm import LVLM
from petiole.methods.base import Loss
from petiole.methods.codebook.base import CRAFT_RECIPE, CaptioningMethod, CodebookMethod
from petiole.methods.codebook.losses import (
    CodebookLossInputs,
    Commitment,
    FeatureAnchor,
    GeneralAnchor,
    SigmoidContrast,
    SurrogateAlignment,
    with_weight,
)
from petiole.methods.registry import register
from petiole.ranges import NonNegativeFloat


@register("craft", "CRAFT: the encoder alone, anchored to a frozen codebook", **CRAFT_RECIPE)
@register(
    "vision-ft-discrete",
    "CRAFT's encoder through the quantiser without its two anchors",
    **CRAFT_RECIPE,
    commit=0.0,
    contrast=0.0,
)
@dataclass(frozen=True)
class Craft(CodebookMethod):
    """Codebook-regulated fine-tuning.

    Attributes:
        sal: factor of L_SAL.
        targets: which tokens carry it.
        end: whether the end of an answer does. How long answers are is the language model's habit; an encoder that has to
            teach brevity loses sight of the rest (docs/craft.md).
        commit: lambda_commit.
        contrast: lambda_con; needs captions or labels, and a tower with heads.
        remember: factor of the commitment of general images to their old codes; ours, against forgetting.
    """

    encoder: str = "full"
    sal: NonNegativeFloat = 1.0
    targets: Literal["answer", "answer+question"] = "answer"
    end: bool = False
    commit: NonNegativeFloat = 0.1
    contrast: NonNegativeFloat = 0.1
    remember: NonNegativeFloat = 0.0

    @property
    def wants_general(self) -> bool:
        return self.remember > 0

    def losses(self, model: LVLM) -> tuple[Loss[CodebookLossInputs], ...]:  # noqa: ARG002
        return with_weight(
            SurrogateAlignment(self.sal, questions=self.targets == "answer+question", end=self.end),
            Commitment(self.commit),
            SigmoidContrast(self.contrast),
            GeneralAnchor(self.remember),
        )


@register("vision-ft", "the encoder in the continuous interface", **CRAFT_RECIPE)
@register("ldifs", "the same, held near its features at the start", **CRAFT_RECIPE, anchor=1.0)
@dataclass(frozen=True)
class VisionFT(CaptioningMethod):
    """Fine-tuning of the encoder of a continuous twin, which learns captions too, so that it sees what CRAFT sees.

    Layers and lambda of LDIFS are ours: the features after each quarter of the encoder.

    Attributes:
        anchor: lambda.
        contrast: factor of CRAFT's contrastive loss instead of captions; without a codebook to hold z it runs away
            (docs/craft.md).
    """

    discrete: ClassVar[bool | None] = False

    encoder: str = "full"
    anchor: NonNegativeFloat = 0.0
    contrast: NonNegativeFloat = 0.0

    def losses(self, model: LVLM) -> tuple[Loss[CodebookLossInputs], ...]:
        depth = model.tower.image_backbone.depth
        ends = sorted({max(1, round(depth * quarter / 4)) for quarter in (1, 2, 3, 4)})
        roles = tuple(f"block.{end - 1}.out" for end in ends)
        anchors = SigmoidContrast(self.contrast), FeatureAnchor(self.anchor, roles)
        return (*super().losses(model), *with_weight(*anchors))

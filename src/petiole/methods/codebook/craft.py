"""CRAFT (arXiv 2602.19449): only the encoder is tuned, so that it picks better entries of a frozen codebook.

    z = E(x),   z~ = z + sg[z^ - z],   z^ by the frozen residual quantiser
    L = L_SAL(M_s(P_s(z~), question), answer) + lambda_commit L_commit + lambda_con L_con

Language models never change, and none but the surrogate M_s is needed: the tuned encoder serves every model over the same
codebook. The paper trains all of the encoder; ``encoder=lora-qkv`` or any other method for images is ours. Published:
lambda_commit 0.1, lambda_con 0.1 for questions and 1.0 for classes; everything else of the training is not stated there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from petiole.backbones.codebook_lvlm import LVLM
from petiole.methods.codebook.base import CRAFT, CodebookLossTerm, LVLMMethod
from petiole.methods.codebook.losses import (
    Commitment,
    GeneralAnchor,
    SigmoidContrast,
    SurrogateAlignment,
    with_weight,
)
from petiole.methods.registry import register


@register("craft", "CRAFT: the encoder alone, anchored to a frozen codebook", **CRAFT)
@register(
    "vision-ft-discrete",
    "CRAFT's encoder through the quantiser without its two anchors",
    **CRAFT,
    commit=0.0,
    contrast=0.0,
)
@dataclass(frozen=True)
class Craft(LVLMMethod):
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
    sal: float = 1.0
    targets: Literal["answer", "answer+question"] = "answer"
    end: bool = False
    commit: float = 0.1
    contrast: float = 0.1
    remember: float = 0.0

    @property
    def wants_general(self) -> bool:
        return self.remember > 0

    def losses(self, model: LVLM) -> tuple[CodebookLossTerm, ...]:  # noqa: ARG002
        return with_weight(
            SurrogateAlignment(self.sal, questions=self.targets == "answer+question", end=self.end),
            Commitment(self.commit),
            SigmoidContrast(self.contrast),
            GeneralAnchor(self.remember),
        )

"""PromptSRC (Khattak et al., 2023b): independent prompts that are held close to the frozen model.

    L = CE + l_t mean|E_p - E_f| + l_i mean|v_p - v_f| + l_z KL( softmax(z_f) || softmax(z_p) ) / (B C)

p prompted, f frozen; all features of unit norm, l_t = 25, l_i = 10, l_z = 1. E_f is an ensemble of 60
sentences for each class, averaged before it is normalised. The weights of all epochs are averaged under a
Gaussian (``average_mean``, ``average_sd``).

Published training: SGD 0.0025, batches of 4; base to novel 20 epochs, depth 9, mean 15, sd 1; from ImageNet to
other data depth 3, mean 6, sd 10; few-shot 50 epochs, mean 30 and sd 30, or 45 and 5 on Cars, Flowers, Aircraft,
DTD and EuroSAT.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import l1_loss, normalize

from petiole.backbones.base import Backbone
from petiole.losses.distillation import distillation
from petiole.methods.base import Loss, LossInputs, Plan
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead
from petiole.methods.prompt_learning.deep_prompts import DeepPrompts
from petiole.methods.prompt_learning.templates import SIXTY
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import register
from petiole.ranges import NonNegativeFloat


class SelfRegularisation(Loss[LossInputs]):
    """Distance of prompted features and logits from the frozen model's.

    Args:
        head: of the prompted model.
        vector: role of the image vector.
        text, image, logits: l_t, l_i, l_z.
    """

    def __init__(
        self, head: TextHead, vector: str, text: float, image: float, logits: float
    ) -> None:
        super().__init__()
        self._head, self.vector = (head,), vector
        self.text, self.image, self.logits = text, image, logits
        self._frozen = (TextHead(head.towers, len(head.names), SentenceTemplate(templates=SIXTY)),)
        self._texts: Tensor | None = None

    @torch.no_grad()
    def begin(self) -> None:
        (frozen,), (head,) = self._frozen, self._head
        frozen.rename(head.names)
        self._texts = normalize(frozen.texts().mean(dim=1), dim=-1)

    def forward(self, inputs: LossInputs) -> Tensor:
        assert self._texts is not None
        (head,), texts = self._head, self._texts
        frozen = normalize(inputs.anchors[self.vector], dim=-1)
        ours = normalize(inputs.values[self.vector].float(), dim=-1)
        return (
            self.text * l1_loss(head.embeddings().float(), texts)
            + self.image * l1_loss(ours, frozen)
            + self.logits * distillation(inputs.logits, head.scale * frozen @ texts.T)
        )


@register(
    "promptsrc",
    "independent prompts held close to the frozen model",
    **PROMPT_LEARNING
    | {"lr": 2.5e-3, "batch_size": 4, "epochs": 20, "average_mean": 15.0, "average_sd": 1.0},
)
@dataclass(frozen=True)
class PromptSRC(DeepPrompts):
    """Self-regulating prompts.

    Attributes:
        text_weight, image_weight, logit_weight: l_t, l_i, l_z.
    """

    text_weight: NonNegativeFloat = 25.0
    image_weight: NonNegativeFloat = 10.0
    logit_weight: NonNegativeFloat = 1.0

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        plan = super().plan(backbone, classes)
        assert isinstance(plan.head, TextHead)
        weights = (self.text_weight, self.image_weight, self.logit_weight)
        loss = SelfRegularisation(plan.head, backbone.vector, *weights)
        return replace(plan, losses=(loss,), anchors=(backbone.vector,))

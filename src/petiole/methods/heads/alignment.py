"""Contrastive alignment as an extra loss: lambda * L_con(P(h')), with P dropped after training."""

from __future__ import annotations

from torch import Tensor, nn

from petiole.collective import gathered
from petiole.losses.contrastive import ContrastiveForm, Prototypes, contrastive
from petiole.methods.base import Loss, LossInputs


class Alignment(Loss[LossInputs]):
    """Pulls images of one class together across domains (CLS-Residual LoRA, Yong, 2026; forms c1 to c4 of L_con).

    Args:
        form: ``c1`` SupCon over all; ``c2`` SupCon across domains; ``c3`` target against source
            prototypes; ``c4`` NT-Xent over sampled cross-domain pairs.
        width, hidden, out: of the projector P = Linear(width, hidden), GELU, Linear(hidden, out).
        classes: K, for the prototypes of ``c3``.
        weight: lambda.
        temperature: T.
    """

    def __init__(
        self,
        form: ContrastiveForm,
        *,
        width: int,
        hidden: int,
        out: int,
        classes: int,
        weight: float,
        temperature: float,
    ) -> None:
        super().__init__(weight)
        self.form, self.temperature = form, temperature
        self.projector = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))
        self.prototypes = Prototypes(classes, out) if form == "c3" else None

    def forward(self, inputs: LossInputs) -> Tensor:
        # Of processes that train together each compares the whole batch.
        return contrastive(
            self.form,
            gathered(self.projector(inputs.vector)),
            gathered(inputs.labels),
            gathered(inputs.is_target),
            temperature=self.temperature,
            prototypes=self.prototypes,
        )

"""A run that teaches itself: targets from an average of its own weights."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn.functional import mse_loss

from petiole.errors import ConfigError
from petiole.losses.distillation import distillation
from petiole.methods.base import Loss, LossInputs, SelfTeacher


class SelfDistillation(Loss[LossInputs]):
    """t^2 KL(p_teacher || p_student) at temperature t, or the mean squared difference of the logits over t; the teacher is the average of the trained weights.

    The mean teacher of Tarvainen and Valpola (NeurIPS 2017) with the divergence of Hinton et al. (2015). Needs a recipe
    with ``average_decay`` and ``average_as=teacher``.

    Args:
        weight: lambda.
        temperature: t.
        measure: ``kl`` or ``mse``.
    """

    def __init__(
        self,
        weight: float = 1.0,
        temperature: float = 1.0,
        measure: Literal["kl", "mse"] = "kl",
    ) -> None:
        super().__init__(weight)
        self.temperature, self.measure = temperature, measure
        self._teacher: SelfTeacher | None = None

    def learn_from(self, teacher: SelfTeacher) -> None:
        """See ``SelfTaught``."""
        self._teacher = teacher

    def forward(self, step: LossInputs) -> Tensor:
        if self._teacher is None or step.again is None:
            raise ConfigError(
                "SelfDistillation has no teacher: train it with average_decay=0.999 and average_as=teacher."
            )
        with self._teacher.weights():
            _, logits = step.again()
        if self.measure == "mse":
            return mse_loss(step.logits, logits.float()) / self.temperature**2
        return distillation(step.logits, logits.float(), self.temperature)

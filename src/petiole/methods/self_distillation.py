"""A run that teaches itself: targets from an average of its own weights."""

from __future__ import annotations

from torch import Tensor

from petiole.errors import ConfigError
from petiole.losses.distillation import distillation
from petiole.methods.base import Loss, LossInputs, SelfTeacher


class SelfDistillation(Loss[LossInputs]):
    """t^2 KL(p_teacher || p_student) at temperature t, the teacher being the average of the trained weights.

    The mean teacher of Tarvainen and Valpola (NeurIPS 2017) with the divergence of Hinton et al. (2015). Needs a recipe
    with ``average_decay`` and ``average_as=teacher``.

    Args:
        weight: lambda.
        temperature: t.
    """

    def __init__(self, weight: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.weight, self.temperature = weight, temperature
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
        return distillation(step.logits, logits.float(), self.temperature)

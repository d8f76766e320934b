"""How far a model's answers lie from those of a frozen one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from petiole.errors import ConfigError


def distillation(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Kullback-Leibler divergence of the student from the teacher, a mean over all logits.

        L = T^2 KL( softmax(z_t / T) || softmax(z_s / T) ) / (B C)

    Args:
        student, teacher: logits (B, C); the teacher gets no gradient.
        temperature: T > 0.

    Returns:
        A scalar, in nats. Divided by B C, not by B, as the code of PromptSRC and PromptKD does; their
        weights only make sense with this.

    Raises:
        ConfigError: a temperature that is not positive.
        ValueError: logits of two shapes.

    Source: PromptSRC (Khattak et al., 2023), PromptKD (Li et al., 2024); T = 1 in the former.
    """
    if not temperature > 0:
        raise ConfigError(f"The temperature of distillation must be positive, not {temperature}.")
    if student.shape != teacher.shape:
        raise ValueError(
            f"Expected logits (B, C) of one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}."
        )
    ours = F.log_softmax(student.float() / temperature, dim=-1)
    theirs = F.log_softmax(teacher.detach().float() / temperature, dim=-1)
    total = F.kl_div(ours, theirs, reduction="sum", log_target=True)
    return total * temperature**2 / student.numel()

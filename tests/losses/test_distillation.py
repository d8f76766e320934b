"""Distillation against its formula, term by term, where no temperature hides a slip."""

from __future__ import annotations

import pytest
import torch

from petiole.errors import ConfigError
from petiole.losses.distillation import distillation


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_the_divergence_of_softened_answers_over_all_logits(temperature: float) -> None:
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(3, 5, generator=g, dtype=torch.float64) * 3 for _ in range(2))
    p, q = ((z / temperature).softmax(1) for z in (teacher, student))
    wanted = temperature**2 * (p * (p / q).log()).sum() / 15
    found = distillation(student, teacher, temperature)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    assert float(distillation(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-6)


def test_the_teacher_learns_nothing() -> None:
    student, teacher = (torch.randn(2, 3, requires_grad=True) for _ in range(2))
    distillation(student, teacher, 2.0).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().max() > 0


def test_what_cannot_be_compared_is_refused() -> None:
    z = torch.zeros(2, 3)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match="must be positive"):
            distillation(z, z, temperature)
    with pytest.raises(
        ValueError, match=r"\(2, 3\) and \(1, 3\)"
    ):  # which would be spread over the batch
        distillation(z, z[:1])

"""Calibration against simulation: exchangeable scores are covered as promised, temperatures are found again."""

from __future__ import annotations

import math

import numpy as np
import pytest

from petiole.metrics.calibration import (
    conformal_bound,
    conformal_rank,
    label_scores,
    risk_coverage,
    temperature,
    thinned,
)


def drawn(n: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose softmax at T = ``scale`` is the law of the labels."""
    rng = np.random.default_rng(seed)
    z = rng.normal(0, 2, (n, 4))
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return scale * z, (p.cumsum(1) < rng.random((n, 1))).sum(1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_the_temperature_of_the_labels_is_found(scale: float) -> None:
    assert temperature(*drawn(4000, scale)) == pytest.approx(scale, rel=0.08)


def test_few_images_that_are_all_right_leave_the_temperature_finite() -> None:
    t = temperature(np.eye(3), np.arange(3))
    assert math.exp(-3) < t < 1


def test_the_rank_is_that_of_the_finite_sample() -> None:
    assert [conformal_rank(n, 0.9) for n in (8, 9, 10, 19, 99)] == [9, 9, 10, 18, 90]
    assert conformal_bound(np.arange(8), 0.9) == math.inf
    assert conformal_bound(np.arange(9)[::-1], 0.9) == 8
    for coverage in (0.0, 1.0, 90):
        with pytest.raises(ValueError, match="between 0 and 1"):
            conformal_rank(10, coverage)


def test_exchangeable_scores_are_covered_as_promised() -> None:
    rng = np.random.default_rng(0)
    covered = [
        rng.random() <= conformal_bound(rng.random(19), 0.8) for _ in range(4000)
    ]  # 16 / 20 exactly
    assert np.mean(covered) == pytest.approx(0.8, abs=3 * math.sqrt(0.8 * 0.2 / 4000))


def test_thinned_scores_never_bound_less() -> None:
    scores = np.random.default_rng(0).random(2345)
    few = thinned(scores, 100)
    assert len(few) == 100
    for coverage in np.linspace(0.01, 0.98, 40):
        assert conformal_bound(few, coverage) >= conformal_bound(scores, coverage)
    assert np.array_equal(thinned(scores[:50], 100), np.sort(scores[:50]))


def test_thinned_scores_are_those_at_even_ranks() -> None:
    """Of n = 9 scores the 4 at ranks ceil(j (n + 1) / 5)."""
    assert thinned(np.arange(9, 0, -1), 4).tolist() == [2, 4, 6, 8]
    assert thinned(np.arange(1, 11), 3).tolist() == [3, 6, 9]


def test_the_score_of_a_label_and_the_risk_of_the_surest() -> None:
    p = np.array([[0.7, 0.3], [0.4, 0.6]])
    assert label_scores(p, np.array([0, 0])) == pytest.approx([0.3, 0.6])
    answered, risk = risk_coverage([0.5, 0.9, 0.7, 0.6], [False, True, True, True])
    assert answered.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk.tolist() == [0, 0, 0, 0.25]

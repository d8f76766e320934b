"""Numbers that no score can be made of are refused, where a score would come out all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from petiole.metrics.answers import error_rate, matches
from petiole.metrics.calibration import (
    conformal_bound,
    label_scores,
    risk_coverage,
    temperature,
    thinned,
)
from petiole.metrics.elbow import energy_rank, excess_risk, threshold_rank
from petiole.metrics.harmonic import harmonic_mean, mean_of_hms
from petiole.metrics.reduced_rank import effective_rank
from petiole.metrics.segmentation import confusion
from petiole.metrics.shift import mmd
from petiole.metrics.targets import label_scores as scores_of_labels

NAN = float("nan")
EVEN = np.full((4, 2), 0.5)
WALK = np.arange(12.0).reshape(6, 2)
MASK = np.array([[0, 1]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("score", "says"),
    [
        (lambda: temperature(EVEN * NAN, [0, 1, 0, 1]), "logits contain NaN"),
        (lambda: temperature(EVEN, [0, 1, 2, 1]), "labels run from 0 to 2"),
        (lambda: temperature(EVEN[:0], []), "not empty"),
        (lambda: temperature(EVEN, [0, 1]), "4 rows of logits for 2 labels"),
        (lambda: temperature(EVEN, [0, 1, 0, 1], prior_sd=0), "above 0, not 0"),
        (lambda: label_scores(EVEN, [0, 1, 0, -1]), "labels run from -1"),
        (lambda: conformal_bound([NAN, 1, 2], 0.5), "1 of 3 scores are NaN"),
        (lambda: thinned([NAN, NAN], 1), "2 of 2 scores"),
        (lambda: risk_coverage([0.5, 0.6], [1]), "1 answers need as many"),
        (lambda: risk_coverage([0.5, NAN], [1, 0]), "none of them NaN"),
        (lambda: energy_rank([1, NAN]), "finite"),
        (lambda: energy_rank([1, 0.5], 1.1), "share of the energy"),
        (lambda: energy_rank([1, 0.5], 0), "share of the energy"),
        (lambda: threshold_rank([1, NAN], 2, 1, 10), "finite"),
        (lambda: excess_risk([1, np.inf], 2, 1, 10, [1]), "finite"),
        (lambda: effective_rank([1, -1e-9]), "from 0 up"),
        (lambda: effective_rank([1, NAN]), "from 0 up"),
        (lambda: harmonic_mean(-0.1, 0.5), "from 0 up"),
        (lambda: harmonic_mean(0.5, NAN), "from 0 up"),
        (lambda: mean_of_hms([0.5], [0.5, 0.6]), "zip"),
        (lambda: mmd(WALK, WALK, seed=0, cap=1), "two samples or more, not 1"),
        (lambda: scores_of_labels(EVEN, EVEN), "true, 1, or not, 0"),
        (lambda: scores_of_labels(EVEN + 0.51, np.ones((4, 2))), "logits"),
        (lambda: scores_of_labels(EVEN * NAN, np.ones((4, 2))), "logits"),
        (lambda: matches(["a"], ["a b"]), "list of references, not 'a b'"),
        (lambda: error_rate(["a"], ["ab"]), "list of references"),
        (lambda: confusion(MASK, MASK[:, :1], 2), "one size"),
        (lambda: confusion(MASK, MASK + 1, 2), "0 … 1, not 2"),
    ],
)
def test_no_score_is_made_of(score: Callable[[], Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        score()


def test_borders_are_scored() -> None:
    assert energy_rank([3, 4], 1) == 2
    assert effective_rank([0, 2, 0]) == 1
    assert harmonic_mean(0, 0) == 0
    assert np.isfinite(mmd(WALK, WALK + 1, seed=0, cap=2))
    assert scores_of_labels([[0.0, 1.0]], [[0, 1]])["exact"] == 1

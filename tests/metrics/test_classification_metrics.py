import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.metrics.classification import confusion, expected_calibration_error, score


def random_case(seed: int, n: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    p = np.exp(logits)
    return p / p.sum(axis=1, keepdims=True), rng.integers(0, classes, n)


def ece_by_loop(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    total = 0.0
    for m in range(bins):
        inside = [i for i in range(len(p)) if m / bins < max(p[i]) <= (m + 1) / bins]
        if inside:
            accuracy = sum(int(np.argmax(p[i])) == y[i] for i in inside) / len(inside)
            confidence = sum(max(p[i]) for i in inside) / len(inside)
            total += len(inside) / len(p) * abs(accuracy - confidence)
    return total


def test_hand_made_case() -> None:
    p = [[0.9, 0.05, 0.05], [0.9, 0.05, 0.05], [0.2, 0.65, 0.15], [0.2, 0.65, 0.15]]
    scores = score(p, [0, 1, 1, 1])
    assert scores.n == 4
    assert scores.accuracy == 0.75
    assert scores.macro_accuracy == pytest.approx((1 + 2 / 3) / 2)  # class 2 is absent
    assert scores.ece == pytest.approx(0.5 * abs(0.5 - 0.9) + 0.5 * abs(1 - 0.65))
    assert scores.nll == pytest.approx(-(math.log(0.9) + math.log(0.05) + 2 * math.log(0.65)) / 4)
    assert set(scores.to_dict()) == {"accuracy", "macro_accuracy", "ece", "nll", "n"}


@pytest.mark.parametrize("bins", [1, 2, 15, 40])
def test_ece_equals_the_loop(bins: int) -> None:
    p, y = random_case(seed=bins, n=300, classes=4)
    assert expected_calibration_error(p, y, bins) == pytest.approx(ece_by_loop(p, y, bins))


def test_a_confidence_on_an_edge_belongs_to_the_bin_below() -> None:
    p, y = [[0.5, 0.5], [0.75, 0.25]], [0, 1]
    assert expected_calibration_error(p, y, bins=2) == (abs(1 - 0.5) + abs(0 - 0.75)) / 2


def test_ece_vanishes_for_calibrated_and_is_one_for_confidently_wrong() -> None:
    rng = np.random.default_rng(0)
    p = np.stack([a := rng.uniform(size=200_000), 1 - a], axis=1)
    y = (rng.uniform(size=len(p)) > p[:, 0]).astype(int)
    assert expected_calibration_error(p, y) < 0.01
    assert score(np.eye(3)[[0, 0]], [1, 2]).ece == 1


def test_certain_error_keeps_nll_finite() -> None:
    assert score(np.eye(2), [1, 0]).nll == pytest.approx(-math.log(np.finfo(float).eps))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 6))
def test_scores_stay_in_bounds_and_ignore_the_order(seed: int, n: int, classes: int) -> None:
    p, y = random_case(seed, n, classes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(p, y)
    assert all(0 <= s <= 1 for s in (scores.accuracy, scores.macro_accuracy, scores.ece))
    order = np.random.default_rng(seed).permutation(n)
    assert score(p[order], y[order]).to_dict() == pytest.approx(scores.to_dict())
    per_class = [np.mean(p[y == c].argmax(axis=1) == c) for c in set(y.tolist())]
    assert scores.macro_accuracy == pytest.approx(np.mean(per_class))


def test_half_precision_softmax_is_accepted() -> None:
    p, y = random_case(seed=0, n=50, classes=1000)
    assert score(p.astype(np.float16), y).accuracy == score(p, y).accuracy


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        ([0.5, 0.5], [0], "shape"),
        (np.empty((0, 3)), [], "shape"),
        ([[0.5, 0.5]], [0, 1], "1 rows .* 2 labels"),
        ([[0.5, 0.5], [math.nan, 1]], [0, 1], "row 1"),
        ([[0.5, 0.5], [2.0, -1.0]], [0, 1], "Row 1 .* logits"),
        ([[0.5, 0.6]], [0], "sum 1.1"),
        ([[0.5, 0.5]], [2], "lie in 0 … 1"),
        ([[0.5, 0.5]], [-1], "lie in 0 … 1"),
        ([[0.5, 0.5]], [0.0], "integers"),
    ],
)
def test_unusable_input_says_why(probabilities: object, labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(probabilities, labels)  # type: ignore[arg-type]


def test_confusion_counts_rows_by_truth() -> None:
    table = confusion(predictions=[0, 1, 1, 2, 0], labels=[0, 1, 2, 2, 2], classes=4)
    assert table.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    assert confusion([], [], 2).tolist() == [[0, 0], [0, 0]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), max_size=30))
def test_confusion_equals_the_loop(pairs: list[tuple[int, int]]) -> None:
    expected = np.zeros((5, 5), dtype=int)
    for predicted, true in pairs:
        expected[true, predicted] += 1
    got = confusion([p for p, _ in pairs], [t for _, t in pairs], 5)
    assert (got == expected).all()


def test_confusion_refuses_what_it_cannot_count() -> None:
    with pytest.raises(ValueError, match="2 predictions for 1 labels"):
        confusion([0, 1], [0], 2)
    with pytest.raises(ValueError, match="predictions run from 0 to 2"):
        confusion([0, 2], [0, 1], 2)

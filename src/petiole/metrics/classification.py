"""Scores of one classification run, from predicted probabilities and true labels."""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUM_TOLERANCE = 1e-3  # softmax in half precision over a thousand classes stays well inside


@dataclass(frozen=True)
class ClassificationScores:
    """Scores of ``n`` samples; the accuracies and ``ece`` are fractions in [0, 1].

    Attributes:
        accuracy: Micro top-1 accuracy, the share of samples whose most probable class is true.
        macro_accuracy: Mean per-class recall over the classes that occur among the labels.
        ece: Expected calibration error, see :func:`expected_calibration_error`.
        nll: Mean negative log-likelihood of the true class in nats; a probability of 0 counts as
            float64 epsilon (36.04 nats), so that one confident error keeps the mean finite.
        n: Number of samples.
    """

    accuracy: float
    macro_accuracy: float
    ece: float
    nll: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """Return the scores by name, ready for JSON."""
        return asdict(self)


def score(probabilities: ArrayLike, labels: ArrayLike) -> ClassificationScores:
    """Score probabilities ``(n, K)`` against integer labels ``(n,)``.

    Raises:
        ValueError: Wrong shapes, no samples, NaN or negative probabilities, rows that do not sum
            to 1 (logits, usually), or labels outside ``0 … K-1``.
    """
    from sklearn.metrics import recall_score

    p, y = _checked(probabilities, labels)
    predictions = p.argmax(axis=1)
    true_class = p[np.arange(len(y)), y]
    return ClassificationScores(
        accuracy=float((predictions == y).mean()),
        macro_accuracy=float(recall_score(y, predictions, labels=np.unique(y), average="macro")),
        ece=expected_calibration_error(p, y),
        nll=float(-np.log(np.maximum(true_class, np.finfo(np.float64).eps)).mean()),
        n=len(y),
    )


UNEVEN = 2.0
"""So many times as many samples in the largest class as in the smallest make macro accuracy the headline."""


def uneven(labels: ArrayLike) -> bool:
    """Whether the classes that occur among ``labels`` (n,) differ so much in size that accuracy speaks of the large ones."""
    _, counts = np.unique(np.asarray(labels), return_counts=True)
    return bool(len(counts) and counts.max() >= UNEVEN * counts.min())


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 15
) -> float:
    """Return the gap between confidence and accuracy, averaged over equal-width bins.

        ECE = Σ_m |B_m|/n · |acc(B_m) − conf(B_m)|,   B_m = {i : max_k p_ik ∈ ((m−1)/M, m/M]}

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), eq. 3, M = 15.

    Raises:
        ValueError: As in :func:`score`, or fewer than one bin.
    """
    if bins < 1:
        raise ValueError(f"The calibration error needs at least one bin, not {bins}.")
    p, y = _checked(probabilities, labels)
    confidence = p.max(axis=1)
    inner_edges = np.linspace(0, 1, bins + 1)[1:-1]
    bin_of = np.digitize(confidence, inner_edges, right=True)
    # |B_m|·(acc − conf) is a sum over the bin, so the bin sizes cancel.
    gaps = np.bincount(bin_of, weights=(p.argmax(axis=1) == y) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(y))


def confusion(predictions: ArrayLike, labels: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count predictions ``(n,)`` by label ``(n,)``: rows are true classes, columns predicted ones.

    Returns:
        Counts ``(classes, classes)``; row and column ``k`` exist even if class ``k`` never occurs.

    Raises:
        ValueError: Different lengths, values that are no integers, or outside ``0 … classes-1``.
    """
    predicted = _integers("predictions", predictions, classes)
    true = _integers("labels", labels, classes)
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} labels; pass one each.")
    cells = np.bincount(true * classes + predicted, minlength=classes * classes)
    return cells.reshape(classes, classes)


def _checked(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    p, y = labelled_rows("probabilities", probabilities, labels)
    total = p.sum(axis=1)
    wrong = (np.abs(total - 1) > SUM_TOLERANCE) | (p < 0).any(axis=1)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"Row {row} is not a probability distribution (sum {total[row]:.6g}, "
            f"minimum {p[row].min():.6g}); are these logits? Apply softmax first."
        )
    return p / total[:, None], y


def labelled_rows(
    name: str, values: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return ``values`` (n, K) and their integer ``labels`` (n,), or say why they are none.

    Raises:
        ValueError: wrong shapes, no samples, NaN or infinity, or labels outside ``0 … K-1``.
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"The {name} must have shape (samples, classes), not empty, got {x.shape}."
        )
    y = _integers("labels", labels, classes=x.shape[1])
    if len(y) != len(x):
        raise ValueError(f"{len(x)} rows of {name} for {len(y)} labels; pass one label a row.")
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise ValueError(f"The {name} contain NaN or infinity, first in row {row}.")
    return x, y


def _integers(name: str, values: ArrayLike, classes: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or not (np.issubdtype(array.dtype, np.integer) or array.size == 0):
        raise ValueError(
            f"The {name} must be a vector of integers, not shape {array.shape} of {array.dtype}."
        )
    if array.size and (array.min() < 0 or array.max() >= classes):
        raise ValueError(
            f"The {name} run from {array.min()} to {array.max()}, but with {classes} classes they "
            f"must lie in 0 … {classes - 1}."
        )
    return array.astype(np.int64)

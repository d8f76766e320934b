"""What a closed-form head makes of the labels so far: predictions, accuracy on left-out labels, a curve, likely errors.

The head is the averaged ridge on vectors of the frozen backbone (``petiole.layers.averaged_ridge``), whose left-out scores
need no further fit. The curve is of accuracy on labels that were left out, by the number that was learned from; beyond the
labels there are it follows the power law

    error(n) = a n^-b        (Hestness et al., 2017)

fitted to its points by least squares in logarithms.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import binomtest
from torch import Tensor

from petiole.layers.averaged_ridge import AveragedRidgeHead

DRAWS = 5
SHARES = (0.25, 0.5, 0.75)
MOST_ERRORS = 24


@dataclass(frozen=True)
class Accuracy:
    """On left-out labels: share of right ones, with Wilson's 95 % interval."""

    value: float
    low: float
    high: float
    images: int


@dataclass
class Evidence:
    """Of one state of the labels.

    Attributes:
        probabilities: (N, K) of all images; ``None`` with fewer than two classes.
        accuracy: ``None`` where nothing can be left out.
        errors: rows of labels that look wrong, the surest first.
        head: solved.
        left_out: logits (n, K) of the labelled images, each under solutions that have not seen it.
    """

    probabilities: NDArray[np.float32] | None = None
    accuracy: Accuracy | None = None
    errors: list[int] = field(default_factory=list)
    head: AveragedRidgeHead | None = None
    left_out: Tensor | None = None


@torch.no_grad()
def evidence(vectors: Tensor, rows: NDArray[np.int64], labels: NDArray[np.int64]) -> Evidence:
    """Fit and judge.

    Args:
        vectors: (N, d), of all images.
        rows: (n,), of the labelled ones.
        labels: (n,), their classes 0 .. K−1, each of which occurs.
    """
    classes = int(labels.max(initial=-1)) + 1
    if classes < 2:
        return Evidence()
    x, y = vectors[rows], torch.from_numpy(labels)
    target = torch.ones(len(y), dtype=torch.bool)
    head = AveragedRidgeHead(vectors.shape[1], classes)
    left_out = head.solve_and_leave_out(x, y, target)
    found = Evidence(head(vectors).softmax(-1).numpy(), head=head, left_out=left_out)
    if found.left_out is not None:
        p = found.left_out.softmax(-1).numpy()
        found.accuracy = interval(int((p.argmax(1) == labels).sum()), len(labels))
        found.errors = [int(rows[i]) for i in _doubted(p, labels)]
    return found


def interval(right: int, images: int) -> Accuracy:
    """Wilson's interval of a share."""
    bounds = binomtest(right, images).proportion_ci(method="wilson")
    return Accuracy(right / images, float(bounds.low), float(bounds.high), images)


def _doubted(p: NDArray[np.float32], labels: NDArray[np.int64]) -> list[int]:
    """Labels that the head, without having seen them, takes for another class: the surest first."""
    given = p[np.arange(len(labels)), labels]
    surplus = p.max(1) - given
    order = np.argsort(-surplus, kind="stable")
    return [int(i) for i in order[:MOST_ERRORS] if p[i].argmax() != labels[i] and p[i].max() > 0.5]


@torch.no_grad()
def curve(
    vectors: Tensor, labels: NDArray[np.int64], seed: int = 0
) -> dict[str, list[list[float]]]:
    """Accuracy by number of labels, measured up to those there are and extrapolated to four times as many.

    Args:
        vectors: (n, d), of the labelled images.
        labels: (n,).
        seed: of the draws.

    Returns:
        ``measured`` and ``expected``, lists of [labels, accuracy].
    """
    classes, n = int(labels.max(initial=-1)) + 1, len(labels)
    rng = np.random.default_rng(seed)
    measured: list[list[float]] = []
    for share in SHARES:
        size = max(classes, round(share * n))
        if classes < 2 or size >= n or (measured and size <= measured[-1][0]):
            continue
        scores = [_once(vectors, labels, size, rng) for _ in range(DRAWS)]
        measured.append([size, float(np.mean(scores))])
    return {"measured": measured, "expected": _law(measured, n)}


def _once(vectors: Tensor, labels: NDArray[np.int64], size: int, rng: np.random.Generator) -> float:
    """Accuracy on the rest of a head that learned from one label of each class and others at random."""
    order = rng.permutation(len(labels))
    firsts = np.unique(labels[order], return_index=True)[1]
    kept = np.concatenate([firsts, np.setdiff1d(np.arange(len(labels)), firsts)])[:size]
    inside = np.zeros(len(labels), dtype=bool)
    inside[order[kept]] = True
    y = torch.from_numpy(labels)
    head = AveragedRidgeHead(vectors.shape[1], int(labels.max()) + 1)
    head.solve(vectors[inside], y[inside], torch.ones(size, dtype=torch.bool))
    guesses = head(vectors[~inside]).argmax(-1)
    return float((guesses == y[~inside]).double().mean())


def _law(measured: list[list[float]], n: int) -> list[list[float]]:
    if len(measured) < 2:
        return []
    sizes, accuracies = np.array(measured).T
    errors = np.clip(1 - accuracies, 1 / (2 * n), 1)
    slope, level = np.polyfit(np.log(sizes), np.log(errors), 1)
    ahead = np.array([n, 2 * n, 4 * n])
    return [[float(m), float(1 - np.exp(level) * m ** min(slope, 0.0))] for m in ahead]

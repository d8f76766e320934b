"""Scores of several labels an image, and of a number an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

THRESHOLD = 0.5
"""Probability from which a label is given."""


def label_scores(probabilities: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Scores of label probabilities (n, K) against 0 and 1 (n, K); fractions in [0, 1].

    Returns:
        ``mAP``, the mean over labels of average precision, AP = sum_j (R_j - R_{j-1}) P_j along the images from the most
        probable down; ``f1_macro`` and ``f1_micro`` at `THRESHOLD`; ``exact``, the share of images whose labels are all
        right; ``n``. Labels without an image among ``truth`` have no AP and no part in the means; without any label, mAP is nan.

    Raises:
        ValueError: different shapes, no images, truth other than 0 and 1, or probabilities outside [0, 1].

    Source: scikit-learn's ``average_precision_score`` and ``f1_score``.
    """
    from sklearn.metrics import f1_score

    p, t = _matrices(probabilities, truth)
    given, seen = p >= THRESHOLD, t.any(axis=0)
    means = {
        f"f1_{how}": float(f1_score(t[:, seen], given[:, seen], average=how)) if seen.any() else 0.0
        for how in ("macro", "micro")
    }
    found = [ap for ap in average_precisions(p, t) if not np.isnan(ap)]
    return {
        "mAP": float(np.mean(found)) if found else float("nan"),
        **means,
        "exact": float((given == t).all(axis=1).mean()),
        "n": float(len(p)),
    }


def average_precisions(probabilities: ArrayLike, truth: ArrayLike) -> list[float]:
    """Average precision of each label; nan for one without an image.

    Raises:
        ValueError: as of `label_scores`.
    """
    from sklearn.metrics import average_precision_score

    p, t = _matrices(probabilities, truth)
    return [
        float(average_precision_score(t[:, k], p[:, k])) if t[:, k].any() else float("nan")
        for k in range(t.shape[1])
    ]


def value_scores(predictions: ArrayLike, truth: ArrayLike) -> dict[str, float]:
    """Scores of numbers (n, K) against the true ones (n, K); (n,) is K = 1.

    Returns:
        ``r2`` = 1 - sum (y - f)^2 / sum (y - mean y)^2 (1 is perfect, 0 the mean of the scored images; of equal numbers, or of
        one, nan), ``mae`` and ``rmse`` in the numbers' unit, ``n``. Of several numbers each is a mean over them, r2 over those
        that differ between images.

    Raises:
        ValueError: different shapes, or no images.

    Source: scikit-learn's ``r2_score``, ``mean_absolute_error``, ``root_mean_squared_error``.
    """
    from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

    f, y = (np.asarray(v, dtype=np.float64) for v in (predictions, truth))
    if f.shape != y.shape or f.ndim > 2 or not f.size:
        raise ValueError(
            f"Expected (n,) or (n, K) numbers of one length, got {f.shape} and {y.shape}."
        )
    f, y = f.reshape(len(f), -1), y.reshape(len(y), -1)
    differ = np.ptp(y, axis=0) > 0
    return {
        "r2": float(r2_score(y[:, differ], f[:, differ])) if differ.any() else float("nan"),
        "mae": float(mean_absolute_error(y, f)),
        "rmse": float(root_mean_squared_error(y, f)),
        "n": float(len(y)),
    }


def _matrices(
    probabilities: ArrayLike, truth: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    p, t = np.asarray(probabilities, dtype=np.float64), np.asarray(truth)
    if p.shape != t.shape or p.ndim != 2 or 0 in p.shape:
        raise ValueError(f"Expected (n, K) of one shape, not empty, got {p.shape} and {t.shape}.")
    if not ((t == 0) | (t == 1)).all():
        raise ValueError("A label is true, 1, or not, 0; other numbers were given.")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            "Probabilities must lie in [0, 1]; are these logits? Apply a sigmoid first."
        )
    return p, t.astype(bool)


def names_given(probabilities: Sequence[float], names: Sequence[str]) -> list[str]:
    """Labels with a probability of at least `THRESHOLD`, most probable first."""
    order = np.argsort([-p for p in probabilities], kind="stable")
    return [names[k] for k in order if probabilities[k] >= THRESHOLD]

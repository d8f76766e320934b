"""Scores of masks, all from the pixels' confusion matrix C (true class, predicted class).

IoU_k = C_kk / (sum_j C_kj + sum_j C_jk - C_kk),   mIoU their mean over the classes that are true or predicted anywhere
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]


def confusion(truth: NDArray[np.uint8], found: NDArray[np.uint8], classes: int) -> Counts:
    """Pixels by true and predicted class (K, K); true pixels of no class (>= K) do not count.

    Raises:
        ValueError: masks of two sizes, or a predicted class that there is none of.
    """
    if truth.shape != found.shape:
        raise ValueError(f"Masks of one size are compared, not {truth.shape} and {found.shape}.")
    known = truth < classes
    if (found[known] >= classes).any():
        raise ValueError(f"Predicted classes must lie in 0 … {classes - 1}, not {found.max()}.")
    pairs = truth[known].astype(np.int64) * classes + found[known]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def ious(counts: Counts) -> NDArray[np.float64]:
    """IoU of each class (K,); NaN for one that is neither true nor predicted anywhere."""
    both = np.diag(counts).astype(np.float64)
    either = counts.sum(0) + counts.sum(1) - both
    return np.where(either > 0, both / np.maximum(either, 1), np.nan)


def mask_scores(counts: Counts, images: int) -> dict[str, float]:
    """Of so many images: mIoU first; then the mean over true classes of the share of their pixels that is found, and the share of all pixels."""
    true = counts.sum(1)
    recalls = np.diag(counts)[true > 0] / true[true > 0]
    whole = max(1, int(true.sum()))
    return {
        "miou": float(np.nanmean(ious(counts))) if true.any() else float("nan"),
        "class_accuracy": float(recalls.mean()) if true.any() else float("nan"),
        "pixel_accuracy": float(np.diag(counts).sum() / whole),
        "n": float(images),
    }

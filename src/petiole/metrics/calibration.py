"""What left-out predictions say about the next ones: temperature, label sets, and when to say nothing.

All functions take logits or probabilities (n, K) and integer labels (n,) of images that the fit had not seen.
"""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petiole.metrics.classification import labelled_rows

Floats = NDArray[np.float64]
PRIOR_SD = 1.0
"""Of ln T around 0: a factor of e either way, outweighed by a dozen images."""


def temperature(logits: ArrayLike, labels: ArrayLike, prior_sd: float = PRIOR_SD) -> float:
    """Return the T > 0 that makes softmax(z / T) most probable, with a weak prior at T = 1.

        T = argmin  Σ_i CE(z_i / T, y_i) + ln² T / (2 sd²)

    Source: Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 4.2; the prior keeps T
    finite where few images are all classified correctly.

    Raises:
        ValueError: wrong shapes, no images, NaN or infinity, labels outside ``0 … K-1``, or a prior of no width.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if not prior_sd > 0:
        raise ValueError(f"The prior's standard deviation must be above 0, not {prior_sd}.")
    z, y = labelled_rows("logits", logits, labels)
    rows = np.arange(len(y))

    def loss(log_t: float) -> float:
        scaled = z / math.exp(log_t)
        cross_entropy = logsumexp(scaled, axis=1) - scaled[rows, y]
        return float(cross_entropy.sum() + log_t**2 / (2 * prior_sd**2))

    found = minimize_scalar(loss, bounds=(-7.0, 7.0), method="bounded")
    return math.exp(float(found.x))


def conformal_rank(n: int, coverage: float) -> int:
    """Return ⌈(n + 1) · coverage⌉, the rank among n left-out scores that bounds a new one with that probability.

    A rank above n means that n scores are too few to bound one so surely.

    Raises:
        ValueError: a coverage outside (0, 1).
    """
    if not 0 < coverage < 1:
        raise ValueError(f"The coverage must lie between 0 and 1, e.g. 0.9, not {coverage}.")
    return math.ceil((n + 1) * coverage - 1e-9)  # 10 · 0.9 is not 9.000000000000002


def conformal_bound(scores: ArrayLike, coverage: float) -> float:
    """Return the score at :func:`conformal_rank` of ``scores`` (n,); infinity where that is above n.

    A new score that is exchangeable with them lies at or below it with probability ≥ coverage, whatever their
    distribution (Vovk, Gammerman and Shafer, 2005; Lei et al., 2018). Scores of images left out by folds come from
    slightly different fits than the new one: then the guarantee proven is 2 · coverage − 1 for the related CV+, and
    close to coverage in practice (Barber et al., "Predictive inference with the jackknife+", 2021).

    Raises:
        ValueError: a score that is NaN, or a coverage outside (0, 1).
    """
    known = _sorted(scores)
    rank = conformal_rank(len(known), coverage)
    return float(known[rank - 1]) if rank <= len(known) else math.inf


def label_scores(probabilities: ArrayLike, labels: ArrayLike) -> Floats:
    """Return 1 − p of the true class, (n,): the score of least ambiguous sets (Sadinle, Lei and Wasserman, 2019).

    Raises:
        ValueError: wrong shapes, no images, NaN, or labels outside ``0 … K-1``.
    """
    p, y = labelled_rows("probabilities", probabilities, labels)
    return np.asarray(1 - p[np.arange(len(y)), y])


def thinned(scores: ArrayLike, most: int) -> Floats:
    """Return at most ``most`` of the sorted scores, at ranks that keep every conformal bound at or above its own.

    Raises:
        ValueError: a score that is NaN.
    """
    known = _sorted(scores)
    n = len(known)
    if n <= most:
        return known
    ranks = np.ceil(np.arange(1, most + 1) * (n + 1) / (most + 1)).astype(int)
    return np.asarray(known[np.minimum(ranks, n) - 1])


def risk_coverage(confidence: ArrayLike, correct: ArrayLike) -> tuple[Floats, Floats]:
    """Return the shares of images answered, surest first, and the error among them, (n,) each.

    Source: El-Yaniv and Wiener, "On the foundations of noise-free selective classification" (2010).

    Raises:
        ValueError: another number of confidences than of answers, or a confidence that is NaN.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if sure.shape != right.shape or np.isnan(sure).any():
        raise ValueError(f"{len(right)} answers need as many confidences, none of them NaN.")
    order = np.argsort(-sure, kind="stable")
    wrong = 1 - right[order]
    answered = np.arange(1, len(wrong) + 1)
    return answered / len(wrong), np.cumsum(wrong) / answered


def _sorted(scores: ArrayLike) -> Floats:
    known = np.sort(np.asarray(scores, dtype=np.float64))
    if np.isnan(known).any():
        raise ValueError(f"{int(np.isnan(known).sum())} of {len(known)} scores are NaN.")
    return known

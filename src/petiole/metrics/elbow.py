"""Which rank is enough: rules on a measured curve of accuracy by rank, and rules on a spectrum.

Measured, from accuracies by rank and seed:

    one-SE     least r with mean(r) >= best mean - SE of the best              the headline; Breiman et al., 1984
    marginal   least r with acc(2r) - acc(r) < max(0.2 points, SE of that)
    Kneedle    the knee of (log2 r, mean accuracy)                            Satopaa et al., 2011

Predicted, from singular values sigma_j of the shift, width d, noise tau^2 and n samples:

    energy     least r with sum_{j<=r} sigma_j^2 >= 90 % of all
    threshold  r* = #{j: sigma_j^2 > 2 d tau^2 / n}, where the bound below stops falling
    bound      sum_{j>r} sigma_j^2 + tau^2 r (2d - r) / n                      for squared loss (fast rate)

Only the bound's first term falls with r for certain, so accuracy need not rise with rank: ``trend`` asks
whether it did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import log2, sqrt
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

MARGIN = 0.002
"""Accuracy that is worth mentioning: 0.2 points."""
ENERGY = 0.9
RESAMPLES = 1_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Accuracy by rank and seed.

    Attributes:
        ranks: rising, at least two.
        accuracies: fractions, (ranks, seeds), at least two seeds: one has no spread. A column is one
            seed at every rank, on the same images.
        by_image: share of the seeds that get an image right, (ranks, images): what other images could say. Without
            it every error is over seeds alone, and speaks of the images at hand.
    """

    ranks: tuple[int, ...]
    accuracies: Floats
    by_image: Floats | None = None

    def __post_init__(self) -> None:
        shape = np.shape(self.accuracies)
        if len(shape) != 2 or shape[0] != len(self.ranks) or min(shape) < 2:
            raise ValueError(
                f"A curve needs accuracies (ranks, seeds), two of each at least, got shape {shape} for "
                f"{len(self.ranks)} ranks."
            )
        if list(self.ranks) != sorted(set(self.ranks)) or self.ranks[0] < 1:
            raise ValueError(f"Ranks must rise from at least 1, got {list(self.ranks)}.")

    @property
    def mean(self) -> Floats:
        """Over seeds, by rank."""
        return np.asarray(self.accuracies.mean(axis=1))

    @property
    def error(self) -> Floats:
        """Standard error of the mean over seeds and images, by rank."""
        return _error(self.accuracies, self.by_image)

    @property
    def best(self) -> int:
        """The rank of the highest mean; the least of equals."""
        return self.ranks[int(self.mean.argmax())]


def _error(by_seed: Floats, by_image: Floats | None) -> Floats:
    """sqrt(s^2 / S + i^2 / N): standard error of means over the last axes, seeds and images both drawn.

    What seeds and images do together counts in both terms, so it is a little too large.
    """
    variance = by_seed.var(axis=-1, ddof=1) / by_seed.shape[-1]
    if by_image is not None:
        variance = variance + by_image.var(axis=-1, ddof=1) / by_image.shape[-1]
    return np.asarray(np.sqrt(variance))


def one_se(curve: Curve) -> int:
    """The least rank whose mean is within one standard error of the best (Breiman et al., 1984)."""
    return curve.ranks[int(_within_one_se(curve.mean, curve.error))]


def _within_one_se(mean: Floats, error: Floats) -> NDArray[np.int64]:
    """Index of the one-SE rank along the last axis."""
    best = mean.argmax(axis=-1)[..., None]
    bar = np.take_along_axis(mean, best, -1) - np.take_along_axis(error, best, -1)
    return np.asarray((mean >= bar).argmax(axis=-1))


def marginal(curve: Curve, margin: float = MARGIN) -> int | None:
    """The least rank that doubling improves by less than ``margin``, or than the SE of the gain.

    The SE is of the difference, paired over seeds and images. On a grid with wider steps the gain and its SE count
    for each doubling on the way. ``None`` where every step of the grid still pays.
    """
    for i, (rank, larger) in enumerate(pairwise(curve.ranks)):
        doublings, images = log2(larger / rank), curve.by_image
        gains = (curve.accuracies[i + 1] - curve.accuracies[i]) / doublings
        where = None if images is None else (images[i + 1] - images[i]) / doublings
        if gains.mean() < max(margin, _error(gains, where)):
            return rank
    return None


def kneedle(curve: Curve, sensitivity: float = 1.0) -> int | None:
    """The first knee of (log2 r, mean accuracy), both scaled to [0, 1]; ``None`` where there is none.

    A local maximum of y - x is a knee if, before the next one, y - x drops below it by ``sensitivity``
    times the mean step of x. The curve is not smoothed: its points are means already. Source: Satopaa,
    Albrecht, Irwin and Raghavan, "Finding a Kneedle in a Haystack" (2011), section III.
    """
    x, y = np.log2(curve.ranks), curve.mean
    if np.ptp(y) == 0:
        return None
    x, y = (x - x.min()) / np.ptp(x), (y - y.min()) / np.ptp(y)
    gap, drop = y - x, sensitivity * np.diff(x).mean()
    inner = range(1, len(gap) - 1)
    peaks = [i for i in inner if gap[i - 1] < gap[i] and gap[i] >= gap[i + 1]]
    for peak, end in pairwise([*peaks, len(gap)]):
        if (gap[peak + 1 : end] < gap[peak] - drop).any():
            return curve.ranks[peak]
    return None


@dataclass(frozen=True)
class Trend:
    """Whether accuracy falls anywhere with rank; differences are fractions.

    Attributes:
        verdict: ``falls`` where some fall is larger than ``width``; ``monotone`` where no fall larger
            than 0.2 points is left open; else ``cannot tell``.
        after, at: ranks between which the mean falls most; ``None`` where it never falls.
        fall: by so much.
        width: half-width of the simultaneous 95 % intervals of all differences between ranks.
        open: the largest fall that the intervals leave open.
    """

    verdict: Literal["monotone", "falls", "cannot tell"]
    after: int | None
    at: int | None
    fall: float
    width: float
    open: float


def trend(curve: Curve, margin: float = MARGIN, level: float = 0.95) -> Trend:
    """Test all falls from a rank to a larger one at once, paired over seeds.

        width = max(3 / N, q_level(R, f) sqrt(MSE_S / S + MSE_N / N)),   f = (R - 1)(S - 1) or, by Satterthwaite, more

    Tukey's honest significant difference in two randomised block designs at once, the S seeds and the N images being
    the blocks and the R ranks the treatments: MSE is what is left of the accuracies without the means of rank and
    block. It takes that rest as normal and as large at every rank, which is what lets three seeds say anything. N
    images of which none was judged differently leave 3 / N open (the rule of three: Hanley and Lippman-Hand, JAMA
    249, 1983). Without ``by_image`` there is neither MSE_N nor 3 / N.
    """
    parts = [_rest(curve.accuracies)]
    if curve.by_image is not None:
        parts.append(_rest(curve.by_image))
    total = sum(part for part, _ in parts)
    free = total**2 / sum(part**2 / own for part, own in parts) if total else float(parts[0][1])
    width = _studentized_range(level, len(curve.ranks), free) * sqrt(total)
    if curve.by_image is not None:
        width = max(width, 3 / curve.by_image.shape[1])
    ranks = len(curve.ranks)
    falls = np.triu(curve.mean[:, None] - curve.mean[None, :], 1)
    falls[np.tril_indices(ranks)] = -np.inf
    first, last = np.unravel_index(falls.argmax(), falls.shape)
    fall = max(0.0, float(falls.max()))
    possible = max(0.0, float(falls.max()) + width)
    verdict: Literal["monotone", "falls", "cannot tell"] = "cannot tell"
    if fall > width:
        verdict = "falls"
    elif possible <= margin:
        verdict = "monotone"
    after, at = (curve.ranks[first], curve.ranks[last]) if fall > 0 else (None, None)
    return Trend(verdict, after, at, fall, width, possible)


def _rest(values: Floats) -> tuple[float, int]:
    """MSE / blocks of values (treatments, blocks) in a block design, and its degrees of freedom."""
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0, keepdims=True)
    treatments, blocks = values.shape
    free = (treatments - 1) * (blocks - 1)
    return float(((rest + values.mean()) ** 2).sum()) / free / blocks, free


@cache  # a tenth of a second each
def _studentized_range(level: float, groups: int, free: float) -> float:
    return float(scipy.stats.studentized_range.ppf(level, groups, free))


def resampled_elbows(
    ranks: Sequence[int], correct: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> NDArray[np.int64]:
    """One-SE ranks of data sets that might have come instead: (sizes, resamples).

    Every resample draws seeds and images anew, the same ones for all ranks and sizes. The standard error
    is enlarged by S / (S - 1), because seeds drawn with replacement spread less.

    Args:
        ranks: rising.
        correct: (sizes, ranks, seeds, images), whether an image was classified correctly.
        seed: of the resampling.
        resamples: how many.
    """
    x = np.asarray(correct, dtype=np.float64)
    seeds, images = x.shape[2:]
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        weights = rng.multinomial(images, np.full(images, 1 / images)) / images
        chosen = rng.integers(0, seeds, seeds)
        drawn, shares = (x @ weights)[..., chosen], x[..., chosen, :].mean(axis=-2)
        variance = np.maximum((shares**2) @ weights - (shares @ weights) ** 2, 0.0)
        error = np.sqrt(drawn.var(axis=-1, ddof=1) / (seeds - 1) + variance / (images - 1))
        found.append(_within_one_se(drawn.mean(axis=-1), error))
    return np.asarray(ranks, dtype=np.int64)[np.stack(found, axis=1)]


Growth = Literal["grows", "does not grow", "cannot tell"]


def growth(elbows: NDArray[np.int64], largest: int, level: float = 0.95) -> tuple[Growth, float]:
    """Whether the elbow is larger at the last size than at the first, and how often it is.

    Args:
        elbows: of ``resampled_elbows``, (sizes, resamples), sizes rising.
        largest: rank of the sweep. A first elbow there had no room to grow, so it denies nothing.
        level: share of the resamples that decides.
    """
    first, last = elbows[0], elbows[-1]
    share = float((last > first).mean())
    if share >= level:
        return "grows", share
    denied = float(((last <= first) & (first < largest)).mean())
    return ("does not grow" if denied >= level else "cannot tell"), share


def energy_rank(spectrum: ArrayLike, share: float = ENERGY) -> int:
    """The least r whose leading singular values hold that share of the energy; 0 where there is none.

    Raises:
        ValueError: singular values that are no numbers, or a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"The share of the energy must lie in (0, 1], not {share}.")
    energy = _energy(spectrum)
    total = energy.sum()
    # The last of the partial sums may miss the total by rounding.
    return int((energy.cumsum() < share * total * (1 - 1e-12)).sum()) + 1 if total > 0 else 0


def threshold_rank(spectrum: ArrayLike, width: int, noise: float, samples: float) -> int:
    """r* = #{j: sigma_j^2 > 2 d tau^2 / n}: directions that gain more than estimating them costs.

    Args:
        spectrum: sigma_j.
        width: d.
        noise: tau^2.
        samples: n.

    Raises:
        ValueError: singular values that are no numbers.
    """
    energy = _energy(spectrum)
    return int((energy > 2 * width * noise / samples).sum())


@dataclass(frozen=True)
class Bound:
    """The excess-risk bound by rank, in units of sigma^2."""

    approximation: Floats
    estimation: Floats

    @property
    def total(self) -> Floats:
        """Both terms."""
        return self.approximation + self.estimation


def excess_risk(
    spectrum: ArrayLike, width: int, noise: float, samples: float, ranks: Sequence[int]
) -> Bound:
    """sum_{j>r} sigma_j^2 and tau^2 r (2d - r) / n for every r; ranks beyond d count as d.

    Raises:
        ValueError: singular values that are no numbers.
    """
    energy = _energy(spectrum)
    r = np.minimum(ranks, width)
    tails = np.append(energy[::-1].cumsum()[::-1], 0.0)
    approximation = tails[np.minimum(r, len(energy))]
    return Bound(approximation, noise * r * (2 * width - r) / samples)


def _energy(spectrum: ArrayLike) -> Floats:
    """Squares, the largest first."""
    energy = np.sort(np.asarray(spectrum, dtype=np.float64) ** 2)[::-1]
    if not np.isfinite(energy).all():
        raise ValueError("Singular values must be finite numbers.")
    return energy

"""Is method a better than method b? Paired differences, their tests, and the verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from petiole.metrics.intervals import (
    matrix,
    percentile_bounds,
    resampled_means,
    t_interval,
    vector,
)

Verdict = Literal["better", "worse", "tie", "undecided", "unknown"]
MARGIN = 0.01
"""The largest difference that does not matter, unless stated otherwise: one point."""


@dataclass(frozen=True)
class Paired:
    """A paired comparison of a with b.

    Attributes:
        difference: Mean of a − b; positive where a is better.
        low, high: Bounds of its confidence interval at ``level``.
        p: Two-sided p value of the headline ``test``, before any correction.
        n: Number of pairs: runs or images, as the test says.
        test: Name of the headline test.
        level: Confidence level of the interval.
        others: Two-sided p values of further tests by name, never used for the verdict.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    test: str
    level: float = 0.95
    others: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields by name."""
        return asdict(self)


def paired_by_seed(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Paired:
    """Compare scores ``(n,)`` of two methods over the same n support draws.

    Headline: the paired t test, and the t interval that it inverts. It takes the differences as
    about normal, which a handful of draws can neither confirm nor refute. ``others`` therefore
    gives two tests without that assumption: "sign-flip" (exact permutation of the differences'
    signs, sampled above 13 draws) and "Wilcoxon" (signed rank). They are not the headline because
    they cannot speak with few draws: the smallest p of n sign flips is 2/2^n, 0.0625 for n = 5, and
    after Holm over m comparisons n > 1 + log2(m/α) draws are needed before anything can be
    significant (6 draws for one comparison at α = 0.05, 9 for ten).

    Where all differences are equal the t test is undefined: the sign-flip p is then the headline,
    and 1 where they are all zero. One draw gives p = 1 and an unbounded interval.

    Raises:
        ValueError: Different or zero lengths, or NaN.
    """
    d = _differences(vector(a, level), vector(b, level))
    interval = t_interval(d, level)
    flip = _sign_flip_p(d, seed=0)
    others = {
        "sign-flip": flip,
        "Wilcoxon": float(scipy.stats.wilcoxon(d).pvalue) if d.any() else 1.0,
    }
    test, p = "paired t over runs", flip
    if len(d) == 1:
        p = 1.0
    elif np.ptp(d) <= 1e-12:  # equal up to rounding: t would be 0/0 or ±infinity
        test = "sign-flip over runs (all differences equal)"
    else:
        p = float(scipy.stats.ttest_1samp(d, 0.0).pvalue)
    return Paired(interval.mean, interval.low, interval.high, p, len(d), test, level, others)


def paired_by_image(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 9_999,
) -> Paired:
    """Compare which images two methods get right: ``(images,)`` or ``(runs, images)``, same images.

    One run: McNemar's exact test on the images that exactly one method gets right (a binomial test
    with 1/2). Several runs: per image, the mean difference over runs, tested by flipping its sign.
    The interval is the percentile bootstrap over images. It speaks of these trained models on
    other images: the variance between support draws is left out, so with few-shot training it is
    too sure of the *method*; see :func:`paired_hierarchical`. ``n`` is the number of images.

    Raises:
        ValueError: Different shapes, more than two dimensions, empty, or values other than 0 and 1.
    """
    d = _image_differences(correct_a, correct_b, level)
    by_image = d.mean(axis=0)
    samples = resampled_means(by_image[None], seed, resamples)
    if len(d) == 1:
        test, p = "McNemar exact", _mcnemar_p(by_image)
    else:
        test, p = "sign-flip over images", _sign_flip_p(by_image, seed, resamples)
    low, high = percentile_bounds(samples, level)
    return Paired(float(by_image.mean()), low, high, p, len(by_image), test, level)


def paired_hierarchical(
    correct_a: ArrayLike,
    correct_b: ArrayLike,
    seed: int = 0,
    level: float = 0.95,
    resamples: int = 9_999,
) -> Paired:
    """Compare ``(runs, images)`` of two methods, resampling support draws and images together.

    The interval is that of :func:`petiole.metrics.intervals.hierarchical_interval` for a − b; p is
    twice the smaller share of resampled differences on either side of 0, counted as
    (count + 1)/(resamples + 1), so interval and p agree. ``n`` is the number of runs. With a single
    run only the images vary.

    Raises:
        ValueError: As in :func:`paired_by_image`.
    """
    d = _image_differences(correct_a, correct_b, level)
    samples = resampled_means(d, seed, resamples)
    tail = min(int((samples <= 0).sum()), int((samples >= 0).sum()))
    p = min(1.0, 2 * (tail + 1) / (resamples + 1))
    low, high = percentile_bounds(samples, level)
    return Paired(float(d.mean()), low, high, p, len(d), "bootstrap (runs × images)", level)


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's step-down adjusted p values, in the order given.

        p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) · p_(j)),   p_(1) ≤ … ≤ p_(m)

    Rejecting where p̃ < α keeps the chance of any false rejection among the m below α, whatever the
    dependence between the tests. Source: Holm, Scand. J. Statist. 6 (1979).

    Raises:
        ValueError: A p value that is NaN or outside [0, 1].
    """
    values = np.asarray(p, dtype=np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p values must be numbers in [0, 1], got {list(p)}.")
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    adjusted = np.empty_like(values)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * values[order]))
    return [float(value) for value in adjusted]


def verdict(
    low: float, high: float, adjusted_p: float, margin: float = MARGIN, alpha: float = 0.05
) -> Verdict:
    """Say what data allow to be said of a − b, from its interval [low, high] and adjusted p.

        unknown      there is no interval: one draw has no spread
        better       p < alpha and low > 0
        worse        p < alpha and high < 0
        tie          −margin <= low and high <= margin
        undecided    none of these: the data are too few for either

    That an interval holds 0 makes no tie: with few draws every interval does. A tie is a finding of its own, that the
    difference is too small to matter (equivalence: Schuirmann, J. Pharmacokin. Biopharm. 15, 1987; with an interval at
    95 % instead of his 90 % it is the more careful of the two).

    Args:
        low, high: bounds of the interval, fractions.
        adjusted_p: of the headline test, corrected for the number of comparisons.
        margin: the largest difference that does not matter, a fraction.
        alpha: level of the test.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    if adjusted_p < alpha and not low <= 0 <= high:
        return "better" if low > 0 else "worse"
    return "tie" if -margin <= low and high <= margin else "undecided"


def judged(
    scores: Mapping[str, Sequence[float]], reference: str, margin: float = MARGIN
) -> dict[str, tuple[Paired, Verdict]]:
    """Compare every row with the reference over the same seeds, with Holm's correction over the rows.

    Args:
        scores: row -> one score a seed.
        reference: the row that the others are compared with; it has no entry in the result.
        margin: of ``verdict``.
    """
    others = [name for name in scores if name != reference]
    tests = [paired_by_seed(scores[name], scores[reference]) for name in others]
    adjusted = holm([test.p for test in tests]) if tests else []
    return {
        name: (test, verdict(test.low, test.high, p, margin))
        for name, test, p in zip(others, tests, adjusted, strict=True)
    }


def runs_needed(
    sd_difference: float, effect: float, power: float = 0.8, alpha: float = 0.05
) -> int:
    """Return the fewest runs with which a paired t test finds ``effect`` with chance ``power``.

        power(n) = P(|T| > t_{1−α/2, n−1}),   T ~ noncentral t(n − 1, √n · effect / sd)

    ``sd_difference`` is the sd over runs of the paired difference, in the units of ``effect``.
    Source: Cohen, Statistical Power Analysis (1988), ch. 2. At least 2.

    Raises:
        ValueError: A zero effect, a negative sd, or power or alpha outside (0, 1).
    """
    if not (effect != 0 and math.isfinite(effect) and 0 <= sd_difference < math.inf):
        raise ValueError(
            f"Planning needs a non-zero effect and an sd ≥ 0, got {effect} and {sd_difference}."
        )
    if not (0 < alpha < 1 and 0 < power < 1):
        raise ValueError(f"Power and alpha must lie in (0, 1), got {power} and {alpha}.")
    if sd_difference == 0:
        return 2
    ratio = abs(effect) / sd_difference
    z = scipy.stats.norm.ppf(1 - alpha / 2) + scipy.stats.norm.ppf(power)
    n = max(2, math.ceil(float(z / ratio) ** 2) - 1)  # the normal approximation is just below
    while _t_power(n, ratio, alpha) < power:
        n += 1
    return n


def _t_power(n: int, ratio: float, alpha: float) -> float:
    critical, shift = scipy.stats.t.ppf(1 - alpha / 2, n - 1), math.sqrt(n) * ratio
    above = scipy.stats.nct.sf(critical, n - 1, shift)
    return float(above + scipy.stats.nct.cdf(-critical, n - 1, shift))


def _mcnemar_p(d: NDArray[np.float64]) -> float:
    only_a, only_b = int((d > 0).sum()), int((d < 0).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(scipy.stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def _sign_flip_p(d: NDArray[np.float64], seed: int, resamples: int = 9_999) -> float:
    """Return the two-sided p of the mean under random signs: exact while 2^n ≤ ``resamples``."""
    moving = d[d != 0]  # flipping a zero changes nothing
    if len(moving) < 2:  # either sign of a single difference is as large
        return 1.0
    if 2 ** len(moving) <= resamples:
        exact = scipy.stats.permutation_test(
            (moving,), np.sum, permutation_type="samples", n_resamples=resamples
        )
        return float(exact.pvalue)
    # Differences of one size are flipped together: how many stay positive is binomial.
    sizes, counts = np.unique(np.abs(moving), return_counts=True)
    rng = np.random.default_rng(seed)
    sums = (2 * rng.binomial(counts, 0.5, size=(resamples, len(counts))) - counts) @ sizes
    as_large = np.abs(sums) >= abs(moving.sum()) * (1 - 1e-12)  # rounding must not undo a tie
    return float((as_large.sum() + 1) / (resamples + 1))


def _differences(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    if a.shape != b.shape:
        raise ValueError(f"Pairs need equal shapes, got {a.shape} and {b.shape}; match them first.")
    return a - b


def _image_differences(a: ArrayLike, b: ArrayLike, level: float) -> NDArray[np.float64]:
    """Return a − b as ``(runs, images)``; a vector is one run."""
    x, y = (matrix(np.atleast_2d(np.asarray(values)), level) for values in (a, b))
    if not (np.isin(x, (0, 1)).all() and np.isin(y, (0, 1)).all()):
        raise ValueError("Pass booleans: whether each image was classified correctly.")
    return _differences(x, y)

"""Confidence intervals for a mean over runs, over images, or over both."""

import math
from dataclasses import asdict, dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

BCA_LIMIT = 2_000  # above it the jackknife of BCa is quadratic work for a vanishing correction
CHUNK = 10_000_000  # numbers held at once while resampling (80 MB)


@dataclass(frozen=True)
class Interval:
    """A mean with its spread and a two-sided confidence interval.

    Attributes:
        mean: Mean of the values.
        sd: Standard deviation of the ``n`` values (ddof = 1); NaN for one value.
        low, high: Bounds of the interval; ±infinity where one value says nothing about the spread.
        n: Number of values: runs, or images for an interval over images.
        level: Confidence level, e.g. 0.95.
        method: How the bounds were found.
    """

    mean: float
    sd: float
    low: float
    high: float
    n: int
    level: float
    method: str

    def format(self, scale: float = 100, digits: int = 2) -> str:
        """Return "mean ± sd [low, high]" after multiplication by ``scale`` (100: per cent)."""
        mean, sd, low, high = (
            f"{scale * value:.{digits}f}" for value in (self.mean, self.sd, self.low, self.high)
        )
        return (
            f"{mean} ± {sd} [{low}, {high}]" if self.n > 1 else f"{mean} (one value, no interval)"
        )

    def to_dict(self) -> dict[str, float | int | str]:
        """Return the fields by name."""
        return asdict(self)


def t_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Return the Student-t interval of the mean of ``values`` ``(n,)``.

        mean ± t_{(1+level)/2, n−1} · sd / √n

    It takes the values as independent and about normal: right for accuracies of a few runs.

    Raises:
        ValueError: No values, NaN among them, not a vector, or a level outside (0, 1).
    """
    x = vector(values, level)
    half = math.inf
    if len(x) > 1:
        half = float(
            scipy.stats.t.ppf((1 + level) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
        )
    mean = float(x.mean())
    return Interval(mean, spread(x), mean - half, mean + half, len(x), level, "t")


def bootstrap_interval(
    values: ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = 9_999
) -> Interval:
    """Return a bootstrap interval of the mean of ``values`` ``(n,)``, e.g. correct (0/1) by image.

    BCa (Efron, 1987) up to ``BCA_LIMIT`` values, the percentile interval above, where BCa's
    correction of order 1/√n no longer matters. With fewer than about ten values every bootstrap is
    too narrow; prefer :func:`t_interval` there.

    Raises:
        ValueError: As in :func:`t_interval`.
    """
    x = vector(values, level)
    mean, method = float(x.mean()), "BCa" if len(x) <= BCA_LIMIT else "percentile"
    if len(x) == 1:
        low, high = -math.inf, math.inf
    elif np.ptp(x) == 0:  # every resample has this mean; BCa would divide by zero
        low = high = mean
    else:
        bounds = scipy.stats.bootstrap(
            (x,),
            np.mean,
            confidence_level=level,
            n_resamples=resamples,
            batch=max(1, CHUNK // len(x)),
            method=method,
            rng=np.random.default_rng(seed),
        ).confidence_interval
        low, high = float(bounds.low), float(bounds.high)
    return Interval(mean, spread(x), low, high, len(x), level, f"bootstrap ({method})")


def hierarchical_interval(
    correct: ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = 2_000
) -> Interval:
    """Return the interval of the mean of ``correct`` ``(runs, images)`` over both of its axes.

    Every resample draws runs (support draws) and, independently, images, the same for all runs,
    as all runs are tested on the same images (the pigeonhole bootstrap: Owen, 2007). R runs are
    resampled R − 1 at a time, which makes the between-run variance unbiased (McCarthy and Snowden,
    1985). Resampling both axes counts the noise of single predictions twice, so the interval is
    rather wide than narrow (it covered 0.97 for a nominal 0.95 in simulations with 5 to 15 runs),
    except where runs are few and differ much more than images do. One run leaves only the images to
    resample. ``sd`` and ``n`` are those of the runs.

    Raises:
        ValueError: Not a matrix, empty, NaN, or a level outside (0, 1).
    """
    x = matrix(correct, level)
    low, high = percentile_bounds(resampled_means(x, seed, resamples), level)
    by_run = x.mean(axis=1)
    method = "bootstrap (runs × images)" if len(x) > 1 else "bootstrap (images)"
    return Interval(float(x.mean()), spread(by_run), low, high, len(x), level, method)


def resampled_means(x: NDArray[np.float64], seed: int, resamples: int) -> NDArray[np.float64]:
    """Return ``(resamples,)`` means of ``x`` ``(runs, images)`` with both axes resampled."""
    rng = np.random.default_rng(seed)
    runs, images = x.shape
    drawn = max(1, runs - 1)
    # Resampling is reweighting by how often each row and column was drawn; images with the same
    # outcome in all runs are drawn as one group, which leaves few columns where outcomes are 0/1.
    patterns, counts = np.unique(x, axis=1, return_counts=True)
    means = []
    for size in _chunks(resamples, patterns.shape[1]):
        rows = rng.multinomial(drawn, np.full(runs, 1 / runs), size=size)
        columns = rng.multinomial(images, counts / images, size=size)
        means.append(np.einsum("bi,bi->b", rows @ patterns, columns) / (drawn * images))
    return np.concatenate(means)


def percentile_bounds(samples: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the central ``level`` share of ``samples`` as (low, high)."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def spread(x: NDArray[np.float64]) -> float:
    """Return the standard deviation with ddof = 1, NaN for a single value."""
    return float(x.std(ddof=1)) if len(x) > 1 else math.nan


def vector(values: ArrayLike, level: float) -> NDArray[np.float64]:
    """Return ``values`` as a float vector, or say why they are none."""
    return _floats(values, level, ndim=1, shape="a vector (n,)")


def matrix(values: ArrayLike, level: float) -> NDArray[np.float64]:
    """Return ``values`` as a float matrix, or say why they are none."""
    return _floats(values, level, ndim=2, shape="a matrix (runs, images)")


def _floats(values: ArrayLike, level: float, ndim: int, shape: str) -> NDArray[np.float64]:
    if not 0 < level < 1:
        raise ValueError(f"The confidence level must lie in (0, 1), e.g. 0.95, not {level}.")
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != ndim or x.size == 0:
        raise ValueError(f"Expected {shape} with at least one value, got shape {x.shape}.")
    if not np.isfinite(x).all():
        raise ValueError(f"{int((~np.isfinite(x)).sum())} of {x.size} values are NaN or infinite.")
    return x


def _chunks(total: int, width: int) -> list[int]:
    """Split ``total`` resamples of ``width`` numbers into chunks of bounded memory."""
    size = max(1, CHUNK // width)
    return [min(size, total - start) for start in range(0, total, size)]

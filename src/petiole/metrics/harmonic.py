"""Base and novel accuracy as one number."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean


def harmonic_mean(base: float, novel: float) -> float:
    """HM = 2 b n / (b + n); 0 where both are 0.

    Raises:
        ValueError: an accuracy that is negative, or no number.
    """
    if not (base >= 0 and novel >= 0):
        raise ValueError(f"Accuracies must be numbers from 0 up, not {base} and {novel}.")
    return 2 * base * novel / (base + novel) if base + novel else 0.0


def hm_of_means(base: Sequence[float], novel: Sequence[float]) -> float:
    """The HM of the averaged accuracies: what the papers print as "average HM" (base to novel; Zhou et al., 2022, CoCoOp)."""
    return harmonic_mean(fmean(base), fmean(novel))


def mean_of_hms(base: Sequence[float], novel: Sequence[float]) -> float:
    """The average of the single HMs, by run or data set; never above ``hm_of_means``."""
    return fmean(harmonic_mean(b, n) for b, n in zip(base, novel, strict=True))

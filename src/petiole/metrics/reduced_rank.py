"""Rank as capacity in the one setting that can be computed: reduced-rank regression.

    y = D x + e,   x ~ N(0, I_d),   e ~ N(0, tau^2 I_d),   D = diag(sigma_1, ..., sigma_d)

From n samples, the map of rank r with the least squared error is the least-squares map B projected on
the r leading right singular vectors of its fit X B (Izenman, 1975). Its excess risk over the risk of D
itself, as a share of that of no correction at all, is

    |B_r - D|_F^2 / |D|_F^2

because x has second moment I. It falls with r while directions are gained, and rises where noise is
fitted: U-shaped unless n is much larger than r d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, NOISE, DRAWS = 64, 0.5, 20
SAMPLES = (100, 200, 500, 2_000, 20_000)
RANKS = (0, 1, 2, 4, 8, 16, 32, 64)
SPECTRUM = 1 / np.arange(1.0, WIDTH + 1)
"""sigma_j = 1 / j."""


def effective_rank(values: Sequence[float] | NDArray[np.float64]) -> float:
    """exp(H(p)),  p_i = s_i / Σ s, of singular values s (Roy and Vetterli, 2007); 0 where all are 0.

    Raises:
        ValueError: values that are negative or no numbers.
    """
    s = np.asarray(values, dtype=np.float64)
    if not (np.isfinite(s) & (s >= 0)).all():
        raise ValueError("Singular values must be finite numbers from 0 up.")
    p = s[s > 0] / s.sum() if s.any() else s[:0]
    return float(np.exp(-(p * np.log(p)).sum())) if len(p) else 0.0


@dataclass(frozen=True)
class ExcessRisk:
    """Normalised excess risk by rank: mean over draws, and the standard error of that mean."""

    samples: int
    ranks: tuple[int, ...]
    mean: NDArray[np.float64]
    error: NDArray[np.float64]

    @property
    def best(self) -> int:
        """The rank of the least mean."""
        return self.ranks[int(self.mean.argmin())]


def simulate(
    samples: int,
    spectrum: NDArray[np.float64] = SPECTRUM,
    *,
    noise: float = NOISE,
    ranks: Sequence[int] = RANKS,
    draws: int = DRAWS,
    seed: int = 0,
) -> ExcessRisk:
    """Draw data sets of so many samples and fit maps of every rank.

    Args:
        samples: n, at least as many as there are dimensions.
        spectrum: sigma_j, (d,).
        noise: tau.
        ranks: from 0 up to d.
        draws: data sets.
        seed: of all of them.

    Raises:
        ValueError: fewer samples than dimensions: least squares has no unique solution.
    """
    if samples < len(spectrum):
        raise ValueError(f"{len(spectrum)} dimensions need as many samples, not {samples}.")
    rng = np.random.default_rng(seed)
    risks = np.stack([_risks(rng, samples, spectrum, noise, ranks) for _ in range(draws)])
    error = risks.std(axis=0, ddof=1) / np.sqrt(draws)
    return ExcessRisk(samples, tuple(ranks), risks.mean(axis=0), error)


def _risks(
    rng: np.random.Generator,
    samples: int,
    spectrum: NDArray[np.float64],
    noise: float,
    ranks: Sequence[int],
) -> list[float]:
    shape = samples, len(spectrum)
    x, e = rng.standard_normal(shape), noise * rng.standard_normal(shape)
    q, upper = np.linalg.qr(x)
    fitted = q.T @ (x * spectrum + e)  # X B in the basis of X's columns
    b = np.linalg.solve(upper, fitted)
    leading = np.linalg.svd(fitted)[2]
    wanted, scale = np.diag(spectrum), (spectrum**2).sum()
    maps = (b @ leading[:r].T @ leading[:r] for r in ranks)
    return [float(((m - wanted) ** 2).sum() / scale) for m in maps]

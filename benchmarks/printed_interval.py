"""A 95 % interval from figures that a page prints, where the runs behind them are gone: mean, sd and number of runs.

    python benchmarks/printed_interval.py 42.4 1.3 6                    # Student's t
    python benchmarks/printed_interval.py 99.9 0.1 6 0.0 0.0 3          # first minus second, Welch's t

A printed sd of 0.0 is taken for 0.05, the largest that prints so. Welch's interval does not use that runs were paired.
"""

from __future__ import annotations

import math
import sys

from scipy.stats import t

LEVEL = 0.95
LEAST = 0.05
"""The largest sd that prints as 0.0."""


def of_mean(mean: float, sd: float, n: float) -> tuple[float, float, float]:
    """Mean and bounds."""
    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * max(sd, LEAST) / math.sqrt(n)
    return mean, mean - half, mean + half


def of_difference(
    first: tuple[float, float, float], second: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Difference and bounds (Welch, Biometrika 34, 1947)."""
    errors = [max(sd, LEAST) ** 2 / n for _, sd, n in (first, second)]
    freedom = sum(errors) ** 2 / sum(
        e**2 / (n - 1) for e, (_, _, n) in zip(errors, (first, second), strict=True)
    )
    half = float(t.ppf((1 + LEVEL) / 2, freedom)) * math.sqrt(sum(errors))
    gap = first[0] - second[0]
    return gap, gap - half, gap + half


def main() -> None:
    numbers = [float(word) for word in sys.argv[1:]]
    if len(numbers) == 3:
        found = of_mean(*numbers)
    elif len(numbers) == 6:
        a, b, c, d, e, f = numbers
        found = of_difference((a, b, c), (d, e, f))
    else:
        raise SystemExit("State MEAN SD RUNS, or MEAN SD RUNS MEAN SD RUNS.")
    print("{:+.1f} [{:.1f}, {:.1f}]".format(*found).replace("-", "−"))


if __name__ == "__main__":
    main()

"""Why more rank is not always better: the excess risk of reduced-rank regression, by rank and n.

    python examples/reduced_rank.py

d = 64, sigma_j = 1 / j, noise 0.5, 20 draws; the best rank of each row in brackets. Only the last row,
the energy that a map of rank r must miss, falls for certain; the threshold rule counts the directions
with sigma_j^2 > 2 d tau^2 / n.
"""

from petiole.metrics.elbow import excess_risk, threshold_rank
from petiole.metrics.reduced_rank import DRAWS, NOISE, RANKS, SAMPLES, SPECTRUM, WIDTH, simulate


def main() -> None:
    """Print the table."""
    print(f"{'n':>8}" + "".join(f"{f'r={r}':>9}" for r in RANKS) + f"{'best':>7}{'threshold':>11}")
    largest = 0.0
    for n in SAMPLES:
        risk = simulate(n)
        cells = [
            f"[{mean:.3f}]" if rank == risk.best else f"{mean:.3f} "
            for rank, mean in zip(RANKS, risk.mean, strict=True)
        ]
        predicted = threshold_rank(SPECTRUM, WIDTH, NOISE**2, n)
        print(f"{n:>8}" + "".join(f"{c:>9}" for c in cells) + f"{risk.best:>7}{predicted:>11}")
        largest = max(largest, float((risk.error / risk.mean).max()))
    tail = excess_risk(SPECTRUM, WIDTH, 0.0, 1, RANKS).total / (SPECTRUM**2).sum()
    print(f"{'tail':>8}" + "".join(f"{f'{t:.3f} ':>9}" for t in tail))
    print(f"\nStandard errors over {DRAWS} draws are at most {100 * largest:.1f} % of a cell.")


if __name__ == "__main__":
    main()

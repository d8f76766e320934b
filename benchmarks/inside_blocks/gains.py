"""Whether gains diminish as rank rises: the gain of the first eightfold rank less that of the second, of finished sweeps of three ranks.

    python benchmarks/inside_blocks/gains.py OUT/tiny-vit-clothing128 OUT/tiny-clip-clothing128 ...

Of the largest share of each sweep's images, paired by seed; verdicts stand Holm's correction over all sweeps that are named: *better* says that
gains diminish, *worse* that they grow. docs/elbow.md holds what it gave.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petiole.metrics.paired import holm, paired_by_seed, verdict
from petiole.protocols.comparison import Comparison


def gains(sweep: Path) -> NDArray[np.float64]:
    """Of a sweep with all images, (2, seeds): from the first rank to the second, and on to the third; fractions.

    Raises:
        SystemExit: it has another number of ranks, or they are not equally far apart.
    """
    root = sweep / "fraction-1"
    compared = Comparison.read(root)
    ranks = [int(row.name.removeprefix("r")) for row in compared.rows]
    if len(ranks) != 3 or ranks[0] * ranks[2] != ranks[1] ** 2:
        raise SystemExit(
            f"{root}: ranks are {ranks}, not three of which each is the same multiple of the one before. "
            "Name sweeps of such ranks."
        )
    accuracies = [
        [record.scores[compared.scored]["accuracy"] for record in compared.records(root, row)]
        for row in compared.rows
    ]
    return np.diff(np.array(accuracies), axis=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="+", type=Path)
    given = parser.parse_args()
    found = {sweep.name: gains(sweep) for sweep in given.sweeps}
    tests = [paired_by_seed(first, second) for first, second in found.values()]
    corrected = holm([test.p for test in tests])
    print("| Sweep | first gain | second gain | first less second | Verdict |")
    print("|---|---:|---:|---:|---|")
    for (name, (first, second)), test, p in zip(found.items(), tests, corrected, strict=True):
        cells = [f"{100 * first.mean():+.1f}", f"{100 * second.mean():+.1f}"]
        low, high = 100 * test.low, 100 * test.high
        cells.append(f"{100 * test.difference:+.1f} [{low:.1f}, {high:.1f}]")
        said = verdict(test.low, test.high, p)
        print(f"| {name} |", " | ".join(cells).replace("-", "−"), f"| {said} |")


if __name__ == "__main__":
    main()

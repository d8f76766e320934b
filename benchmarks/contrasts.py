"""Any score of a finished ``petiole generalise``, ``compare`` or ``multitask`` by row and place, and contrasts of rows, paired by run.

A contrast is a sum of rows, e.g. "carot - clip-lora", or "ogen-200 - ogen-10 - coop-200 + coop-10" for how much less one falls than the other.
Verdicts stand Holm's correction over all that are judged; *better* is more of the score, so of ece and nll *worse* is the good end.

    python benchmarks/contrasts.py ROOT "carot - clip-lora" --score ece --places average

Seeds that were added after a look at earlier ones are judged without them: --skip leaves the first runs of every row out.
Of many tasks every place is a task with its own headline, or Avg, their mean; there is no --score.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petiole.engine.record import read_record
from petiole.errors import RunError
from petiole.metrics.harmonic import harmonic_mean
from petiole.metrics.paired import holm, paired_by_seed, verdict
from petiole.protocols import multitask
from petiole.protocols.comparison import COMPARISON, Comparison
from petiole.protocols.generalisation import Generalisation, transductive
from petiole.protocols.jobs import average, headlines
from petiole.report.scores import AVERAGE as AVERAGE_OF_TASKS
from petiole.tasks.classification.transfer_eval import TRANSFER, read_transfer

Values = NDArray[np.float64]
TEST, MEAN, AVERAGE = "test", "HM", "average"
"""Of a comparison; of base and novel; of the places elsewhere. As in the protocol's own tables."""


def values(root: Path, score: str) -> dict[str, dict[str, Values]]:
    """Row -> place -> the score (runs,).

    Raises:
        SystemExit: a run has not been scored everywhere.
    """
    if (root / COMPARISON).exists():
        compared = Comparison.read(root)
        return {
            row.name: {
                TEST: np.array([r.scores["test"][score] for r in compared.records(root, row)])
            }
            for row in compared.rows
        }
    if (root / multitask.STATE).exists():
        return tasks_of(root)
    protocol = Generalisation.read(root)
    own = "source" if protocol.kind == "elsewhere" else "base"
    found: dict[str, dict[str, Values]] = {}
    for row in protocol.rows:
        folders = protocol.runs(root, row)
        places: dict[str, list[float]] = {}
        if own == "source" or not transductive(row.method):  # which is tested on either half alike
            places[own] = [read_record(folder).scores["test"][score] for folder in folders]
        for folder in folders:
            for file in sorted((folder / TRANSFER).glob("*.json")):
                places.setdefault(file.stem, []).append(read_transfer(file).scores[score])
        others = () if protocol.kind == "few-shot" else protocol.places
        check_scored(root, row.name, places, [own, *others], len(folders))
        found[row.name] = {place: np.array(each) for place, each in places.items()}
        if protocol.kind == "base-to-novel" and score == "accuracy":
            halves = zip(*found[row.name].values(), strict=True)
            found[row.name][MEAN] = np.array([harmonic_mean(*pair) for pair in halves])
        if protocol.kind == "elsewhere":
            elsewhere = [each for place, each in found[row.name].items() if place != own]
            found[row.name][AVERAGE] = np.mean(elsewhere, axis=0)
    return found


def check_scored(
    root: Path,
    row: str,
    scored: Mapping[str, Sequence[float]],
    places: Iterable[str],
    runs: int,
) -> None:
    """That every run of a row has a score at every place: contrasts are paired by run.

    Raises:
        SystemExit: naming the row, and how many are missing where.
    """
    missing = {place: runs - len(scored.get(place, ())) for place in places}
    if any(missing.values()):
        said = ", ".join(f"{n} at {place}" for place, n in missing.items() if n)
        raise SystemExit(
            f"{root}: of the {runs} runs of {row} these scores are missing: {said}. Repeat the command that trained them "
            "with --resume; finished runs are kept."
        )


def tasks_of(root: Path) -> dict[str, dict[str, Values]]:
    """Row -> task, and their mean -> its headline (runs,)."""
    protocol = multitask.Multitask.read(root)
    found = {}
    for row in protocol.rows:
        records = protocol.records(root, row)
        by_run = [headlines(record) for record in records]
        found[row.name] = {
            **{task: np.array([one[task] for one in by_run]) for task in by_run[0]},
            AVERAGE_OF_TASKS: np.array([average(record) for record in records]),
        }
    return found


def later(rows: dict[str, dict[str, Values]], skip: int) -> dict[str, dict[str, Values]]:
    """The scores without those of the first runs of every row.

    Raises:
        SystemExit: fewer than two runs would be left.
    """
    found = {name: {place: v[skip:] for place, v in of.items()} for name, of in rows.items()}
    if skip < 0 or any(len(v) < 2 for of in found.values() for v in of.values()):
        most = min(len(v) for of in rows.values() for v in of.values())
        raise SystemExit(
            f"--skip {skip} of {most} runs: two or more must be left, so 0 to {most - 2}."
        )
    return found


def contrast(rows: dict[str, dict[str, Values]], said: str, place: str) -> Values:
    """The sum that a contrast states, by run."""
    signed = f"+ {said}".split()
    return np.sum(
        [
            (1 if sign == "+" else -1) * rows[name][place]
            for sign, name in zip(signed[::2], signed[1::2], strict=True)
        ],
        axis=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("contrasts", nargs="+")
    parser.add_argument("--score", default="accuracy")
    parser.add_argument("--places", nargs="+", help="that are judged; all by default")
    parser.add_argument("--skip", type=int, default=0, help="runs of every row, the first ones")
    given = parser.parse_args()
    try:
        rows = later(values(given.root, given.score), given.skip)
    except RunError as error:
        raise SystemExit(str(error)) from error
    places = list(next(iter(rows.values())))
    print("| Row |", " | ".join(places), "|\n|---|" + "---:|" * len(places))
    for name, found in rows.items():
        cells = [f"{100 * v.mean():.1f} ± {100 * v.std(ddof=1):.1f}" for v in found.values()]
        print(f"| {name} |", " | ".join(cells), "|")
    print("\n| Contrast | place | points | Verdict |\n|---|---|---:|---|")
    tests = {}
    for said, place in product(given.contrasts, places):
        summed = contrast(rows, said, place)
        tests[said, place] = paired_by_seed(summed, np.zeros_like(summed))
    judged = [each for each in tests if each[1] in (given.places or places)]
    p = dict(zip(judged, holm([tests[each].p for each in judged]), strict=True))
    for (said, place), test in tests.items():
        low, high = 100 * test.low, 100 * test.high
        points = f"{100 * test.difference:+.1f} [{low:.1f}, {high:.1f}]".replace("-", "−")
        found = verdict(test.low, test.high, p[said, place]) if (said, place) in p else "–"
        print(f"| {said} | {place} | {points} | {found} |")


if __name__ == "__main__":
    main()

"""The runs of a comparison, read from their records and checked to be comparable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petiole.engine.record import RECORD, Record, read_record
from petiole.errors import RunError
from petiole.files import sha256
from petiole.protocols.comparison import Comparison, ComparisonRow
from petiole.tasks.classification.predictions import TENSORS, StoredPredictions, read_predictions

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        folder: where it lies.
        record: what it was and gave.
        predictions: probabilities (n, K) and labels (n,) of the test images.
    """

    folder: Path
    record: Record
    predictions: StoredPredictions

    @property
    def labels(self) -> NDArray[np.int64]:
        """True class of every test image, (n,)."""
        return np.asarray(self.predictions.labels.numpy(), dtype=np.int64)

    @property
    def probabilities(self) -> Floats:
        """Predicted probabilities of every test image, (n, K)."""
        return self.predictions.probabilities.double().numpy()

    @property
    def guesses(self) -> NDArray[np.int64]:
        """Most probable class of every test image, (n,)."""
        return np.asarray(self.probabilities.argmax(axis=1), dtype=np.int64)

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each test image was classified correctly, (n,)."""
        return np.asarray(self.guesses == self.labels)


@dataclass(frozen=True)
class RowRuns:
    """All runs of one row: draw 0 with every init, then draw 1, and so on."""

    row: ComparisonRow
    runs: list[Run]
    draws: int

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Correctness by run and image, (draws · inits, n)."""
        return np.stack([run.correct for run in self.runs])

    @property
    def correct_by_draw(self) -> Floats:
        """Share of a draw's inits that get an image right, (draws, n): the draw is the unit."""
        shares = self.correct.reshape(self.draws, -1, len(self.runs[0].labels)).mean(axis=1)
        return np.asarray(shares, dtype=np.float64)

    def by_draw(self, value: Callable[[Record], float]) -> Floats:
        """A number of each record, averaged over the inits of a draw, (draws,)."""
        values = np.array([value(run.record) for run in self.runs], dtype=np.float64)
        return np.asarray(values.reshape(self.draws, -1).mean(axis=1))

    def median(self, value: Callable[[Record], float]) -> float:
        """The median of a number over all runs."""
        return float(np.median([value(run.record) for run in self.runs]))


@dataclass(frozen=True)
class Results:
    """A comparison with everything that its runs recorded."""

    folder: Path
    comparison: Comparison
    rows: list[RowRuns]

    def row(self, name: str) -> RowRuns:
        """Return the runs of the row called ``name``."""
        return next(row for row in self.rows if row.row.name == name)

    @property
    def headline(self) -> RowRuns:
        """The runs of the headline row."""
        return self.row(self.comparison.headline)

    @property
    def runs(self) -> list[Run]:
        """All runs, row by row."""
        return [run for row in self.rows for run in row.runs]


def read_results(folder: Path) -> Results:
    """Read a comparison folder and all of its runs.

    Raises:
        RunError: no comparison, runs that are missing (all are named), predictions that are not
            the recorded ones, or runs that were tested on other images.
    """
    comparison = Comparison.read(folder)
    wanted = [run for row in comparison.rows for run in comparison.runs(folder, row)]
    missing = [run for run in wanted if not (run / RECORD).is_file()]
    if missing:
        names = "\n".join(f"  {run.relative_to(folder)}" for run in missing[:10])
        more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise RunError(
            f"{len(missing)} of {len(wanted)} runs of {folder} are not finished:\n{names}{more}\n"
            "Repeat the petiole compare command with --resume."
        )
    rows = [
        RowRuns(row, [read_run(run) for run in comparison.runs(folder, row)], comparison.draws)
        for row in comparison.rows
    ]
    results = Results(folder, comparison, rows)
    for run in results.runs:
        _same_test(results.runs[0], run)
    return results


def read_run(folder: Path) -> Run:
    """Read one run folder.

    Raises:
        RunError: it is incomplete or damaged, or its predictions are not the recorded ones.
    """
    record = read_record(folder)
    file = folder / TENSORS
    if not file.is_file() or sha256(file) != record.files.get(TENSORS):
        raise RunError(
            f"{file} is missing or not the one that {RECORD} describes (checksum differs). "
            "Restore the run folder, or delete it and run it again."
        )
    return Run(folder, record, read_predictions(folder))


def _same_test(first: Run, run: Run) -> None:
    if run.predictions.ids != first.predictions.ids or (run.labels != first.labels).any():
        raise RunError(
            f"{run.folder} was tested on other images than {first.folder}, so they cannot be "
            "compared. Run both on the same data."
        )

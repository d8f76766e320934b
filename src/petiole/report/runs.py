"""Runs of every kind, read from their records and checked to be comparable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from petiole.engine.record import LOG, RECORD, Record, read_log, read_record, recorded
from petiole.errors import RunError
from petiole.protocols.comparison import Comparison, ComparisonRow
from petiole.protocols.protocol import RowsProtocol
from petiole.tasks.classification.predictions import TENSORS, StoredPredictions, read_predictions

Floats = NDArray[np.float64]


class ScoredImages:
    """What a model predicted of labelled images; subclasses say where that and the class names are."""

    @property
    def predictions(self) -> StoredPredictions:
        """Probabilities (n, K) and labels (n,)."""
        raise NotImplementedError

    @property
    def classes(self) -> list[str]:
        """Names in the order of the labels."""
        raise NotImplementedError

    @property
    def name(self) -> str:
        """What it is called in sentences."""
        raise NotImplementedError

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
class Run(ScoredImages):
    """One finished run.

    Attributes:
        folder: where it lies.
        record: what it was and gave.
    """

    folder: Path
    record: Record

    @property
    def log(self) -> list[dict[str, float]]:
        """Step, loss and learning rate; empty where nothing is trained by gradient.

        Raises:
            RunError: they are not the recorded ones.
        """
        if LOG in self.record.files or (self.folder / LOG).exists():
            recorded(self.folder, self.record, LOG)
        return read_log(self.folder)

    @cached_property
    def predictions(self) -> StoredPredictions:
        """Probabilities (n, K) and labels (n,) of the test images of a classification run.

        Raises:
            RunError: they are not the recorded ones.
        """
        return read_predictions(recorded(self.folder, self.record, TENSORS).parent)

    @property
    def classes(self) -> list[str]:
        return self.record.request.data.classes

    @property
    def name(self) -> str:
        return str(self.folder)


@dataclass(frozen=True)
class RowRuns:
    """All runs of one row: split seed 0 with every seed, then split seed 1, and so on."""

    row: ComparisonRow
    runs: list[Run]
    split_seeds: int

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Correctness by run and image, (split_seeds · seeds, n)."""
        return np.stack([run.correct for run in self.runs])

    @property
    def correct_by_split(self) -> Floats:
        """Share of a split's seeds that get an image right, (split_seeds, n): the split is the unit."""
        by_split = self.correct.reshape(self.split_seeds, -1, len(self.runs[0].labels))
        return np.asarray(by_split.mean(axis=1), dtype=np.float64)

    def by_split(self, value: Callable[[Record], float]) -> Floats:
        """A number of each record, averaged over the seeds of a split, (split_seeds,)."""
        values = np.array([value(run.record) for run in self.runs], dtype=np.float64)
        return np.asarray(values.reshape(self.split_seeds, -1).mean(axis=1))

    def median(self, value: Callable[[Record], float]) -> float:
        """The median of a number over all runs."""
        return float(np.median([value(run.record) for run in self.runs]))


@dataclass(frozen=True)
class Results:
    """A comparison of photos with everything that its runs recorded."""

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
    """Read a comparison of photos and all of its runs.

    Raises:
        RunError: no comparison, runs that are missing (all are named), predictions that are not
            the recorded ones, or runs that were tested on other images.
    """
    comparison = Comparison.read(folder)
    rows = [
        RowRuns(row, runs, comparison.split_seeds)
        for row, runs in zip(comparison.rows, read_runs(comparison, folder), strict=True)
    ]
    results = Results(folder, comparison, rows)
    for run in results.runs:
        _same_test(results.runs[0], run)
    return results


def read_runs(protocol: RowsProtocol, folder: Path) -> list[list[Run]]:
    """Read the runs of every row.

    Raises:
        RunError: runs that are missing (all are named) or damaged.
    """
    wanted = [run for row in protocol.rows for run in protocol.runs(folder, row)]
    missing = [run for run in wanted if not (run / RECORD).is_file()]
    if missing:
        names = "\n".join(f"  {run.relative_to(folder)}" for run in missing[:10])
        more = f"\n  and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise RunError(
            f"{len(missing)} of {len(wanted)} runs of {folder} are not finished:\n{names}{more}\n"
            "Repeat the command that wrote it with --resume."
        )
    return [[read_run(run) for run in protocol.runs(folder, row)] for row in protocol.rows]


def read_run(folder: Path) -> Run:
    """Read one run folder.

    Raises:
        RunError: it is incomplete or damaged.
    """
    return Run(folder, read_record(folder))


def _same_test(first: Run, run: Run) -> None:
    if run.predictions.ids != first.predictions.ids or (run.labels != first.labels).any():
        raise RunError(
            f"{run.folder} was tested on other images than {first.folder}, so they cannot be "
            "compared. Run both on the same data."
        )

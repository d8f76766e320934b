"""Settings chosen on validation only: a row with a grid is tried at every point of it.

The validation images are held back from the training images, another share of them in every fold, the same for every
point and row; the test set stays closed. The point of the least mean log-loss wins (the first of equals, so a
grid is written from the most careful value up), and the row's runs then train on all training images. Accuracy would
leave many points equal on the few images that there are.

    tuning/<row>/<index>/fold-<i>/      the run folders of each point, in the order of ``points``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from petiole.engine.record import read_record
from petiole.engine.run import RunSpec
from petiole.layers.grid import end_of_grid
from petiole.methods.registry import find
from petiole.protocols.comparison import Comparison
from petiole.protocols.protocol import ComparisonRow, RowsProtocol


def with_rates(rows: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """Give every row whose method states learning rates worth trying a grid of them."""
    rates = {row.name: find(row.method).cls.lr_grid for row in rows}
    return [
        row.model_copy(update={"grid": {"lr": list(rates[row.name])}}) if rates[row.name] else row
        for row in rows
    ]


def points(row: ComparisonRow) -> list[dict[str, Any]]:
    """Every combination of the row's grid; one empty one where there is none."""
    return [dict(zip(row.grid, values, strict=True)) for values in product(*row.grid.values())]


def trials(comparison: Comparison, jobs: Sequence[RunSpec], folder: Path) -> list[RunSpec]:
    """One run for each point of each row's grid and each fold.

    Args:
        comparison: its rows may carry grids.
        jobs: of the comparison, row by row.
        folder: of the comparison.
    """
    return [
        trial_spec(comparison, jobs, folder, row, i, fold, point)
        for row in comparison.rows
        if row.grid
        for i, point in enumerate(points(row))
        for fold in range(folds_of(comparison))
    ]


def trial_spec(
    comparison: Comparison,
    jobs: Sequence[RunSpec],
    folder: Path,
    row: ComparisonRow,
    trial: int,
    fold: int,
    settings: Mapping[str, Any],
) -> RunSpec:
    """One fold of one trial: the row's run on split seed 0 and seed 0, scored on validation, with other settings."""
    first = jobs[comparison.rows.index(row) * comparison.split_seeds * comparison.seeds]
    return replace(
        first,
        settings={**first.settings, **settings},
        folder=fold_folder(folder, row, trial, fold),
        options=replace(first.options, validation=comparison.validation, fold=fold, vectors=False),
    )


def folds_of(comparison: Comparison) -> int:
    """How often another share of the training images can be held back."""
    return int(1 / comparison.validation + 1e-9) if comparison.validation else 0


def fold_folder(root: Path, row: ComparisonRow, point: int, fold: int) -> Path:
    """Where the run of one fold of a trial lies."""
    return root / "tuning" / row.name / str(point) / f"fold-{fold}"


def choose(comparison: Comparison, folder: Path) -> dict[str, dict[str, Any]]:
    """The best point of each row with a grid, from the trials' records."""
    return {
        row.name: points(row)[_best(comparison, row, folder)] for row in comparison.rows if row.grid
    }


def _best(comparison: Comparison, row: ComparisonRow, folder: Path) -> int:
    losses = [
        fmean(
            read_record(fold_folder(folder, row, i, fold)).main["nll"]
            for fold in range(folds_of(comparison))
        )
        for i in range(len(points(row)))
    ]
    return losses.index(min(losses))


def settled(
    protocol: RowsProtocol, jobs: Sequence[RunSpec], chosen: Mapping[str, Mapping[str, Any]]
) -> list[RunSpec]:
    """The protocol's jobs, as many of each row, with what was chosen for their row."""
    each = len(jobs) // len(protocol.rows)
    rows = [row for row in protocol.rows for _ in range(each)]
    return [
        replace(job, settings={**job.settings, **chosen.get(row.name, {})})
        for job, row in zip(jobs, rows, strict=True)
    ]


def notes(comparison: Comparison, chosen: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence for each row on what was chosen, and whether at an end of the grid."""
    lines = []
    for row in comparison.rows:
        for key, value in chosen.get(row.name, {}).items():
            grid = row.grid[key]
            end = f", {told}" if (told := end_of_grid(grid, value)) else ""
            listed = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in grid)
            lines.append(
                f"{row.label}: {key}={value} of ({listed}) by mean log-loss of {folds_of(comparison)} folds{end}."
            )
    return lines

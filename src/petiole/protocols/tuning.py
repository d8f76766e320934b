"""Settings chosen on validation only: a row with a grid is tried at every point of it, once.

The validation images are held back from the training images and are the same for every point and
row; the test set stays closed. The point of the best accuracy wins (the first of equals, so a grid
is written from the most careful value up), and the row's runs then train on all training images.

    tuning/<row>/<index>/      one run folder for each point, in the order of ``points``
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from petiole.engine.record import read_record
from petiole.engine.run import RunSpec
from petiole.methods.registry import find
from petiole.protocols.comparison import Comparison
from petiole.protocols.protocol import ComparisonRow, average


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
    """One run on the validation images for each point of each row's grid.

    Args:
        comparison: its rows may carry grids.
        jobs: of the comparison, row by row.
        folder: of the comparison.
    """
    each = comparison.split_seeds * comparison.seeds
    return [
        replace(
            jobs[index * each],  # split seed 0, seed 0
            settings={**jobs[index * each].settings, **point},
            folder=folder / "tuning" / row.name / str(i),
            options=replace(
                jobs[index * each].options, validation=comparison.validation, vectors=False
            ),
        )
        for index, row in enumerate(comparison.rows)
        if row.grid
        for i, point in enumerate(points(row))
    ]


def choose(comparison: Comparison, folder: Path) -> dict[str, dict[str, Any]]:
    """The best point of each row with a grid, from the trials' records."""
    return {
        row.name: points(row)[_best(folder / "tuning" / row.name, len(points(row)))]
        for row in comparison.rows
        if row.grid
    }


def _best(folder: Path, count: int) -> int:
    scores = [average(read_record(folder / str(i))) for i in range(count)]
    return scores.index(max(scores))


def settled(
    comparison: Comparison, jobs: Sequence[RunSpec], chosen: Mapping[str, Mapping[str, Any]]
) -> list[RunSpec]:
    """The comparison's jobs with what was chosen for their row."""
    each = comparison.split_seeds * comparison.seeds
    rows = [row for row in comparison.rows for _ in range(each)]
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
            edge = len(grid) > 2 and value in (grid[0], grid[-1])
            end = ", an end of the grid: the best value may lie beyond" if edge else ""
            listed = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in grid)
            lines.append(f"{row.label}: {key}={value} of ({listed}) by validation accuracy{end}.")
    return lines

"""How many draws, and seeds on each, a comparison needs to see a difference: from the spread of its own runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from petiole.engine.model_card import FrozenModel
from petiole.errors import ConfigError, RunError
from petiole.metrics.statistics import runs_needed
from petiole.report.runs import Floats, read_results


class PlannedRow(FrozenModel):
    """One row against the reference.

    Attributes:
        spread: sd over draws of the paired difference, each draw's seeds averaged, in points.
        spread_of_seeds: sd over seeds on one draw, in points; ``None`` with one seed.
        draws: that find the difference, with as many seeds on each as now.
        draws_with_more_seeds: with three times as many seeds; ``None`` with one seed.
    """

    label: str
    spread: float
    spread_of_seeds: float | None
    draws: int
    draws_with_more_seeds: int | None


def plan_rows(folder: Path, difference: float, power: float) -> tuple[list[PlannedRow], str]:
    """Plan by the runs of a comparison; also returns the reference's label.

    The paired t test over draws is planned for: var = draws' variance + seeds' variance / seeds, both taken from the
    runs at hand, so a plan from few draws is itself uncertain (an sd from five draws is off by a third either way).

    Args:
        folder: of a comparison.
        difference: to be found, in points.
        power: chance to find it.

    Raises:
        ConfigError: values out of range.
        RunError: no comparison, or one draw, which says nothing about draws.
    """
    if not difference > 0 or not 0 < power < 1:
        raise ConfigError(
            f"A plan needs a difference above 0 points and a power between 0 and 1, not {difference:g} and {power:g}."
        )
    results = read_results(folder)
    comparison = results.comparison
    if comparison.split_seeds < 2:
        raise RunError(
            f"{folder} has one draw of the training images, which says nothing about the next. Compare with "
            "--split-seeds 3 or more."
        )

    def scores(row: int) -> Floats:
        runs = results.rows[row].runs
        accuracy = [100 * run.record.main["accuracy"] for run in runs]
        return np.array(accuracy).reshape(comparison.split_seeds, comparison.seeds)

    names = [row.row.name for row in results.rows]
    reference = names.index(comparison.reference)
    planned = [
        _planned(row.row.label, scores(i) - scores(reference), difference, power)
        for i, row in enumerate(results.rows)
        if i != reference
    ]
    return planned, results.rows[reference].row.label


def _planned(label: str, d: Floats, difference: float, power: float) -> PlannedRow:
    """From paired differences (draws, seeds)."""
    seeds = d.shape[1]
    total = float(d.mean(axis=1).var(ddof=1))

    def needed(variance: float) -> int:
        return runs_needed(variance**0.5, difference, power)

    of_seeds, with_more = None, None
    if seeds > 1:
        within = float(d.var(axis=1, ddof=1).mean())
        between = max(0.0, total - within / seeds)
        of_seeds, with_more = within**0.5, needed(between + within / (3 * seeds))
    return PlannedRow(
        label=label,
        spread=total**0.5,
        spread_of_seeds=of_seeds,
        draws=needed(total),
        draws_with_more_seeds=with_more,
    )

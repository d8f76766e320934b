"""Settings that are chosen on validation images before runs begin: by a row's grid, or by a search in its ranges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Unpack

from petiole.engine.run import RunSpec
from petiole.errors import ConfigError
from petiole.protocols import tuning
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import Running, run_jobs
from petiole.protocols.protocol import ComparisonRow, rows_of
from petiole.protocols.search import forecast, search, with_ranges


@dataclass(frozen=True)
class Tuning:
    """How settings are chosen.

    Attributes:
        validation: share of the training images on which it is decided.
        trials: of a search; 0 tries the grids of learning rates instead.
        ranges: of settings that are searched beside the learning rate, as ``search_space.parse_ranges`` takes them.
        storage: URL of an Optuna storage; by default a journal in the folder.
    """

    validation: float = 0.25
    trials: int = 0
    ranges: Sequence[str] = field(default=())
    storage: str | None = None

    def rows(self, rows: Sequence[ComparisonRow], settings: dict[str, Any]) -> list[ComparisonRow]:
        """The rows with what is tried of each.

        Raises:
            ConfigError: a range of a setting that no row has, or whose ends a method refuses.
        """
        if self.trials:
            return with_ranges(rows, settings, self.ranges)
        return tuning.with_rates(rows)

    def terms(self, rows: Sequence[ComparisonRow]) -> dict[str, Any]:
        """Fields of the protocol that the rows, with what is tried of each, are of."""
        some = any(row.grid or row.ranges for row in rows)
        return {"validation": self.validation if some else 0.0, "trials": self.trials}

    def of_run(self, spec: RunSpec) -> tuple[Comparison, RunSpec]:
        """The comparison of one run with itself under other settings, and its job there.

        Raises:
            ConfigError: as ``rows``, nothing to choose, or a share of the images that there is not.
        """
        rows = self.rows(rows_of([spec.method]), dict(spec.settings))
        if not (rows[0].grid or rows[0].ranges):
            raise ConfigError(
                f"{spec.method} has no learning rates to choose from. Leave --tune out, or name a setting: --trials 20 --range KEY=A,B."
            )
        comparison = Comparison.checked(
            title=spec.method,
            rows=rows,
            seeds=1,
            shots=spec.options.shots,
            **self.terms(rows),
            baseline=rows[0].name,
            headline=rows[0].name,
        )
        return comparison, replace(
            spec, options=replace(spec.options, calibration_folds=0), loggers=()
        )


def tried(comparison: Comparison, jobs: Sequence[RunSpec], folder: Path) -> list[RunSpec]:
    """Runs as costly as those by which settings are chosen, if no trial of a search ends early."""
    return [*tuning.trials(comparison, jobs, folder), *forecast(comparison, jobs, folder)]


def settled(
    comparison: Comparison,
    jobs: Sequence[RunSpec],
    folder: Path,
    storage: str | None = None,
    **running: Unpack[Running],
) -> tuple[list[RunSpec], list[str]]:
    """The jobs with what was chosen for their rows, and a sentence on each choice.

    Args:
        comparison: its rows may have grids (see ``tuning``) or ranges (see ``search``).
        jobs: of the comparison, row by row.
        folder: below which the trials lie.
        storage: of the search.
        running: how the trials are done.
    """
    if trials := tuning.trials(comparison, jobs, folder):
        run_jobs(trials, "tuning", **running)
        chosen = tuning.choose(comparison, folder)
        return tuning.settled(comparison, jobs, chosen), tuning.notes(comparison, chosen)
    if any(row.ranges for row in comparison.rows):
        searched = search(comparison, jobs, folder, storage, **running)
        best = {row: one.settings for row, one in searched.items()}
        return tuning.settled(comparison, jobs, best), [one.note for one in searched.values()]
    return list(jobs), []

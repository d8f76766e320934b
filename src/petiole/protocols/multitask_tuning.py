"""Settings of rows on many tasks, chosen on validation samples: the best of a grid that grows until its best value is no end.

    tuning/<row>/<value>/       the run folder of each trial
    tuning/chosen.json          what was tried of each row, what it scored, and what was chosen

A trial is the row's run of the first seed, scored on the part ``val``; the part that the table is scored on stays closed. The mean
of the tasks' headlines decides, and of equals the smallest value. While the best value is the first or last of its grid, the
grid grows there by the ratio of its last two values, at most ``GROWTH`` times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from petiole.engine.record import Record
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, RunError
from petiole.files import read_sealed, write_sealed
from petiole.layers.grid import end_of_grid
from petiole.methods.registry import create_stated
from petiole.protocols.jobs import Running, average, run_jobs
from petiole.protocols.protocol import ComparisonRow, RowsProtocol
from petiole.protocols.tuning import settled

FOLDER, CHOSEN = "tuning", "chosen.json"
GROWTH = 6


def grid_of(row: ComparisonRow) -> tuple[str, list[float]]:
    """The one setting of a row's grid and its values.

    Raises:
        ConfigError: several settings, a range, values that are not three or more positive numbers in rising order, or ones that
            the method refuses.
    """
    stated: Mapping[str, Any] = row.ranges or row.grid
    found = list(row.grid.items())
    name, values = found[0] if found else ("", [])
    numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for v in values)
    if row.ranges or len(found) != 1 or len(values) < 3 or not numbers:
        raise ConfigError(
            f"Row {row.name!r}: on many tasks a grid is one setting with three or more positive numbers, such as "
            f"{{ lr = [1e-3, 3e-3, 1e-2] }}, not {stated}."
        )
    if list(values) != sorted(set(values)):
        raise ConfigError(f"Row {row.name!r}: the values of {name} must rise, not {values}.")
    for value in values:
        create_stated(row.method, {**row.settings, name: value})
    return name, list(values)


def beyond(scores: Mapping[float, float]) -> float | None:
    """The value to try next: beyond the end of the grid that scored best; ``None`` where the best lies inside.

    Args:
        scores: value -> score, of two values or more.
    """
    tried = sorted(scores)
    best = best_of(scores)
    if best == tried[0]:
        return float(f"{tried[0] * tried[0] / tried[1]:.3g}")
    if best == tried[-1]:
        return float(f"{tried[-1] * tried[-1] / tried[-2]:.3g}")
    return None


def best_of(scores: Mapping[float, float]) -> float:
    """The value that scored best, the smallest of equals."""
    return max(sorted(scores), key=lambda value: scores[value])


def tuned_rows(protocol: RowsProtocol) -> list[ComparisonRow]:
    """Those with something to choose."""
    return [row for row in protocol.rows if row.grid or row.ranges]


def trial(
    protocol: RowsProtocol, jobs: Sequence[RunSpec], root: Path, name: str, value: float
) -> RunSpec:
    """A row's run of the first seed with a value of its grid, scored on validation."""
    row = protocol.row(name)
    first = jobs[protocol.rows.index(row) * protocol.seeds]
    return replace(
        first,
        settings={**first.settings, grid_of(row)[0]: value},
        folder=root / FOLDER / name / f"{value:g}",
        options=replace(first.options, scored="val"),
        loggers=(),
        resume=True,
    )


def stated_trials(protocol: RowsProtocol, jobs: Sequence[RunSpec], root: Path) -> list[RunSpec]:
    """The trials that the grids state; those of a grid that grows come on top."""
    return [
        trial(protocol, jobs, root, row.name, value)
        for row in tuned_rows(protocol)
        for value in grid_of(row)[1]
    ]


def tuned(
    protocol: RowsProtocol, jobs: Sequence[RunSpec], root: Path, **running: Unpack[Running]
) -> list[RunSpec]:
    """The jobs with what was chosen for their rows; trials that are done already are kept.

    Args:
        protocol: its rows may have grids.
        jobs: of the protocol, row by row.
        root: of the protocol.
        running: how the trials are done.

    Raises:
        ConfigError: as ``grid_of``.
    """
    grids = {row.name: grid_of(row) for row in tuned_rows(protocol)}
    scores: dict[str, dict[float, float]] = {name: {} for name in grids}
    todo = {name: values for name, (_, values) in grids.items()}
    while any(todo.values()):
        pairs = [(name, value) for name, values in todo.items() for value in values]
        specs = [trial(protocol, jobs, root, name, value) for name, value in pairs]
        records: list[Record] = run_jobs(specs, "tuning", **running)
        for (name, value), record in zip(pairs, records, strict=True):
            scores[name][value] = average(record)
        todo = {name: _next(scores[name], len(values)) for name, (_, values) in grids.items()}
    if grids:
        _keep(root, {name: setting for name, (setting, _) in grids.items()}, scores)
    chosen = {name: {setting: best_of(scores[name])} for name, (setting, _) in grids.items()}
    return settled(protocol, jobs, chosen)


def _keep(
    root: Path, settings: Mapping[str, str], scores: Mapping[str, Mapping[float, float]]
) -> None:
    chosen = {
        name: {
            "setting": setting,
            "chosen": best_of(scores[name]),
            "scores": [[value, scores[name][value]] for value in sorted(scores[name])],
        }
        for name, setting in settings.items()
    }
    write_sealed(root / FOLDER / CHOSEN, chosen)


def _next(scores: Mapping[float, float], stated: int) -> list[float]:
    value = beyond(scores) if len(scores) < stated + GROWTH else None
    return [] if value is None else [value]


def notes(protocol: RowsProtocol, root: Path) -> list[str]:
    """A sentence for each row on what was tried, and what was chosen.

    Raises:
        RunError: the file of what was chosen is missing or damaged.
    """
    rows = tuned_rows(protocol)
    if not rows:
        return []
    file = root / FOLDER / CHOSEN
    try:
        found: dict[str, dict[str, Any]] = read_sealed(file)
    except Exception as error:
        raise RunError(
            f"{file} is missing or damaged: {error}. Repeat the command with --resume."
        ) from error
    return [_said(row, found[row.name]) for row in rows]


def _said(row: ComparisonRow, one: Mapping[str, Any]) -> str:
    tried = ", ".join(f"{value:g}: {100 * score:.1f}" for value, score in one["scores"])
    told = end_of_grid([value for value, _ in one["scores"]], one["chosen"])
    end = f", {told}" if told else ""
    return f"{row.label}: {one['setting']}={one['chosen']:g} by validation ({tried}){end}."

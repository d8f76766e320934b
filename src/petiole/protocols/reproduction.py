"""A published table beside ours: for each of its data sets that is there, its rows run as ``generalise`` does.

    <out>/<data set>/          of a base-to-novel table, each as ``petiole generalise`` leaves it
    <out>/<training set>/      of a table that tests elsewhere

What cannot be run is listed with the reason; nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any, Literal, Unpack

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.registry import load_backbone
from petiole.data.readers import coop
from petiole.errors import ConfigError, DataError
from petiole.methods.registry import create
from petiole.metrics.harmonic import harmonic_mean
from petiole.metrics.statistics import Interval, Verdict, t_interval, verdict
from petiole.protocols import generalisation
from petiole.protocols.jobs import Running
from petiole.protocols.protocol import ComparisonRow, applicable
from petiole.tasks.classification.workspace import Classification

Agreement = Literal[
    "agrees", "higher", "lower", "undecided", "unknown", "another backbone", "other data"
]
_SAYS: dict[Verdict, Agreement] = {
    "better": "higher",
    "worse": "lower",
    "tie": "agrees",
    "undecided": "undecided",
    "unknown": "unknown",
}
PUBLISHED = "published"
"""Kind of a table that is told and not run: its model, its data or its protocol cannot be had."""
TOLERANCE = 1e-3
"""How far a mean may lie from a claim that is printed with one decimal, as a fraction."""


@dataclass(frozen=True)
class ClaimResult:
    """One claimed number and ours, fractions.

    Attributes:
        place: data set.
        row: label of the method.
        what: ``base``, ``novel``, ``HM``, or the metric.
        claimed: as published.
        ours: over seeds.
        verdict: ``metrics.paired.verdict`` on our 95 % interval around the claim, a tie being an agreement; so is a
            mean within a tolerance of it. None where the backbone is another one.
    """

    place: str
    row: str
    what: str
    claimed: float
    ours: Interval
    verdict: Agreement


@dataclass(frozen=True)
class Reproduction:
    """What could be run, and what is missing for the rest."""

    found: tuple[ClaimResult, ...]
    missing: tuple[str, ...]


def reproduce(
    table: Mapping[str, Any],
    task_of: Callable[[Path], Classification],
    data: Path | None,
    root: Path,
    *,
    methods: Sequence[str] = (),
    seeds: int = 3,
    teacher: Path | None = None,
    **running: Unpack[Running],
) -> Reproduction:
    """Run the rows of a claimed table on the data sets below ``data``.

    A row or a data set that cannot be run is missing, with its reason, and the others are run.

    Args:
        table: of claims, of one of ``KINDS``.
        task_of: a folder of images on this machine.
        data: folder with data sets in CoOp's format, under their folders' names; ``None`` for none.
        root: where runs go.
        methods: names of rows; all that petiole has, if empty.
        teacher: folder of the adapter that teaches the rows of a method with a ``teacher``.

    Raises:
        ConfigError: an unknown row, or a teacher without a row to teach.
    """
    rows, missing = rows_of(table, methods)
    if teacher is not None:
        rows = _taught(rows, teacher)
    places = {name: data / folder for name, folder in table["data"].items()} if data else {}
    there = {name: path for name, path in places.items() if path.is_dir() and coop.read(path)}
    missing += [
        f"data set {name}: {folder}/ in CoOp's format" + (f" below {data}" if data else " (--data)")
        for name, folder in table["data"].items()
        if name not in there
    ]
    first = next(iter(there.values()), None)
    if not rows or first is None or (table["kind"] == "elsewhere" and table["train"] not in there):
        return Reproduction((), tuple(missing))
    model = load_backbone(task_of(first).backbone, device="meta")
    if not (same := is_stated(model, load_backbone(table["backbone"], device="meta"))):
        missing.append(f"weights of {table['backbone']}; what follows is another model's")
    found: list[ClaimResult] = []
    rows, impossible = _possible(rows, model)
    missing += impossible
    for name in [table["train"]] if table["kind"] == "elsewhere" else list(there):
        if not rows:
            break
        try:
            scores = _measured(table, rows, name, there, task_of, root / name, seeds, **running)
        except (
            ConfigError,
            DataError,
        ) as error:  # one set that cannot be used is no reason to lose the others
            missing.append(f"data set {name}: {error}")
            continue
        for row in rows:
            claimed = next(r["claimed"] for r in table["rows"] if r["name"] == row.name)
            found += _compared(row, name, claimed, scores[row.name], same=same)
    return Reproduction(tuple(found), tuple(missing))


def _taught(rows: Sequence[ComparisonRow], teacher: Path) -> list[ComparisonRow]:
    given = {"teacher": str(teacher)}
    taught = [row.name for row in rows if applicable(row.method, given)]
    if not taught:
        raise ConfigError("No row of this table learns from a teacher. Leave --teacher out.")
    return [
        row.model_copy(update={"settings": {**row.settings, **given}})
        if row.name in taught
        else row
        for row in rows
    ]


def _possible(
    rows: Sequence[ComparisonRow], model: Backbone
) -> tuple[list[ComparisonRow], list[str]]:
    """Rows that fit a backbone, and why the others do not."""
    possible, impossible = [], []
    for row in rows:
        try:
            with torch.device("meta"):
                create(row.method, row.settings).plan(model, 2)
        except ConfigError as error:
            impossible.append(f"{row.label}: {error}")
        else:
            possible.append(row)
    return possible, impossible


def _measured(
    table: Mapping[str, Any],
    rows: Sequence[ComparisonRow],
    name: str,
    there: Mapping[str, Path],
    task_of: Callable[[Path], Classification],
    root: Path,
    seeds: int,
    **running: Unpack[Running],
) -> dict[str, dict[str, list[float]]]:
    """Train the rows on one data set and test them; scores by row, place and seed."""
    others = {p: there[p] for p in there if p != name} if table["kind"] == "elsewhere" else {}
    protocol = generalisation.plan(
        name,
        [on_data(name, row, table) for row in rows],
        places=list(others),
        shots=16,
        seeds=seeds,
        known=coop.name_of(there[name]),
    )
    task, resume = task_of(there[name]), running.get("resume", False)
    jobs = generalisation.jobs_of(protocol, task, root, {}, resume=resume)
    places = generalisation.places_of(protocol, task, others)
    generalisation.generalise(protocol, jobs, places, root, **running)
    return {row.name: generalisation.scores(protocol, root, row) for row in rows}


def is_stated(model: FrozenNetwork, stated: FrozenNetwork) -> bool:
    """Whether a model has the shape of the one that a table was made with."""
    names = ("parameter_count", "width", "depth", "depths")
    return all(getattr(model, name, None) == getattr(stated, name, None) for name in names)


def rows_of(
    table: Mapping[str, Any], methods: Sequence[str]
) -> tuple[list[ComparisonRow], list[str]]:
    """Rows of a claimed table that can be run, and what is missing for the others.

    Settings of the whole table go to all of them.

    Raises:
        ConfigError: the table has no row of this name.
    """
    common, chosen = table.get("settings", {}), _chosen(table, methods)
    rows = [
        ComparisonRow(
            name=row["name"],
            label=row["label"],
            method=row["method"],
            settings={**common, **row.get("settings", {})},
        )
        for row in chosen
        if "method" in row
    ]
    return rows, [f"{row['label']}: {row['missing']}" for row in chosen if "method" not in row]


def unmeasured(table: Mapping[str, Any], methods: Sequence[str] = ()) -> Reproduction:
    """What a table of kind ``PUBLISHED`` would need: nothing here measures it.

    Raises:
        ConfigError: the table has no row of this name.
    """
    own = [
        f"{row['label']}: {row['missing']}" for row in _chosen(table, methods) if "missing" in row
    ]
    return Reproduction((), (*table["missing"], *own))


def _chosen(table: Mapping[str, Any], methods: Sequence[str]) -> list[Mapping[str, Any]]:
    """Rows by name, all if no name is given."""
    known = {row["name"]: row for row in table["rows"]}
    if unknown := [name for name in methods if name not in known]:
        raise ConfigError(f"The table has no row {unknown[0]}; it has {', '.join(known)}.")
    return [known[name] for name in methods] if methods else list(known.values())


def on_data(place: str, row: ComparisonRow, table: Mapping[str, Any]) -> ComparisonRow:
    """The row with what was published for one data set alone."""
    stated = next(r for r in table["rows"] if r["name"] == row.name)
    own = stated.get("by_data", {}).get(place, {})
    return row.model_copy(update={"settings": {**row.settings, **own}})


def _compared(
    row: ComparisonRow,
    place: str,
    claimed: Mapping[str, Any],
    scores: Mapping[str, Sequence[float]],
    *,
    same: bool,
) -> list[ClaimResult]:
    if "novel" in scores and "base" in scores:
        if place not in claimed:
            return []
        heads = [harmonic_mean(b, n) for b, n in zip(scores["base"], scores["novel"], strict=True)]
        ours = {"base": scores["base"], "novel": scores["novel"], "HM": heads}
        pairs = zip(ours.items(), claimed[place], strict=True)
        return [compared(place, row, what, c, values, same=same) for (what, values), c in pairs]
    own = {place if name == "source" else name: values for name, values in scores.items()}
    return [
        compared(name, row, "accuracy", claimed[name], values, same=same)
        for name, values in own.items()
        if name in claimed
    ]


def compared(
    place: str,
    row: ComparisonRow,
    what: str,
    claimed: float,
    ours: Sequence[float],
    *,
    same: bool,
    tolerance: float = TOLERANCE,
) -> ClaimResult:
    """Put a claim beside ours.

    Args:
        claimed: per cent.
        ours: by seed, fractions.
        same: whether the backbone is the claim's own.
        tolerance: of the claim, a fraction.
    """
    interval, stated = t_interval(ours), claimed / 100
    return ClaimResult(
        place, row.label, what, stated, interval, _verdict(stated, interval, same, tolerance)
    )


def _verdict(claimed: float, ours: Interval, same: bool, tolerance: float) -> Agreement:
    if not same:
        return "another backbone"
    # One interval is one test: where it excludes the claim, p is below its level.
    found = verdict(ours.low - claimed, ours.high - claimed, adjusted_p=0.0)
    if found != "unknown" and isclose(ours.mean, claimed, abs_tol=tolerance):
        return "agrees"
    return _SAYS[found]

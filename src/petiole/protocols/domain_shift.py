"""Domain shift: source images, k labelled target images a class, a held-back target test.

Every row sees the same support draws, the same test images and the same preprocessing. The test
set is scored once a run, at the end; nothing is selected on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from petiole.backbones.base import IMAGES
from petiole.claims import table as claimed_table
from petiole.data.dataset import Dataset
from petiole.engine.executor import Executor, Local
from petiole.engine.progress import progress
from petiole.engine.run import RunSpec, run
from petiole.engine.task import open_workspace
from petiole.errors import ConfigError, RunError
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.protocols import tuning
from petiole.protocols.comparison import COMPARISON, Comparison, ComparisonRow
from petiole.tasks.classification.workspace import Classification, ClassificationWorkspace, Subset

BASELINES = {
    "knn": "kNN (target shots)",
    "class-means": "Class means (target shots)",
    "logistic-regression": "Logistic regression (target shots)",
    "ridge": "Ridge (target shots)",
}
"""The cheap rows that stand in every table, and what they are called there."""


def rows_of(names: Sequence[str]) -> list[ComparisonRow]:
    """One row for each registered method.

    Raises:
        ConfigError: an unknown name.
    """
    for name in names:
        create(name)
    return [
        ComparisonRow(name=name.replace(":", "-"), label=BASELINES.get(name, name), method=name)
        for name in names
    ]


def from_table(name: str, *, baselines: Iterable[str] = BASELINES) -> dict[str, Any]:
    """Fields of a Comparison for a published table, with the cheap baselines added.

    Args:
        name: e.g. ``cls-residual-lora/table1``.
        baselines: registered names to add.
    """
    stated = claimed_table(name)
    rows = [
        ComparisonRow(
            name=r["name"],
            label=r["label"],
            method=r["method"],
            settings=r.get("settings", {}),
            grid=r.get("grid", {}),
        )
        for r in stated["rows"]
    ]
    return {
        "title": stated["title"],
        "rows": rows + rows_of([b for b in baselines if b not in {r.name for r in rows}]),
        "claims": {r["name"]: r["claimed"] for r in stated["rows"] if "claimed" in r},
        **{part: stated[part] for part in ("baseline", "reference", "headline")},
    }


def jobs_of(
    comparison: Comparison,
    bench: Classification,
    folder: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> list[RunSpec]:
    """All runs of a comparison, row by row; ``settings`` go to every row that has such a field.

    Raises:
        ConfigError: a value out of range, or a setting that no row has.
    """
    jobs = []
    own_by_row = {row.name: applicable(row, settings) for row in comparison.rows}
    for key in settings:
        if not any(key in own for own in own_by_row.values()):
            create(comparison.row(comparison.headline).method, {key: settings[key]})
    held = comparison.validation if comparison.scored == "validation" else 0.0
    for row in comparison.rows:
        own = own_by_row[row.name]
        for index, place in enumerate(comparison.runs(folder, row)):
            jobs.append(
                RunSpec(
                    task=replace(bench, quiet=True),
                    method=row.method,
                    settings={**own, **row.settings},
                    folder=place,
                    options=Subset(
                        shots=comparison.shots,
                        split_seed=index // comparison.inits,
                        fraction=comparison.fraction,
                        validation=held,
                        vectors=row.name == comparison.headline and index == 0,
                    ),
                    seed=index % comparison.inits,
                    resume=resume,
                )
            )
    return jobs


def compare(
    comparison: Comparison,
    jobs: Sequence[RunSpec],
    folder: Path,
    *,
    executor: Executor | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> None:
    """Do all jobs of a comparison and leave their records below ``folder``.

    Rows with a grid are tuned first (see ``tuning``), and the notes say what was chosen.

    Raises:
        RunError: the folder holds another comparison, or this one without ``resume``.
    """
    _claim(comparison, folder, resume)
    workspace, where = open_workspace(jobs[0].task), executor or Local()
    trials = tuning.trials(comparison, jobs, folder)
    prepare(workspace, [*trials, *jobs], quiet=quiet)
    if trials:
        _do("tuning", trials, where, quiet=quiet)
        chosen = tuning.choose(comparison, folder)
        jobs = tuning.settled(comparison, jobs, chosen)
        said = [*comparison.notes, *tuning.notes(comparison, chosen)]
        comparison.model_copy(update={"notes": said}).write(folder)
    _do("runs", jobs, where, quiet=quiet)


def _do(what: str, jobs: Sequence[RunSpec], where: Executor, *, quiet: bool) -> None:
    with progress(what, len(jobs), quiet=quiet) as advance:
        for job, record in zip(jobs, where.map(run, jobs), strict=True):
            advance(1, f"{job.method} {100 * record.main['accuracy']:.1f} %")


def prepare(workspace: ClassificationWorkspace, jobs: Sequence[RunSpec], *, quiet: bool) -> None:
    """Run the frozen half once for all that the jobs will ask for."""
    if workspace.task.cache is None:
        return
    workspace.features.quiet = quiet
    wanted: dict[tuple[tuple[str, ...], int, str], list[Dataset]] = defaultdict(list)
    for job in jobs:
        method = create(job.method, job.settings)
        with torch.random.fork_rng():
            plan = method.plan(workspace.backbone, len(workspace.shift.classes))
        recipe, (data, scored) = method.recipe, workspace.parts(job.options)
        wanted[
            plan.cut(workspace.backbone, training=True), recipe.views, recipe.augmentation
        ].append(data)
        wanted[plan.cut(workspace.backbone), 0, "none"].append(scored)
        if plan.anchors:
            wanted[plan.anchors, recipe.views, recipe.augmentation].append(data)
    for (cut, views, name), parts in wanted.items():
        if cut == (IMAGES,):
            continue
        first, *others = parts
        workspace.table(first.concat(*others), cut, Recipe(views=views, augmentation=name))
    workspace.features.quiet = True


def _claim(comparison: Comparison, folder: Path, resume: bool) -> None:
    if (folder / COMPARISON).exists():
        if not resume:
            raise RunError(
                f"{folder} already holds a comparison. Add --resume to finish it, or choose another "
                "--out."
            )
        old = Comparison.read(folder)
        same = comparison.model_copy(update={"notes": old.notes})
        if old != same:
            raise RunError(
                f"{folder} holds another comparison (rows, draws, seeds or shots differ). Repeat the "
                "command as it was, or choose another --out."
            )
    comparison.write(folder)


def applicable(row: ComparisonRow, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this row's method has; solved heads have no use for steps and views."""
    own: dict[str, Any] = {}
    for key, value in settings.items():
        try:
            create(row.method, {key: value})
        except ConfigError as error:
            if not str(error).startswith("Unknown setting"):
                raise
        else:
            own[key] = value
    return own

"""Rows on equal terms: source images, k labelled target images a class, a held-back target test.

Every row sees the same draws of the training images, the same test samples and the same preprocessing. The test
set is scored once a run, at the end; nothing is selected on it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import torch

from petiole.backbones.frozen_network import IMAGES
from petiole.claims import table as claimed_table
from petiole.data.dataset import Dataset
from petiole.engine.run import RunSpec
from petiole.engine.task import Task, Workspace, open_workspace
from petiole.methods.recipe import Recipe
from petiole.protocols import tuning
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import Running, run_jobs
from petiole.protocols.protocol import LABELS, ComparisonRow, rows_of, with_baselines
from petiole.protocols.settled import settled
from petiole.tasks.classification.workspace import ClassificationWorkspace, Subset

__all__ = ["LABELS", "compare", "from_table", "jobs_of", "prepare", "rows_of", "with_baselines"]

COSTS = ("percent", "gflops")
"""What tables print of a row beside its accuracy: trained parameters in per cent, and GFLOPs."""


def from_table(name: str) -> dict[str, Any]:
    """Fields of a Comparison for a published table, e.g. ``cls-residual-lora/table1``."""
    stated = claimed_table(name)
    fields = ComparisonRow.model_fields
    rows = [ComparisonRow(**{k: v for k, v in r.items() if k in fields}) for r in stated["rows"]]
    return {
        "title": stated["title"],
        "rows": rows,
        "claims": {r["name"]: r["claimed"] for r in stated["rows"] if "claimed" in r},
        "claimed_costs": {
            r["name"]: costs
            for r in stated["rows"]
            if (costs := {c: r[c] for c in COSTS if c in r})
        },
        **{part: stated[part] for part in ("baseline", "reference", "headline")},
    }


def jobs_of(
    comparison: Comparison,
    task: Task[Any],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    resume: bool = False,
) -> list[RunSpec]:
    """All runs of a comparison on labelled images, row by row; ``settings`` go to every row that has such a field.

    Args:
        comparison: what is compared.
        task: data and backbone.
        folder: of the comparison.
        settings: of methods.
        resume: finish interrupted runs.

    Raises:
        ConfigError: a value out of range, or a setting that no row has.
    """
    held = comparison.validation if comparison.scored == "validation" else 0.0

    def chosen(row: ComparisonRow, index: int) -> Subset:
        return Subset(
            shots=comparison.shots,
            split_seed=index // comparison.seeds,
            fraction=comparison.fraction,
            validation=held,
            vectors=row.name == comparison.headline and index == 0,
        )

    return comparison.jobs_of(
        replace(task, quiet=True),
        folder,
        settings,
        chosen,
        lambda index: index % comparison.seeds,
        resume=resume,
    )


def compare(
    comparison: Comparison,
    jobs: Sequence[RunSpec],
    folder: Path,
    storage: str | None = None,
    **running: Unpack[Running],
) -> None:
    """Do all jobs of a comparison and leave their records below ``folder``.

    Rows with a grid are tuned first (see ``tuning``), those with ranges searched (see ``search``), and the notes say what was
    chosen. ``storage`` is of the search.

    Raises:
        RunError: the folder holds another comparison, or this one without ``resume``.
    """
    comparison.claim(folder, resume=running.get("resume", False))
    trials = tuning.trials(comparison, jobs, folder)
    prepare(open_workspace(jobs[0].task), [*trials, *jobs], quiet=running.get("quiet", False))
    jobs, notes = settled(comparison, jobs, folder, storage, **running)
    if notes:
        comparison.model_copy(update={"notes": [*comparison.notes, *notes]}).write(folder)
    run_jobs(jobs, **running)


def prepare(workspace: Workspace, jobs: Sequence[RunSpec], *, quiet: bool) -> None:
    """Run the frozen half once for all that the jobs will ask for; opening was enough for other tasks than photos."""
    if not isinstance(workspace, ClassificationWorkspace) or workspace.task.cache is None:
        return
    workspace.features.quiet = quiet
    wanted: dict[tuple[tuple[str, ...], int, str], list[Dataset]] = defaultdict(list)
    for job in jobs:
        method = workspace.method_of(job)
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

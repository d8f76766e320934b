"""How long a run will take here: three steps on a few images, before anything is computed in earnest.

Nothing is kept: neither cache nor random state nor any test image is touched.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.engine.feature_extractor import Features, Table
from petiole.engine.run import RunSpec
from petiole.engine.trainer import Callbacks
from petiole.errors import PetioleError
from petiole.layers.solved import SolvedHead
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.workspace import ClassificationWorkspace, Subset

ROWS = 4
"""Images that are really computed; a batch repeats them."""
HEAVY = 2e10
"""FLOPs of a step above which a batch of ROWS is timed in its place."""


class Seconds(NamedTuple):
    """Of an image through the frozen half, and of a training step above it."""

    image: float
    step: float


class _FewRows(Table):
    """A table of which only the first ROWS of a batch are fetched; it notes when."""

    def __init__(self, table: Table) -> None:
        self.table, self.times = table, list[tuple[float, float]]()

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        begun = time.perf_counter()
        state = self.table.fetch(rows[:ROWS], views[:ROWS])
        self.times.append((begun, time.perf_counter()))
        again = torch.arange(len(rows)) % min(ROWS, len(rows))
        return {role: value[again.to(value.device)] for role, value in state.items()}


def time_job(workspace: ClassificationWorkspace, job: RunSpec, flops: float) -> Seconds | None:
    """Time a run of this kind; ``None`` where it has no steps, a teacher, or an error that the run itself will tell.

    Args:
        workspace: opened.
        job: of which method and settings count.
        flops: of one of its steps.
    """
    method = workspace.method_of(job)
    data, _ = workspace.parts(job.options or Subset())
    live = ClassificationWorkspace(replace(workspace.task, cache=None, quiet=True))
    live.backbone, live.shift = workspace.backbone, workspace.shift
    task = workspace.task
    live.features = Features(workspace.backbone, None, task.precision, task.dtype, quiet=True)
    recipe = replace(
        method.recipe, steps=3, epochs=0.0, schedule="steps", average_mean=0.0, select="last",
        patience=0, views=0,
    )  # fmt: skip
    images = recipe.images_per_step(len(data.classes))
    if flops > HEAVY and images > ROWS:
        recipe = replace(recipe, classes_per_batch=2, source_per_class=1, target_per_class=1)
        recipe = replace(recipe, batch_size=min(recipe.batch_size, ROWS), drop_last=False)
    try:
        with torch.random.fork_rng():
            plan = method.plan(workspace.backbone, len(data.classes))
            if isinstance(plan.head, SolvedHead) or plan.teacher or not method.recipe.steps:
                return None
            adapted = AdaptedClassifier(workspace.backbone, plan, checkpoint=task.checkpointing)
            adapted.to(workspace.features.device)
            adapted.name(data.classes, data.name)
            table = _FewRows(live.training_table(adapted, data, recipe))
            training.train(
                adapted, data, table, recipe, seed=0, precision=task.precision,
                callbacks=Callbacks(quiet=True),
            )  # fmt: skip
    except PetioleError:
        return None
    if len(table.times) < 2:  # nothing in it is trained
        return None
    (_, before), (begun, ended) = table.times[-2:]
    share = images / recipe.images_per_step(len(data.classes))
    return Seconds((ended - begun) / ROWS, (begun - before) * share)

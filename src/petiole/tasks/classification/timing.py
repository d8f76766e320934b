"""How long a run will take here: three steps on a few images, before anything is computed in earnest.

Nothing is kept: neither cache nor random state nor any test image is touched.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_table import Table
from petiole.engine.run import RunSpec
from petiole.engine.trainer import Callbacks
from petiole.errors import PetioleError
from petiole.layers.solved import SolvedHead
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.workspace import ClassificationWorkspace, Subset

ROWS = 4
"""Images that are really computed; a batch repeats them."""


class Seconds(NamedTuple):
    """Of an image through the frozen half, and of a training step above it."""

    image: float
    step: float


class _FewRows(Table):
    """A table of which only the first ROWS of a batch are computed, twice: the first time may be slow. It notes when."""

    def __init__(self, table: Table) -> None:
        self.table, self.times = table, list[tuple[float, float]]()
        self.states: list[State] = []

    def fetch(self, rows: Tensor, views: Tensor) -> State:
        begun = time.perf_counter()
        if len(self.states) < 2:
            self.states.append(self.table.fetch(rows[:ROWS], views[:ROWS]))
            self.image = (time.perf_counter() - begun) / ROWS
        state = self.states[-1]
        again = torch.arange(len(rows)) % len(next(iter(state.values())))
        self.times.append((begun, time.perf_counter()))
        return {role: value[again.to(value.device)] for role, value in state.items()}

    @property
    def step(self) -> float:
        """Seconds of the faster of the steps, without their images."""
        return min(begun - before for (_, before), (begun, _) in pairwise(self.times))


def time_job(workspace: ClassificationWorkspace, job: RunSpec) -> Seconds | None:
    """Time a run of this kind; ``None`` where it has no steps, a teacher, or an error that the run itself will tell.

    Args:
        workspace: opened.
        job: of which method and settings count.
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
    try:
        with torch.random.fork_rng():
            plan = method.plan(workspace.backbone, len(data.classes))
            if isinstance(plan.head, SolvedHead) or plan.teacher or not method.recipe.steps:
                return None
            adapted = AdaptedClassifier(workspace.backbone, plan, checkpoint=task.checkpointing)
            # Inside the backbone a step costs so much an image; behind it, hardly more for many than for few.
            if not set(adapted.cut) <= set(workspace.backbone.finals) and images > ROWS:
                recipe = replace(
                    recipe, classes_per_batch=2, source_per_class=1, target_per_class=1
                )
                recipe = replace(recipe, batch_size=min(recipe.batch_size, ROWS), drop_last=False)
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
    share = images / recipe.images_per_step(len(data.classes))
    return Seconds(table.image, table.step * share)

"""What a list of jobs will cost: counted from meta ledgers and from what the cache lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.data.dataset import Dataset
from petiole.data.preprocessing import augmentation
from petiole.device import narrow_unit
from petiole.engine.feature_extractor import DTYPES
from petiole.engine.record import RECORD
from petiole.engine.run import RunSpec
from petiole.engine.timing import in_words
from petiole.layers.solved import SolvedHead
from petiole.ledger import Ledger, count, repeated
from petiole.methods.base import Method, Plan
from petiole.tasks.classification.sampler import trained_on
from petiole.tasks.classification.timing import Seconds, time_job
from petiole.tasks.classification.workspace import ClassificationWorkspace, Subset


@dataclass(frozen=True)
class CostEstimate:
    """Totals over jobs.

    Attributes:
        images: image views that must still pass the frozen half.
        flops: that this takes.
        megabytes: that it stores.
        steps: optimiser steps.
        train_flops: above the cut, forward and backward.
        frozen_seconds, train_seconds: that both take here, from a timed batch; 0 where it was not timed.
    """

    images: int
    flops: float
    megabytes: float
    steps: int
    train_flops: float
    frozen_seconds: float = 0.0
    train_seconds: float = 0.0


@torch.random.fork_rng()
def estimate_cost(
    workspace: ClassificationWorkspace, jobs: Sequence[RunSpec], *, timed: bool = False
) -> CostEstimate:
    """Count what ``jobs`` will compute; an upper bound where draws overlap with stored images.

    Args:
        workspace: opened.
        jobs: of it; those that are complete already and resumed cost nothing.
        timed: also time a batch of every method (see ``timing``).
    """
    costs: dict[str, _Cost] = {}
    seen: set[tuple[object, str]] = set()
    images = flops = stored = steps = trained = frozen = seconds = 0.0
    speeds: dict[str, Seconds | None] = {}
    for job in jobs:
        if job.resume and (job.folder / RECORD).exists():
            continue
        name = f"{job.method} {sorted(job.settings.items())}"
        if name not in costs:
            costs[name] = _cost(workspace, job)
        cost = costs[name]
        length = cost.steps(workspace.parts(job.options or Subset())[0])
        steps += length
        ledger = cost.ledger
        trained += length * (ledger.flops_training * cost.batch + ledger.flops_classes_training)
        fresh = _fresh(workspace, job, cost, seen)
        images += fresh
        flops += fresh * (ledger.flops_forward - ledger.flops_above_cut)
        stored += fresh * cost.bytes
        if timed and name not in speeds:
            speeds[name] = time_job(workspace, job)
        if speed := speeds.get(name):
            frozen += fresh * speed.image
            seconds += cost.train_seconds(workspace, length, speed)
    return CostEstimate(int(images), flops, stored / 1e6, int(steps), trained, frozen, seconds)


@torch.random.fork_rng()
def seconds_of(workspace: ClassificationWorkspace, job: RunSpec) -> tuple[float, float]:
    """Seconds that the frozen half of a job and its training take here, from a timed batch; nothing is counted.

    Args:
        workspace: opened.
        job: of it; its folder is not looked at.
    """
    speed = time_job(workspace, job)
    if speed is None:
        return 0.0, 0.0
    cost = _cost(workspace, job)
    length = cost.steps(workspace.parts(job.options or Subset())[0])
    fresh = _fresh(workspace, job, cost, set())
    return fresh * speed.image, cost.train_seconds(workspace, length, speed)


@dataclass(frozen=True)
class _Cost:
    """Of one method: its layers, where the frozen half ends, images a step, how it is trained."""

    shape: Backbone
    method: Method
    plan: Plan
    cut: tuple[str, ...]
    batch: int
    itemsize: int

    @cached_property
    def ledger(self) -> Ledger:
        return repeated(count(self.shape, self.plan), self.method)

    @cached_property
    def bytes(self) -> int:
        """Of an image at the cut."""
        image = torch.zeros(1, 3, *self.shape.preprocessing.size, device="meta")
        state = self.shape.lower(image, self.cut)
        return self.itemsize * sum(value.numel() for value in state.values())

    def steps(self, data: Dataset) -> int:
        """Optimiser steps on these images; none where the head is solved."""
        if isinstance(self.plan.head, SolvedHead):
            return 0
        recipe = self.method.recipe
        return recipe.resolved(trained_on(data, recipe), len(data.classes)).steps

    def train_seconds(
        self, workspace: ClassificationWorkspace, steps: int, speed: Seconds
    ) -> float:
        """Of so many steps; where nothing is kept, each computes the frozen half of its images again."""
        live = self.cut == (IMAGES,) or workspace.features.cache is None
        return steps * (speed.step + live * self.batch * speed.image)


def _cost(workspace: ClassificationWorkspace, job: RunSpec) -> _Cost:
    method, shape, plan = workspace.method_of(job), workspace.shape, workspace.plan_of(job)
    return _Cost(
        shape=shape,
        method=method,
        plan=plan,
        cut=plan.cut(shape, training=True),
        batch=method.recipe.images_per_step(len(workspace.shift.classes)),
        itemsize=DTYPES[workspace.task.dtype].itemsize,
    )


def _fresh(
    workspace: ClassificationWorkspace, job: RunSpec, cost: _Cost, seen: set[tuple[object, str]]
) -> int:
    """Count the image views of ``job`` that are neither stored nor counted before."""
    cut, recipe = cost.cut, cost.method.recipe
    if cut == (IMAGES,):
        return 0
    data, scored = workspace.parts(job.options or Subset())
    spec = augmentation(recipe.augmentation)
    before = len(seen)
    for index in range((0 if spec.identity else recipe.views) + 1):
        key = workspace.features.key(cut, index, spec)
        ids = [*data.ids, *(scored.ids if index == 0 else ())]
        missing = workspace.features.missing(cut, index, spec, ids)
        seen.update((key, image) for image in missing)
    return len(seen) - before


def describe(workspace: ClassificationWorkspace, jobs: Sequence[RunSpec]) -> list[str]:
    """Data, frozen work still to do, storage and training steps of ``jobs``, a line each."""
    shift, task, seen = workspace.shift, workspace.task, estimate_cost(workspace, jobs, timed=True)
    source = f"{_count(len(shift.source), 'source image')}, " if shift.source else ""
    subset = jobs[0].options or Subset()
    drawn = f"up to {subset.shots} a class" if subset.shots else "all"
    return [
        f"data     {source}{len(shift.classes)} classes, {len(shift.train):,} target images to draw "
        f"from ({drawn}), {len(shift.test):,} held back",
        *(f"note     {note}" for note in workspace.notes_with(subset)),
        *_equal_draws(workspace, jobs),
        f"frozen   {workspace.backbone.name}, {seen.images:,} images through the frozen half "
        f"({seen.flops / 1e12:.2f} TFLOPs), {seen.megabytes:,.0f} MB to store in "
        f"{task.cache or 'no cache: repeated in every epoch'}",
        f"training {_count(len(jobs), 'run')}, {seen.steps:,} steps, "
        f"{seen.train_flops / 1e12:.2f} TFLOPs above the cut, {task.precision} on {task.device}",
        *_time(seen, task.precision, task.device),
    ]


def _equal_draws(workspace: ClassificationWorkspace, jobs: Sequence[RunSpec]) -> list[str]:
    """A line where several draws take the same images, so that their spread says nothing of other images."""
    draws = {j.options.split_seed: j.options for j in jobs if j.options and j.options.shots}
    if len(draws) < 2 or len({workspace.parts(one)[0].ids for one in draws.values()}) > 1:
        return []
    shots = next(iter(draws.values())).shots
    return [
        f"note     all {len(draws)} draws take the same images, because no class has more than {shots}: "
        "their spread says nothing of other images. Use fewer --shots, or one draw"
    ]


def _time(seen: CostEstimate, precision: str, device: str) -> list[str]:
    """A line on how long it takes, none where nothing was timed; one more where a narrower precision would shorten what takes a minute."""
    total = seen.frozen_seconds + seen.train_seconds
    if not total:
        return []
    frozen = f", {in_words(seen.frozen_seconds)} of it the frozen half" if seen.images else ""
    lines = [f"time     {in_words(total)}{frozen}, by a batch timed here; scoring not counted"]
    if total >= 60 and precision == "fp32" and (found := narrow_unit(device)):
        lines.append(
            f"note     --precision {found[0]} would use {found[1]}: often half the time, features a little less exact"
        )
    return lines


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")

"""What a list of jobs will cost: counted from meta ledgers and from what the cache lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from petiole.backbones.base import IMAGES, Backbone
from petiole.backbones.registry import load
from petiole.data.dataset import Dataset
from petiole.data.preprocessing import augmentation
from petiole.engine.features import DTYPES
from petiole.engine.run import Job
from petiole.engine.sampler import trained_on
from petiole.engine.session import Session
from petiole.layers.solved import SolvedHead
from petiole.ledger import Ledger, count
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create


@dataclass(frozen=True)
class Survey:
    """Totals over jobs.

    Attributes:
        images: image views that must still pass the frozen half.
        flops: that this takes.
        megabytes: that it stores.
        steps: optimiser steps.
        train_flops: above the cut, forward and backward.
    """

    images: int
    flops: float
    megabytes: float
    steps: int
    train_flops: float


def survey(work: Session, jobs: Sequence[Job]) -> Survey:
    """Count what ``jobs`` will compute; an upper bound where draws overlap with stored images."""
    b = work.bench
    shape = load(b.backbone, weights=b.weights, image_size=b.image_size, device="meta")
    costs: dict[str, _Cost] = {}
    seen: set[tuple[object, str]] = set()
    images = flops = stored = steps = trained = 0.0
    for job in jobs:
        name = f"{job.method} {sorted(job.settings.items())}"
        if name not in costs:
            costs[name] = _cost(job, shape, len(work.shift.classes), b.dtype)
        cost = costs[name]
        length = cost.steps(work.parts(job.images)[0])
        steps += length
        ledger = cost.ledger
        trained += length * (ledger.flops_training * cost.batch + ledger.flops_classes_training)
        fresh = _fresh(work, job, cost, seen)
        images += fresh
        flops += fresh * (cost.ledger.flops_forward - cost.ledger.flops_above_cut)
        stored += fresh * cost.bytes
    return Survey(int(images), flops, stored / 1e6, int(steps), trained)


@dataclass(frozen=True)
class _Cost:
    """Of one method: ledger, bytes of an image at the cut, images a step, how it is trained."""

    ledger: Ledger
    bytes: int
    batch: int
    classes: int
    recipe: Recipe | None

    def steps(self, data: Dataset) -> int:
        """Optimiser steps on these images; none where the head is solved."""
        if self.recipe is None:
            return 0
        return self.recipe.resolved(trained_on(data, self.recipe), self.classes).steps


def _cost(job: Job, shape: Backbone, classes: int, dtype: str) -> _Cost:
    recipe = create(job.method, job.settings).recipe
    with torch.device("meta"):
        plan = create(job.method, job.settings).plan(shape, classes)
        image = torch.zeros(1, 3, *shape.preprocessing.size)
    state = shape.lower(image, plan.cut(shape, training=True))
    return _Cost(
        ledger=count(shape, plan),
        bytes=DTYPES[dtype].itemsize * sum(value.numel() for value in state.values()),
        batch=recipe.images_per_step(classes),
        classes=classes,
        recipe=None if isinstance(plan.head, SolvedHead) else recipe,
    )


def _fresh(work: Session, job: Job, cost: _Cost, seen: set[tuple[object, str]]) -> int:
    """Count the image views of ``job`` that are neither stored nor counted before."""
    cut, recipe = cost.ledger.cut, create(job.method, job.settings).recipe
    if cut == (IMAGES,):
        return 0
    (data, scored), cache = work.parts(job.images), work.features.cache
    spec = augmentation(recipe.augmentation)
    before = len(seen)
    for index in range((0 if spec.identity else recipe.views) + 1):
        key = work.features.key(cut, index, spec)
        ids = [*data.ids, *(scored.ids if index == 0 else ())]
        seen.update((key, image) for image in (cache.missing(key, ids) if cache else ids))
    return len(seen) - before

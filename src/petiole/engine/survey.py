"""What a list of jobs will cost: counted from meta ledgers and from what the cache lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from petiole.backbones.base import IMAGES
from petiole.data.preprocessing import augmentation
from petiole.engine.features import DTYPES
from petiole.engine.run import Job
from petiole.engine.session import Session
from petiole.ledger import count
from petiole.methods.registry import create

BACKWARD = 3
"""A training step costs about three forwards: one forward, two of the same size back."""


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
    seen: set[tuple[object, ...]] = set()
    images = flops = stored = steps = trained = 0.0
    for job in jobs:
        method = create(job.method, job.settings)
        with torch.random.fork_rng():
            plan = method.plan(work.backbone, len(work.shift.classes))
        ledger, cut = _count(work, plan), plan.cut(work.backbone)
        recipe = method.recipe
        steps += recipe.steps
        batch = min(recipe.classes_per_batch, len(work.shift.classes)) * (
            recipe.source_per_class + recipe.target_per_class
        )
        trained += BACKWARD * ledger[1] * recipe.steps * batch
        if cut == (IMAGES,):
            continue
        data = work.training(job.shots, job.draw)
        spec = augmentation(recipe.augmentation)
        for index in range((recipe.views if not spec.identity else 0) + 1):
            key = work.features.key(cut, index, spec)
            ids = [*data.ids, *(work.shift.test.ids if index == 0 else ())]
            cache = work.features.cache
            fresh = [
                i for i in (cache.missing(key, ids) if cache else ids) if (key, i) not in seen
            ]
            seen.update((key, i) for i in fresh)
            images += len(fresh)
            flops += len(fresh) * ledger[0]
            stored += len(fresh) * _bytes(work, cut)
    return Survey(int(images), flops, stored / 1e6, int(steps), trained)


def _count(work: Session, plan: object) -> tuple[int, int]:
    """FLOPs of one image below and above the cut."""
    ledger = count(work.backbone, plan)  # type: ignore[arg-type]
    return ledger.flops_forward - ledger.flops_above_cut, ledger.flops_above_cut


def _bytes(work: Session, cut: tuple[str, ...]) -> int:
    image = torch.zeros(1, 3, *work.backbone.preprocessing.size, device=work.features.device)
    size = DTYPES[work.bench.dtype].itemsize
    return sum(v.numel() * size for v in work.backbone.lower(image, cut).values())

"""What a teacher says about the images that a student trains on: computed once, before training."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.engine.feature_extractor import Features, views_of
from petiole.engine.feature_store import Rows
from petiole.engine.feature_table import StoredTable, Table
from petiole.errors import AdapterError
from petiole.methods.prompt_learning.class_vectors import ClassVectors, TaughtByClassVectors
from petiole.methods.recipe import Recipe
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier


@torch.no_grad()
def distillation_targets(
    features: Features, adapted: AdaptedClassifier, data: Dataset, recipe: Recipe
) -> Table:
    """Open the plan's teacher, give its class vectors to the student's head, and tabulate its logits.

    Args:
        features: of the student; the teacher's are cached in the same place.

    Returns:
        ``logits`` (C,) for each image and view that training uses.

    Raises:
        AdapterError: the teacher cannot be opened, or is not made of class names.
    """
    teacher = ClassificationAdapter.load(
        Path(adapted.plan.teacher), device=str(features.device)
    ).adapted
    if not isinstance(teacher.head, ClassVectors):
        raise AdapterError(
            f"{adapted.plan.teacher} has no one vector for each class name, so it cannot teach other "
            "classes. Train the teacher with promptsrc, coop, maple or zero-shot."
        )
    teacher.name(data.classes, data.name)
    if isinstance(adapted.head, TaughtByClassVectors):
        with teacher.attached():
            adapted.head.learn(teacher.head.embeddings(), teacher.head.scale)
    views, spec = views_of(recipe)
    theirs = Features(teacher.backbone, features.cache, features.precision, features.dtype)
    table = theirs.table(data, teacher.cut, views, spec)
    rows = torch.arange(len(data))
    logits = torch.cat([_logits(teacher, table, rows, index) for index in range(views + 1)])
    return StoredTable(Rows([{"logits": logits}], range(len(logits))), len(data), features.device)


def _logits(
    teacher: AdaptedClassifier, table: Table, rows: Tensor, index: int, size: int = 128
) -> Tensor:
    """(n, C) of one view."""
    with teacher.attached():
        parts = [
            teacher(table.fetch(part, torch.full_like(part, index))).logits.float().cpu()
            for part in torch.split(rows, size)
        ]
    return torch.cat(parts)

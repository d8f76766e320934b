"""Left-out predictions of a run: logits of every target image by a fit that had not seen it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from petiole.data.splits import class_folds
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError, DataError
from petiole.layers.solved import SolvedHead
from petiole.tasks.classification import training
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.model import AdaptedClassifier, predict

if TYPE_CHECKING:
    from petiole.tasks.classification.task import ClassificationRun

FOLDS = 5
"""Of a solved head, where nothing else is asked for."""


def calibrate(run: ClassificationRun, adapted: AdaptedClassifier) -> Calibration | None:
    """Fit the calibration of a trained model; ``None`` where none is asked for or nothing can be left out.

    Raises:
        ConfigError: it was asked for, and no class has two target images.
    """
    asked, fitted = run.subset.calibration_folds, fitted_by(run, adapted)
    if asked == 0 or (asked is None and fitted == "steps"):
        return None
    found = left_out(run, adapted, asked or FOLDS)
    if found is None:
        if asked:
            raise ConfigError(
                "--calibration-folds leaves target images out, and here no class has two. Draw more shots, or leave it out."
            )
        return None
    return Calibration.fit(*found, folds=0 if fitted == "nothing" else asked or FOLDS)


def left_out(
    run: ClassificationRun, adapted: AdaptedClassifier, folds: int = FOLDS
) -> tuple[Tensor, Tensor] | None:
    """Logits (n, K) of target images by fits that had not seen them, and their labels (n,); ``None`` if there are none.

    Only classes with two or more target images count: of the others nothing is learned without the one.
    """
    data = run.train_images
    rows = np.flatnonzero([domain == "target" for domain in data.domains])
    labels = data.labels[rows]
    several = np.bincount(labels, minlength=len(data.classes))[labels] > 1
    if not several.any():
        return None
    logits: Tensor | None
    match fitted_by(run, adapted):
        case "solving":
            logits = _solved(run, adapted, folds)
        case "nothing":
            logits = _untrained(run, adapted, rows)
        case "steps":
            logits = _trained(run, rows, labels, folds)
    if logits is None:
        return None
    return logits.cpu()[several], torch.tensor(labels[several])


def fitted_by(
    run: ClassificationRun, adapted: AdaptedClassifier
) -> Literal["solving", "steps", "nothing"]:
    """How a method learns from the training images."""
    if isinstance(adapted.head, SolvedHead):
        return "solving"
    return "steps" if run.method.recipe.steps else "nothing"


def _untrained(run: ClassificationRun, adapted: AdaptedClassifier, rows: np.ndarray) -> Tensor:
    """Nothing was fitted, so every image is left out."""
    target = run.train_images.select(rows)
    table = run.workspace.table(target, adapted.cut)
    return predict(adapted, table.batches(len(target))).logits


def _solved(run: ClassificationRun, adapted: AdaptedClassifier, folds: int) -> Tensor | None:
    head = adapted.head
    assert isinstance(head, SolvedHead)
    recipe = run.method.recipe
    table = run.workspace.training_table(adapted, run.train_images, recipe)
    x, y, is_target = training.solved_from(adapted, run.train_images, table, recipe)
    if not is_target.any():  # it learns from the source alone, so every target image is left out
        rows = np.flatnonzero([domain == "target" for domain in run.train_images.domains])
        return _untrained(run, adapted, rows)
    with adapted.attached():
        try:
            return head.left_out(x, y, is_target, folds)
        except DataError:  # a part less leaves this head too few classes
            return None


def _trained(run: ClassificationRun, rows: np.ndarray, labels: np.ndarray, folds: int) -> Tensor:
    """Train the method anew without each part in turn, from the same seed."""
    data, workspace = run.train_images, run.workspace
    part = class_folds(labels, folds)
    logits = torch.zeros(len(rows), len(data.classes))
    for fold in np.unique(part):
        held = rows[part == fold]
        kept = data.select(np.setdiff1d(np.arange(len(data)), held))
        with torch.random.fork_rng():
            torch.manual_seed(run.spec.seed)
            adapted = run.build()
        recipe = run.method.recipe
        training.train(
            adapted,
            kept,
            workspace.training_table(adapted, kept, recipe),
            recipe,
            seed=run.spec.seed,
            precision=workspace.task.precision,
            callbacks=Callbacks(quiet=workspace.task.quiet),
        )
        out = data.select(held)
        table = workspace.table(out, adapted.cut)
        logits[torch.from_numpy(part == fold)] = predict(adapted, table.batches(len(out))).logits
    return logits

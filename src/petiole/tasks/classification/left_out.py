"""Left-out predictions of a run: logits of every target image by a fit that had not seen it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from petiole.data.splits import class_folds
from petiole.engine.executor import Executor, Local
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError, DataError
from petiole.layers.solved import SolvedHead
from petiole.tasks.classification import training
from petiole.tasks.classification.calibration import Calibration
from petiole.tasks.classification.model import AdaptedClassifier, Predictions, predict
from petiole.tasks.classification.novelty import (
    Novelty,
    class_means,
    left_out_similarity,
    nearest,
)

if TYPE_CHECKING:
    from petiole.engine.task import Task
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
    return Calibration.fit(
        found.logits,
        found.labels,
        folds=0 if fitted == "nothing" else asked or FOLDS,
        novelty=_novelty(run, adapted, found),
    )


def _novelty(run: ClassificationRun, adapted: AdaptedClassifier, found: LeftOut) -> Novelty | None:
    """Class means of the target images' vectors, as the trained model sees them."""
    rows = target_rows(run)
    vectors, labels = (
        _output(run, adapted, rows).vectors,
        torch.tensor(run.train_images.labels[rows]),
    )
    similarity = found.similarity
    if similarity is None:  # the vectors depend on no label
        similarity = left_out_similarity(vectors, labels)[found.several]
    return Novelty.fit(vectors, labels, similarity)


class LeftOut(NamedTuple):
    """Of target images, by fits that had not seen them.

    Attributes:
        logits: (n, K).
        labels: (n,).
        several: which of all target images these are, (n_target,) bool.
        similarity: to the nearest class mean of the images that were seen, (n,); ``None`` where vectors are not trained.
    """

    logits: Tensor
    labels: Tensor
    several: Tensor
    similarity: Tensor | None = None


def target_rows(run: ClassificationRun) -> np.ndarray:
    """Where the target images lie among the training images."""
    return np.flatnonzero([domain == "target" for domain in run.train_images.domains])


def left_out(
    run: ClassificationRun,
    adapted: AdaptedClassifier,
    folds: int = FOLDS,
    executor: Executor | None = None,
) -> LeftOut | None:
    """What fits say of target images that they had not seen; ``None`` if there are none.

    Only classes with two or more target images count: of the others nothing is learned without the one.

    Args:
        run: that images are left out of.
        adapted: its model.
        folds: parts that are left out in turn.
        executor: where methods that are trained are trained without each part.
    """
    data = run.train_images
    rows = target_rows(run)
    labels = data.labels[rows]
    several = np.bincount(labels, minlength=len(data.classes))[labels] > 1
    if not several.any():
        return None
    logits: Tensor | None
    similarity: Tensor | None = None
    match fitted_by(run, adapted):
        case "solving":
            logits = _solved(run, adapted, folds)
        case "nothing":
            logits = _output(
                run, adapted, rows
            ).logits  # nothing was fitted, so every image is left out
        case "steps":
            logits, similarity = _trained(run, adapted, rows, labels, folds, executor or Local())
    if logits is None:
        return None
    kept = torch.from_numpy(several)
    return LeftOut(
        logits.cpu()[kept],
        torch.tensor(labels[several]),
        kept,
        None if similarity is None else similarity[kept],
    )


def fitted_by(
    run: ClassificationRun, adapted: AdaptedClassifier
) -> Literal["solving", "steps", "nothing"]:
    """How a method learns from the training images."""
    if isinstance(adapted.head, SolvedHead):
        return "solving"
    return "steps" if run.method.recipe.steps else "nothing"


def _output(run: ClassificationRun, adapted: AdaptedClassifier, rows: np.ndarray) -> Predictions:
    """What a model says of some of the training images, in the evaluation view."""
    chosen = run.train_images.select(rows)
    table = run.workspace.table(chosen, adapted.cut)
    return predict(adapted, table.batches(len(chosen)))


def _solved(run: ClassificationRun, adapted: AdaptedClassifier, folds: int) -> Tensor | None:
    head = adapted.head
    assert isinstance(head, SolvedHead)
    recipe = run.method.recipe
    table = run.workspace.training_table(adapted, run.train_images, recipe)
    x, y, is_target = training.solved_from(adapted, run.train_images, table, recipe)
    if not is_target.any():  # it learns from the source alone, so every target image is left out
        return _output(run, adapted, target_rows(run)).logits
    with adapted.attached():
        try:
            return head.left_out(x, y, is_target, folds)
        except DataError:  # a part less leaves this head too few classes
            return None


class _Part(NamedTuple):
    """A part of the target images, which a fit does not see.

    Attributes:
        run: in another process it is opened anew.
        rows: of all target images among the training images.
        held: of those in the part.
    """

    run: ClassificationRun
    rows: np.ndarray
    held: np.ndarray

    @property
    def task(self) -> Task[Any]:
        """By which an executor knows the device."""
        return self.run.spec.task


def _trained(
    run: ClassificationRun,
    adapted: AdaptedClassifier,
    rows: np.ndarray,
    labels: np.ndarray,
    folds: int,
    executor: Executor,
) -> tuple[Tensor, Tensor]:
    """Train the method anew without each part in turn, from the same seed; logits and similarities of the parts."""
    data = run.train_images
    run.workspace.training_table(adapted, data, run.method.recipe)  # so that no two fits store it
    parts = class_folds(labels, folds)
    jobs = [_Part(run, rows, rows[parts == fold]) for fold in np.unique(parts)]
    logits = torch.zeros(len(rows), len(data.classes))
    similarity = torch.zeros(len(rows))
    for job, found in zip(jobs, executor.map(_without, jobs), strict=True):
        mine = torch.from_numpy(np.isin(rows, job.held))
        logits[mine], similarity[mine] = map(torch.from_numpy, found)
    return logits, similarity


def _without(part: _Part) -> tuple[np.ndarray, np.ndarray]:
    """Logits and similarities of a part, by a fit that had not seen it."""
    run, held = part.run, part.held
    data, workspace, recipe = run.train_images, run.workspace, run.method.recipe
    kept = data.select(np.setdiff1d(np.arange(len(data)), held))
    with torch.random.fork_rng():
        torch.manual_seed(run.spec.seed)
        adapted = run.build()
    training.train(
        adapted,
        kept,
        workspace.training_table(adapted, kept, recipe),
        recipe,
        seed=run.spec.seed,
        precision=workspace.task.precision,
        callbacks=Callbacks(quiet=workspace.task.quiet),
    )
    seen = np.setdiff1d(part.rows, held)
    means = class_means(_output(run, adapted, seen).vectors, torch.from_numpy(data.labels[seen]))
    vectors, logits = _output(run, adapted, held)
    return logits.cpu().numpy(), nearest(vectors, means).cpu().numpy()

"""What tasks share whose images have a vector of targets in the place of a class: several labels, or a number.

The head has an output for each target. Ridge solves it in closed form; heads that are trained descend the task's loss
over shuffled passes. A run leaves, beside what every run leaves,

split.csv                 which image was in which part
predictions.csv           path, sha256, and truth and prediction of every scored image
"""

from __future__ import annotations

import csv
import io
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from petiole.data.dataset import Dataset
from petiole.data.splits import SPLIT
from petiole.data.targets import TargetImages, open_targets
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_table import Table
from petiole.engine.model_card import FrozenModel
from petiole.engine.optimizer import make_optimizer
from petiole.engine.record import DataCard, count_test_evaluation
from petiole.engine.run import RunSpec
from petiole.engine.task import ScoredSet, Scores
from petiole.engine.trainer import Callbacks, Trainer, accelerate
from petiole.errors import ConfigError
from petiole.files import write_text
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import SolvedHead
from petiole.methods.base import Plan
from petiole.methods.recipe import Recipe
from petiole.methods.registry import settings_of
from petiole.printable import cell
from petiole.tasks.classification import training
from petiole.tasks.classification.adapter import ImageAdapter, logits_of
from petiole.tasks.classification.model import AdaptedClassifier, ClassNameHead, predict
from petiole.tasks.classification.sampler import Sampler
from petiole.tasks.classification.task import ClassificationRun
from petiole.tasks.target_workspace import TargetTask, TargetWorkspace, VectorTask

TABLE = "predictions.csv"
BATCH = 64
"""Images a step, where the recipe counts them by class."""

UNUSED = frozenset(
    [
        *("mixup", "cutmix", "label_smoothing", "class_weight", "select", "held_back", "patience"),
        *("train_on", "target_weight", "align_source", "classes_per_batch", "source_per_class"),
        "target_per_class",
    ]
)
"""Fields of a recipe that speak of classes or of two domains."""


class TargetRun(ClassificationRun):
    """A run on images with targets.

    Subclasses say what the targets are, the loss, how ridge is solved, and how predictions are scored.
    """

    files: ClassVar[tuple[str, ...]] = (SPLIT, TABLE)
    workspace: TargetWorkspace

    def __init__(self, workspace: TargetWorkspace, spec: RunSpec) -> None:
        if unused := sorted(UNUSED & spec.settings.keys()):
            raise ConfigError(
                f"{unused[0]} speaks of classes or domains, and {workspace.task.kind} has none. Leave it out."
            )
        super().__init__(workspace, spec)
        self.names = workspace.names
        self.truth = self.matrix(self.train_images, workspace.learned)
        with torch.random.fork_rng():
            self.check(self.plan())

    def plan(self) -> Plan:
        """What the method puts onto the backbone, afresh."""
        return self.method.plan(self.workspace.backbone, len(self.names))

    @abstractmethod
    def matrix(self, images: Dataset, part: TargetImages) -> NDArray[Any]:
        """Targets (n, ...) of images of a part."""

    def check(self, plan: Plan) -> None:
        """Raise ConfigError for a method that needs classes."""
        name, kind = self.spec.method, self.workspace.task.kind
        if plan.losses or plan.teacher:
            raise ConfigError(
                f"{name} has losses on classes, and {kind} has none. Take ridge, linear-probe, lora-qkv or adaptertune."
            )
        if plan.search:
            raise ConfigError(
                f"{name} searches by accuracy, and {kind} has no classes. Take glora with paths, lora-qkv or adaptertune."
            )
        if isinstance(plan.head, SolvedHead) and not isinstance(plan.head, RidgeHead):
            raise ConfigError(
                f"The head of {name} is solved for classes, and {kind} has none. Take ridge, or a method that is trained."
            )

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of outputs (B, ...) against targets (B, ...)."""

    def wanted(self) -> NDArray[Any]:
        """What the outputs are trained towards, (n, ...)."""
        return self.truth

    def data(self) -> DataCard:
        workspace, scored = self.workspace, self.subset.scored
        test, source = workspace.targets["test"], workspace.targets.get("source")
        parts = {
            **({"source": source} if source else {}),
            "train": workspace.learned.select(self.train_images),
            scored: test,
        }
        return DataCard(
            digests={name: part.digest() for name, part in parts.items()},
            samples={name: len(part.images) for name, part in parts.items()},
            classes=list(self.names),
            shots=self.subset.shots,
            split_seed=self.subset.split_seed,
            tasks=[workspace.task.kind],
            scored=scored,
            notes=[*workspace.notes, workspace.leaks(self.train_images, self.scored).summary()],
        )

    def build(self) -> AdaptedClassifier:
        task = self.workspace.task
        adapted = AdaptedClassifier(
            self.workspace.backbone,
            self.plan(),
            checkpoint=task.checkpointing,
            compiled=task.compiled,
        )
        adapted.to(self.device).name(self.names)
        if isinstance(adapted.head, SolvedHead):
            self.selection = "solved"
        return adapted

    def train(self, adapted: AdaptedClassifier, callbacks: Callbacks) -> float:
        recipe = self.method.recipe
        table = self.workspace.training_table(adapted, self.train_images, recipe)
        wanted = torch.from_numpy(self.wanted()).float()
        if isinstance(adapted.head, RidgeHead):
            return training.timed(lambda: self._solve(adapted, table, wanted))
        return training.timed(lambda: self._descend(adapted, table, wanted, callbacks))

    @abstractmethod
    def _solve(self, adapted: AdaptedClassifier, table: Table, wanted: Tensor) -> None:
        """Solve the head in closed form."""

    def _descend(
        self, adapted: AdaptedClassifier, table: Table, wanted: Tensor, callbacks: Callbacks
    ) -> None:
        recipe = _shuffled(self.method.recipe, len(self.train_images), len(self.names))
        accelerator = accelerate(adapted.backbone.module)
        loss_module = _TargetLoss(adapted, self).to(accelerator.device)
        sampler, wanted = (
            Sampler(self.train_images, recipe, self.spec.seed),
            wanted.to(accelerator.device),
        )

        def feed(step: int) -> tuple[Any, ...]:
            rows, views = sampler(step)
            callbacks.samples += len(rows)
            return table.fetch(rows, views), wanted[rows.to(wanted.device)]

        a_pass = recipe.a_pass(len(self.train_images), len(self.names))
        optimizer = make_optimizer(loss_module, recipe)
        Trainer(
            accelerator,
            loss_module,
            adapted,
            feed,
            optimizer,
            recipe,
            a_pass,
            self.spec.seed,
            precision=self.workspace.task.precision,
        ).run(callbacks)
        adapted.eval()

    @abstractmethod
    def adapter(self, adapted: AdaptedClassifier) -> TargetAdapter:
        """Describe the trained model as a file."""

    def described(self) -> dict[str, Any]:
        """What ``ImageAdapter.describe`` takes beside model and details."""
        task = self.workspace.task
        return {
            "method": self.spec.method,
            "settings": settings_of(self.method),
            "classes": self.names,
            "weights": task.weights,
            "image_size": task.image_size,
        }

    def finish(self, adapted: AdaptedClassifier, folder: Path) -> Mapping[str, Any]:  # noqa: ARG002
        return {}


class VectorRun(TargetRun):
    """A run on images with a vector of targets each.

    Subclasses say the loss, how ridge's outputs become the head's, and the scores.
    """

    def matrix(self, images: Dataset, part: TargetImages) -> NDArray[np.float64]:
        task = self.workspace.task
        assert isinstance(task, VectorTask)
        return task.matrix(part.select(images), self.names)

    def finish_ridge(self, head: RidgeHead, left_out: Tensor) -> None:
        """Bring a solved head's outputs into the loss's form, by what left-out images were given."""

    @abstractmethod
    def adapter(self, adapted: AdaptedClassifier) -> VectorAdapter: ...

    @abstractmethod
    def scored_by(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        """Scores by name, the headline first."""

    @torch.no_grad()
    def _solve(self, adapted: AdaptedClassifier, table: Table, wanted: Tensor) -> None:
        head = adapted.head
        assert isinstance(head, RidgeHead)
        recipe = replace(self.method.recipe, train_on="joint")
        x, _, _ = training.solved_from(adapted, self.train_images, table, recipe)
        every = torch.ones(len(x), dtype=torch.bool)
        left_out = head.solve_targets(x, wanted, torch.ones(len(x)), every)
        self.finish_ridge(head, left_out.float().cpu())

    def evaluate(self, adapted: AdaptedClassifier, folder: Path) -> Scores:
        scored, test = self.scored, self.workspace.targets["test"]
        truth, digest = self.matrix(scored, test), test.digest()
        count_test_evaluation(folder, digest, len(scored), "end of training", once=True)
        table = self.workspace.table(scored, adapted.cut)
        outputs = predict(adapted, table.batches(len(scored))).logits
        adapter = self.adapter(adapted)
        _write(folder, scored, test, adapter.said(outputs))
        self.outputs = outputs, truth
        return {self.subset.scored: known(self.scored_by(outputs, truth))}


def known(scores: Mapping[str, float]) -> dict[str, float]:
    """Scores that have a value."""
    return {name: value for name, value in scores.items() if not math.isnan(value)}


def _shuffled(recipe: Recipe, images: int, outputs: int) -> Recipe:
    """The recipe in shuffled batches, with its length in steps."""
    size = min(recipe.batch_size or BATCH, images)
    drop = recipe.drop_last and images > size
    recipe = replace(recipe, batch_size=size, drop_last=drop, train_on="joint", select="last")
    return recipe.resolved(images, outputs)


class _TargetLoss(nn.Module):
    """Batch -> loss of the run."""

    def __init__(self, adapted: AdaptedClassifier, run: TargetRun) -> None:
        super().__init__()
        self.adapted, self._run = adapted, (run,)

    def forward(self, state: Mapping[str, Tensor], targets: Tensor) -> Tensor:
        with self.adapted.attached():
            if isinstance(self.adapted.head, ClassNameHead):
                self.adapted.head.forget()  # the last step has changed the weights
            outputs = self.adapted(dict(state)).logits.float()
        return self._run[0].loss(outputs, targets)


def _write(folder: Path, images: Dataset, targets: TargetImages, said: Sequence[str]) -> None:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "sha256", "truth", "prediction"])
    for sample, prediction in zip(images.samples, said, strict=True):
        truth = targets.said[sample.id]
        table.writerow([cell(sample.path), sample.id, cell(truth), cell(prediction)])
    write_text(folder / TABLE, text.getvalue())


class TargetAdapter(ImageAdapter):
    """A trained model whose outputs are targets."""

    task: ClassVar[type[TargetTask]]
    details_model: ClassVar[type[FrozenModel]] = FrozenModel


class VectorAdapter(TargetAdapter):
    """One whose outputs are a vector of targets for each image."""

    task: ClassVar[type[VectorTask]]

    @abstractmethod
    def said(self, outputs: Tensor) -> list[str]:
        """Each prediction as a table says it."""

    @abstractmethod
    def rows(self, outputs: Tensor) -> list[dict[str, Any]]:
        """Each prediction as ``petiole predict`` gives it, without the path."""

    @abstractmethod
    def scores(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        """Scores by name, the headline first."""

    def predict_rows(self, images: object, batch: int = 64) -> list[dict[str, Any]]:
        """Predictions of images in any form that ``petiole.data.inputs.as_images`` takes.

        Raises:
            DataError: an image cannot be read.
        """
        from petiole.data.inputs import as_images

        refs = as_images(images)
        found = self.rows(logits_of(self.adapted, refs, batch))
        return [{"path": str(ref.path), **row} for ref, row in zip(refs, found, strict=True)]

    def score_on(self, data: Any, *, skip_bad: bool = False) -> ScoredSet:
        """Scores on the test part of a table, or on all of one without parts.

        Raises:
            DataError: no such table, or bad images.
        """
        task = self.task
        source = Path(data) if isinstance(data, str | Path) else data
        parts = open_targets(source, task.column, task.text, skip_bad=skip_bad)
        part = parts.get("test") or parts["train"]
        table = Features(self.adapted.backbone).table(part.images, self.adapted.cut)
        outputs = predict(self.adapted, table.batches(len(part.images))).logits
        scores = known(self.scores(outputs, task.matrix(part, self.classes)))
        notes = (*part.images.notes, *task.notes(part, self.classes))
        return ScoredSet(
            part.images.name, scores, len(part.images), part.digest(), notes, part.images.ids
        )

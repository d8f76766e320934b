"""One method on labelled images: what ``engine.run`` asks for.

Leaves, beside what every run leaves,

split.csv                 which image was in which part
drift.jsonl               step and how far the tokens behind each block have moved, if they can
predictions.csv, predictions.safetensors
vectors.safetensors       image vectors before and after, where they are asked for
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.data.splits import SPLIT, write_split
from petiole.engine.adapter import find, read_manifest
from petiole.engine.model_card import ModelCard
from petiole.engine.progress import console
from petiole.engine.record import DataCard, appender, count_test_evaluation, read_log
from petiole.engine.run import CHECKPOINT, RunSpec
from petiole.engine.task import Scores, TaskRun, open_workspace
from petiole.engine.trainer import Callbacks
from petiole.files import write_tensors
from petiole.layers.solved import SolvedHead
from petiole.ledger import Ledger
from petiole.methods.registry import create, settings_of
from petiole.metrics.training_curve import remarks
from petiole.tasks.classification import training
from petiole.tasks.classification.adapter import ClassificationAdapter, ImageAdapter
from petiole.tasks.classification.calibration import Calibration, scores_of
from petiole.tasks.classification.left_out import calibrate
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.tasks.classification.predictions import (
    TABLE,
    TENSORS,
    read_predictions,
    write_predictions,
)
from petiole.tasks.classification.view_check import check_views, warning
from petiole.tasks.classification.workspace import ClassificationWorkspace, Subset

DRIFT, VECTORS = "drift.jsonl", "vectors.safetensors"
MOST_VECTORS = 2000


class ClassificationRun(TaskRun):
    """A run on labelled images.

    Args:
        workspace: opened.
        spec: with a ``Subset`` as its options.
    """

    files: ClassVar[tuple[str, ...]] = (SPLIT, DRIFT, TABLE, TENSORS)

    def __init__(self, workspace: ClassificationWorkspace, spec: RunSpec) -> None:
        self.workspace, self.spec = workspace, spec
        self.subset = spec.options or Subset()
        self.method = workspace.method_of(spec)
        workspace.feature_seconds = 0.0
        self.train_images, self.scored = workspace.parts(self.subset)
        self.calibration: Calibration | None = None
        self._adapted_vectors: Tensor | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is opened anew."""
        quiet = replace(self.spec, task=replace(self.spec.task, quiet=True))
        return _reopened, (quiet,)

    @property
    def device(self) -> torch.device:
        return self.workspace.features.device

    @property
    def feature_seconds(self) -> float:
        return self.workspace.feature_seconds

    def backbone(self) -> ModelCard:
        task = self.workspace.task
        place = str(task.weights) if task.weights else None
        return ModelCard.of(self.workspace.backbone, weights=place, image_size=task.image_size)

    def data(self) -> DataCard:
        workspace, subset = self.workspace, self.subset
        source = workspace.shift.source
        parts = {"source": source, "train": self.train_images, subset.scored: self.scored}
        return DataCard(
            digests={name: part.digest() for name, part in parts.items() if part},
            samples={name: len(part) for name, part in parts.items() if part},
            classes=list(self.train_images.classes),
            shots=subset.shots,
            split_seed=subset.split_seed,
            fraction=subset.fraction,
            validation=subset.validation,
            scored=subset.scored,
            notes=[
                *dict.fromkeys((*workspace.notes, *self.train_images.notes)),
                workspace.leaks(self.train_images, self.scored).summary(),
            ],
        )

    def options(self) -> Mapping[str, Any]:
        task = self.workspace.task
        teacher = settings_of(self.method).get("teacher", "")
        return {
            "precision": task.precision,
            "compiled": task.compiled,
            "dtype": task.dtype,
            "calibration_folds": self.subset.calibration_folds,
            "teacher": read_manifest(find(Path(teacher))).tensors_sha256 if teacher else "",
        }

    def begin(self, folder: Path) -> None:
        parts = {"train": self.train_images, self.subset.scored: self.scored}
        meta = asdict(self.subset)
        for name in ("vectors", "calibration_folds"):  # they choose no image
            meta.pop(name)
        write_split(folder / SPLIT, parts, meta=meta)

    def build(self) -> AdaptedClassifier:
        workspace, task = self.workspace, self.workspace.task
        plan = self.method.plan(workspace.backbone, len(self.train_images.classes))
        adapted = AdaptedClassifier(
            workspace.backbone, plan, checkpoint=task.checkpointing, compiled=task.compiled
        )
        adapted.to(self.device)
        adapted.name(self.train_images.classes, self.train_images.name)
        if isinstance(adapted.head, SolvedHead):
            self.selection = "solved"
        elif not self.method.recipe.steps:
            self.selection = "as initialised"
        return adapted

    def train(self, adapted: AdaptedClassifier, callbacks: Callbacks) -> float:
        table = self.workspace.training_table(adapted, self.train_images, self.method.recipe)
        fresh = not (self.spec.folder / CHECKPOINT).exists()
        callbacks.drift = appender(self.spec.folder / DRIFT, fresh=fresh)
        seconds = training.train(
            adapted,
            self.train_images,
            table,
            self.method.recipe,
            seed=self.spec.seed,
            precision=self.workspace.task.precision,
            callbacks=callbacks,
        )
        if self.method.recipe.select == "best":
            self.selection = callbacks.selection
        self.calibration = calibrate(self, adapted)
        return seconds

    def training_flops(
        self, adapted: AdaptedClassifier, ledger: Ledger, callbacks: Callbacks
    ) -> float | None:
        plan = adapted.plan
        if plan.search or plan.adversary:  # paths without some of the layers; passes of its own
            return None
        image = ledger.flops_training
        if self.workspace.features.cache is None:  # each step runs the frozen half, too
            image += ledger.flops_forward - ledger.flops_above_cut
        return callbacks.samples * image + callbacks.steps * ledger.flops_classes_training

    def evaluate(self, adapted: AdaptedClassifier, folder: Path) -> Scores:
        scored = self.scored
        if not self.subset.validation:
            count_test_evaluation(
                folder, scored.digest(), len(scored), "end of training", once=True
            )
        table = self.workspace.table(scored, adapted.cut)
        output = predict(adapted, table.batches(len(scored)))
        write_predictions(folder, scored, output.probabilities)
        self._adapted_vectors = output.vectors
        return {self.subset.scored: scores_of(output.logits, scored.labels, self.calibration)}

    def adapter(self, adapted: AdaptedClassifier) -> ImageAdapter:
        task = self.workspace.task
        return ClassificationAdapter.of(
            adapted,
            method=self.spec.method,
            settings=settings_of(self.method),
            classes=self.train_images.classes,
            weights=task.weights,
            image_size=task.image_size,
            calibration=self.calibration,
        )

    def finish(self, adapted: AdaptedClassifier, folder: Path) -> Mapping[str, Any]:
        if self.subset.vectors:
            write_tensors(folder / VECTORS, self._vectors(adapted))
        recipe = self.method.recipe
        checked = check_views(self.workspace, self.train_images, recipe)
        told = self._remarks(folder)
        if isinstance(adapted.head, SolvedHead):
            told += adapted.head.remarks()
        for note in [warning(checked, recipe), *told]:
            if note and not self.workspace.task.quiet:
                console.print(f"note     {note}", style="yellow", highlight=False, markup=False)
        known = {"training_views": checked, "remarks": told}
        return {name: value for name, value in known.items() if value}

    def _remarks(self, folder: Path) -> list[str]:
        """What the losses and the predictions that are written say of this run."""
        if TENSORS not in self.files:
            return []
        losses = [row["loss"] for row in read_log(folder)]
        scored = read_predictions(folder)
        right = scored.probabilities.argmax(1) == scored.labels
        return remarks(losses, float(right.float().mean()), scored.labels.tolist())

    def _vectors(self, adapted: AdaptedClassifier) -> dict[str, Tensor]:
        """Vectors before and after of source and test images, at most 2,000 of each, as fp16."""
        workspace = self.workspace
        with torch.random.fork_rng():
            plan = create("linear-probe").plan(workspace.backbone, 2)
            frozen = AdaptedClassifier(workspace.backbone, plan).to(self.device)
        parts: list[dict[str, Tensor]] = []
        for part, is_target in ((workspace.shift.source, False), (self.scored, True)):
            if part is None:
                continue
            keep = torch.linspace(0, len(part) - 1, min(len(part), MOST_VECTORS)).round().long()
            chosen = part.select(keep.tolist())

            def seen(by: AdaptedClassifier, chosen: Dataset = chosen) -> Tensor:
                return predict(by, workspace.table(chosen, by.cut).batches(len(chosen))).vectors

            known = self._adapted_vectors if is_target else None
            vectors = {
                "before": seen(frozen),
                "after": seen(adapted) if known is None else known[keep],
            }
            labels = torch.tensor(chosen.labels.copy())
            parts.append(
                {
                    **{name: one.half() for name, one in vectors.items()},
                    "labels": labels,
                    "is_target": torch.full_like(labels, is_target, dtype=torch.bool),
                }
            )
        return {name: torch.cat([p[name] for p in parts]) for name in parts[0]}


def _reopened(spec: RunSpec) -> TaskRun:
    run: TaskRun = open_workspace(spec.task).prepare(spec)
    run.backbone()  # loading it draws random numbers, which must not come between a seed and what is built from it
    return run

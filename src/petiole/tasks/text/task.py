"""One method on tasks of texts about images: what ``engine.run`` asks for.

Leaves predictions/<task>.jsonl: key, text, prediction, references and score of every scored sample.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch

from petiole.engine.adapter import TaskName
from petiole.engine.model_card import ModelCard
from petiole.engine.record import DataCard, count_test_evaluation
from petiole.engine.run import RunSpec
from petiole.engine.task import Scores, TaskRun
from petiole.engine.trainer import Callbacks
from petiole.ledger import Ledger, Question, count, repeated
from petiole.methods.registry import settings_of
from petiole.methods.text import TextMethod
from petiole.tasks.text import training
from petiole.tasks.text.adapter import TextAdapter, method_of
from petiole.tasks.text.answer_loss import answer_head
from petiole.tasks.text.collator import Collator, TaskData
from petiole.tasks.text.model import AdaptedTextModel
from petiole.tasks.text.predictions import FOLDER, write_predictions
from petiole.tasks.text.training import TextOptions
from petiole.tasks.text.workspace import TextWorkspace


class TextRun(TaskRun):
    """A run on tasks of texts.

    Args:
        workspace: opened.
        spec: with ``TextOptions`` as its options.
    """

    files: ClassVar[tuple[str, ...]] = (f"{FOLDER}/*.jsonl",)
    method: TextMethod

    def __init__(self, workspace: TextWorkspace, spec: RunSpec) -> None:
        self.workspace, self.spec = workspace, spec
        self.chosen: TextOptions = spec.options or TextOptions()
        for data in workspace.tasks:
            for part in ("train", self.chosen.scored):
                data.part(part)
        self.method = method_of(spec.method, {**spec.settings, "tasks": len(workspace.tasks)})
        self.tower, tasks = workspace.with_vision_tower(self.method.vision)
        self.collator = Collator(workspace.model, tasks, prefixes=self.chosen.prefixes)

    @property
    def tasks(self) -> tuple[TaskData, ...]:
        """In the order of their numbers."""
        return tuple(self.collator.tasks)

    @property
    def device(self) -> torch.device:
        return self.workspace.model.device

    def backbone(self) -> ModelCard:
        model = self.workspace.model
        return ModelCard.of(model, vision_width=model.vision_width, **self.workspace.card)

    def data(self) -> DataCard:
        tasks = self.tasks
        return DataCard(
            digests={data.name: data.digest for data in tasks},
            samples={
                f"{data.name}/{part}": len(samples)
                for data in tasks
                for part, samples in data.parts.items()
            },
            tasks=[data.name for data in tasks],
            fraction=self.chosen.fraction,
            scored=self.chosen.scored,
            notes=[f"{data.name}: {note}" for data in tasks for note in data.notes],
        )

    def options(self) -> Mapping[str, Any]:
        chosen = self.chosen
        precision = self.workspace.task.precision
        return {"mode": chosen.mode, "prefixes": chosen.prefixes, "precision": precision}

    def build(self) -> AdaptedTextModel:
        model = self.workspace.model
        adapted = AdaptedTextModel(
            model,
            self.method.plan(model),
            dropout=self.method.dropout,
            vision_tower=self.tower,
            head=answer_head(self.method, model, self.tasks, self.chosen.fraction),
        )
        return adapted.to(model.device)

    def train(self, adapted: AdaptedTextModel, callbacks: Callbacks) -> float:
        return training.train(
            adapted,
            self.collator,
            self.method.recipe,
            self.chosen,
            seed=self.spec.seed,
            precision=self.workspace.task.precision,
            callbacks=callbacks,
        )

    def training_flops(
        self,
        adapted: AdaptedTextModel,
        ledger: Ledger,  # noqa: ARG002 - of one sample of a fixed size
        callbacks: Callbacks,
    ) -> float | None:
        """As many samples as were taken, of the mean sizes of their batches."""
        if adapted.head or adapted.vision_tower or not callbacks.samples:
            return None
        mean = {n: round(total / callbacks.samples) for n, total in callbacks.tokens.items()}
        counted = count(adapted.model, adapted.plan, Question(**mean))
        return float(callbacks.samples * repeated(counted, self.method).flops_training)

    def evaluate(self, adapted: AdaptedTextModel, folder: Path) -> Scores:
        scored, quiet = self.chosen.scored, self.workspace.task.quiet
        scores = {}
        for number, data in enumerate(self.tasks):
            samples = data.part(scored)
            if scored == "test":
                count_test_evaluation(
                    folder, data.digest or data.name, len(samples), data.name, once=True
                )
            texts = training.answers(adapted, self.collator, number, samples, quiet=quiet)
            scores[data.name] = write_predictions(folder, data.name, data.task, samples, texts)
        return scores

    def adapter(self, adapted: AdaptedTextModel) -> TextAdapter:
        return TextAdapter.of(
            adapted,
            method=self.spec.method,
            settings=settings_of(self.method),
            tasks=[TaskName(name=data.name, kind=data.task.name) for data in self.tasks],
            prefixes=self.chosen.prefixes,
            **self.workspace.card,
        )

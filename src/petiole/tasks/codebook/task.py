"""One adaptation of a vision-language model over a codebook: what ``engine.run`` asks for.

Leaves

diagnostics.jsonl           step, and of the same images each time: flip rate, perplexity of codes, mean residual
predictions/<model>.jsonl   key, text, prediction, references and score of every scored sample, by language model
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import torch

from petiole.collective import members
from petiole.engine.model_card import ModelCard
from petiole.engine.progress import console
from petiole.engine.record import DataCard, appender, count_test_evaluation
from petiole.engine.run import CHECKPOINT, RunSpec
from petiole.engine.task import Scores, TaskRun
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError, DataError
from petiole.ledger.ledger import Ledger
from petiole.methods.codebook.base import CodebookMethod
from petiole.methods.registry import settings_of
from petiole.tasks.codebook import training
from petiole.tasks.codebook.adapter import CodebookAdapter, Frequencies, build_model, method_of
from petiole.tasks.codebook.code_usage import CodeProbe, collapse, counts
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel
from petiole.tasks.codebook.training import CodebookOptions
from petiole.tasks.codebook.workspace import CodebookWorkspace
from petiole.tasks.text.predictions import FOLDER, write_predictions
from petiole.tasks.text.registry import find

DIAGNOSTICS = "diagnostics.jsonl"
EVERY = 50
"""Steps between two diagnoses."""


class CodebookRun(TaskRun):
    """A run on questions over a codebook.

    Args:
        workspace: opened.
        spec: with ``CodebookOptions`` as its options.
    """

    files: ClassVar[tuple[str, ...]] = (DIAGNOSTICS, f"{FOLDER}/*.jsonl")
    method: CodebookMethod
    frequencies: Frequencies

    def __init__(self, workspace: CodebookWorkspace, spec: RunSpec) -> None:
        self.workspace, self.spec = workspace, spec
        self.chosen: CodebookOptions = spec.options or CodebookOptions()
        self.method = method_of(spec.method, spec.settings)
        self.method.check(workspace.model)
        self._check_others()
        for part in ("train", self.chosen.scored):
            if any(len(sample.images) != 1 for sample in workspace.data[part]):
                raise DataError(f"{workspace.data.root}: {part} has a sample without one image.")
        self.image_folder = ImageFolder(workspace.data.root, workspace.model.tower)
        self.diagnosis: dict[str, dict[str, float]] = {}
        self.remarks: list[str] = []

    def _check_others(self) -> None:
        """Raise unless every language model sees what the surrogate sees, and gains by what is trained, and the method leaves one that is sharded alone."""
        workspace, model = self.workspace, self.workspace.model
        for other in workspace.others:
            model.spec.check(other.spec, model.name, other.name)
            if other.discrete is not model.discrete:
                raise ConfigError(
                    f"{model.name} and {other.name} do not both see codes. Score them in runs of their own."
                )
        if model.sharded and self.method.adapts_language:
            raise ConfigError(
                f"{self.spec.method} trains inside {model.name}, and --fsdp is for language models that stay as they are. Leave "
                "--fsdp out, or take craft."
            )
        if workspace.others and self.method.adapts_language:
            raise ConfigError(
                f"{self.spec.method} changes {model.name} alone, so no other language model gains by it. Leave "
                "--language-model out."
            )

    @property
    def scores_together(self) -> bool:
        return any(model.sharded for model in (self.workspace.model, *self.workspace.others))

    @property
    def device(self) -> torch.device:
        return self.workspace.model.device

    def backbone(self) -> ModelCard:
        return ModelCard.of(self.workspace.model)

    def data(self) -> DataCard:
        data, general = self.workspace.data, self.workspace.general
        return DataCard(
            digests={"data": data.digest(), **({"general": general.digest()} if general else {})},
            samples={part: len(samples) for part, samples in data.parts.items()},
            tasks=[data.task],
            scored=self.chosen.scored,
            notes=list(self.workspace.notes),
        )

    def options(self) -> Mapping[str, Any]:
        pruning = self.chosen.pruning
        return {
            "language_models": [other.fingerprint for other in self.workspace.others],
            "pruning": asdict(pruning) if pruning else None,
            "precision": self.workspace.task.precision,
        }

    def build(self) -> AdaptedCodebookModel:
        return build_model(self.method, self.workspace.model)

    def train(self, adapted: AdaptedCodebookModel, callbacks: Callbacks) -> float:
        samples, folder = self.workspace.data["train"], self.spec.folder
        probe = CodeProbe(adapted, self.image_folder, samples)
        start = self.diagnosis["start"] = probe.diagnosis()
        self._tell("before training", collapse(start, start))
        note = appender(folder / DIAGNOSTICS, fresh=not (folder / CHECKPOINT).exists())

        def measure(step: int) -> None:
            if step % EVERY == 0:
                now = probe.diagnosis()
                note(step, now)
                self._tell(f"at step {step}", collapse(now, start))

        seconds = training.train(
            adapted,
            self.method,
            self.image_folder,
            samples,
            seed=self.spec.seed,
            general=self.workspace.general,
            precision=self.workspace.task.precision,
            callbacks=callbacks,
            measure=measure,
        )
        end = self.diagnosis["end"] = probe.diagnosis()
        self._tell("after training", collapse(end, start))
        return seconds

    def training_flops(
        self,
        adapted: AdaptedCodebookModel,
        ledger: Ledger,  # noqa: ARG002 - of a question, not of a training step
        callbacks: Callbacks,
    ) -> float | None:
        """As many samples as were taken, as a few of them count; nothing where processes compute parts of a sample or of a term."""
        if members() > 1 or not callbacks.samples:
            return None
        return callbacks.samples * training.sample_flops(
            adapted,
            self.method,
            self.image_folder,
            self.workspace.data["train"],
            general=self.workspace.general,
        )

    def _tell(self, when: str, what: str) -> None:
        """Say a remark once, as soon as it holds, and keep it for the record."""
        if not what or any(what in told for told in self.remarks):
            return
        self.remarks.append(f"{when}: {what}")
        if not self.workspace.task.quiet:
            console.print(
                f"note     {self.remarks[-1]}", style="yellow", highlight=False, markup=False
            )

    def evaluate(self, adapted: AdaptedCodebookModel, folder: Path) -> Scores:
        """Open the scored part once, for all language models."""
        data, chosen, quiet = self.workspace.data, self.chosen, self.workspace.task.quiet
        self.frequencies = counts(adapted, self.image_folder, data["train"], quiet=quiet)
        samples = data[chosen.scored]
        if chosen.scored == "test":
            count_test_evaluation(folder, data.digest(), len(samples), "end of training", once=True)
        names = [sample.images[0] for sample in samples]
        seen = self.image_folder.vision_outputs(adapted, names, quiet=quiet)
        tuned, task, scores = self.frequencies.tuned, find(data.task), {}
        for one in (adapted, *(adapted.on(other) for other in self.workspace.others)):
            texts = training.answers(one, seen, samples, chosen.pruning, tuned, quiet=quiet)
            name = one.model.name
            scores[name] = write_predictions(folder, name, task, samples, texts)
        return scores

    def adapter(self, adapted: AdaptedCodebookModel) -> CodebookAdapter:
        return CodebookAdapter.of(
            adapted,
            self.frequencies,
            method=self.spec.method,
            settings=settings_of(self.method),
        )

    def finish(self, adapted: AdaptedCodebookModel, folder: Path) -> Mapping[str, Any]:  # noqa: ARG002
        return {**self.diagnosis, **({"remarks": self.remarks} if self.remarks else {})}

"""A language model over a codebook and questions about images: what is opened, and both of them opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.loading import load_lvlm
from petiole.backbones.codebook_lvlm.sharded import held, shard
from petiole.data.readers.classes import TASK as QUESTION
from petiole.data.readers.registry import open_questions
from petiole.data.text_dataset import TextDataset
from petiole.device import Precision
from petiole.engine.task import Task, TaskRun, Workspace
from petiole.tasks.codebook.batches import BATCH
from petiole.tasks.codebook.words import word_notes
from petiole.tasks.text.workspace import counts

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec


@dataclass(frozen=True)
class CodebookQuestions(Task["CodebookWorkspace"]):
    """Questions about images, and a vision-language model over a codebook.

    Attributes:
        model: name of the surrogate that the encoder is trained before.
        questions: JSON Lines, VQA-RAD, or class folders, which are asked as questions.
        language_models: further ones over the same codebook, which are scored with the encoder.
        general: images of no domain, for losses that hold against forgetting.
        device, precision: where and how it runs.
        skip_bad: leave samples of unreadable images out and say so.
        fsdp: spread the language models over the processes that train together.
    """

    kind: ClassVar[str] = "codebook"

    model: str
    questions: Path
    language_models: tuple[str, ...] = ()
    general: Path | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    skip_bad: bool = False
    fsdp: bool = False

    def open(self) -> CodebookWorkspace:
        names = (self.model, *self.language_models)
        model, *others = (self._loaded(name) for name in names)
        data = open_questions(self.questions, skip_bad=self.skip_bad, task=QUESTION)
        general = open_questions(self.general, task=QUESTION) if self.general else None
        return CodebookWorkspace(self, model, data, tuple(others), general)

    def _loaded(self, name: str) -> LVLM:
        if not self.fsdp:
            return load_lvlm(name, device=self.device)
        model = load_lvlm(name)  # whole only in the memory of the machine
        shard(model, self.device)
        return model

    def data_digest(self) -> str:
        return open_questions(self.questions, skip_bad=self.skip_bad, task=QUESTION).digest()


@dataclass(frozen=True)
class CodebookWorkspace(Workspace):
    """Models and questions.

    Attributes:
        task: what was opened.
        model: the surrogate; frozen.
        data: train, and the part that is scored.
        others: language models that the encoder is scored with beside the surrogate.
        general: images of no domain.
    """

    task: CodebookQuestions
    model: LVLM
    data: TextDataset
    others: tuple[LVLM, ...] = ()
    general: TextDataset | None = None

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What was decided while reading, and which answers the language models cannot say."""
        return (*self.data.notes, *word_notes(self.data, (self.model, *self.others)))

    def describe(self, specs: Sequence[RunSpec]) -> list[str]:
        from petiole.tasks.codebook.adapter import method_of

        recipe = method_of(specs[0].method, specs[0].settings).recipe
        length = f"{recipe.epochs:g} passes" if recipe.epochs else f"{recipe.steps} steps"
        scored = ", ".join(model.name for model in (self.model, *self.others))
        return [
            f"data     {self.data.root}: {counts(self.data.parts)}",
            *(f"note     {note}" for note in self.notes),
            f"training {specs[0].method} before {self.model.name}, {length} of {recipe.batch_size or BATCH} questions",
            f"scoring  {scored}",
            *(f"sharding {line}" for line in map(held, (self.model, *self.others)) if line),
            *self._time(specs),
        ]

    def _time(self, specs: Sequence[RunSpec]) -> list[str]:
        """A line on how long training takes here, from three steps of the first run's method."""
        from petiole.engine.timing import in_words, step_seconds
        from petiole.engine.trainer import Callbacks
        from petiole.tasks.codebook import training
        from petiole.tasks.codebook.task import CodebookRun

        spec, samples = specs[0], self.data.parts["train"]

        def train(steps: int) -> float:
            run = CodebookRun(self, replace(spec, settings={**spec.settings, "steps": steps}))
            return training.train(
                run.build(),
                run.method,
                run.image_folder,
                samples,
                seed=spec.seed,
                general=self.general,
                precision=self.task.precision,
                callbacks=Callbacks(quiet=True),
            )

        recipe = CodebookRun(self, spec).method.recipe
        steps = recipe.length(len(samples) / (recipe.batch_size or BATCH))
        total = len(specs) * steps * step_seconds(train)
        words = f"time     {in_words(total)} of training, by three steps timed here; scoring not counted"
        return [words] if total else []

    def prepare(self, spec: RunSpec) -> TaskRun:
        from petiole.tasks.codebook.task import CodebookRun

        return CodebookRun(self, spec)

"""One training of a language model on one or more tasks, from request to record.

request.json               everything that decides the result, and its digest
metrics.jsonl              step, loss, learning rate
predictions/<task>.jsonl   key, text, prediction, references and score of every scored sample
adapter/                   the adapter file
record.json                scores by task, costs, environment, checksums: written last
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.data.task_batches import Mode, TaskBatches
from petiole.data.text_sample import TextSample
from petiole.engine.adapter import MANIFEST, TENSORS
from petiole.engine.feature_extractor import Precision
from petiole.engine.memory import peak_memory
from petiole.engine.optimizer import make_optimizer
from petiole.engine.progress import progress
from petiole.engine.record import (
    LOG,
    RECORD,
    REQUEST,
    TEST_EVALUATIONS,
    Costs,
    FrozenModel,
    environment,
    now,
    read_complete,
)
from petiole.engine.run_lock import appender, claim_folder, locked
from petiole.engine.trainer import Callbacks, Trainer, accelerate
from petiole.errors import RunError
from petiole.files import sha256, write_json, write_text
from petiole.methods.recipe import Recipe
from petiole.methods.registry import settings_of
from petiole.methods.text import TextMethod
from petiole.tasks.codebook.answers import prediction_lines
from petiole.tasks.text.adapter import (
    LanguageModelCard,
    TaskName,
    TextAdapter,
    describe,
    method_of,
)
from petiole.tasks.text.answer_loss import AnswerBatch, AnswerLoss, answer_batch, answer_head
from petiole.tasks.text.collator import Collator, TaskData
from petiole.tasks.text.model import AdaptedTextModel, GenerationBatch, GenerationLoss, VisionTower

PREDICTIONS = "predictions"
ROWS = 64
"""Samples that are answered at a time."""


class TaskCard(FrozenModel):
    """One task's part in a run.

    Attributes:
        name: of the task.
        digest: of its samples and of what is seen of its images.
        samples: by part.
        fraction: share of the training samples that is used.
    """

    name: str
    digest: str
    samples: dict[str, int]
    fraction: float = 1.0


class TextRequest(FrozenModel):
    """Everything that decides a result on one machine.

    Attributes:
        scored: ``test`` or ``val``.
        mode: how batches of tasks follow each other.
    """

    method: str
    settings: dict[str, Any]
    model: LanguageModelCard
    tasks: list[TaskCard]
    scored: str
    mode: str
    seed: int
    precision: str

    @property
    def digest(self) -> str:
        """SHA-256 of all of it but the model's name, for which its fingerprint stands."""
        value = self.model_dump(mode="json")
        value["model"].pop("name")
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class TextRecord(FrozenModel):
    """What a run was and gave.

    Attributes:
        scores: task -> metric -> per cent, the headline first.
        trainable, total: parameters trained, and of the model with them.
        costs: seconds, memory, bytes.
    """

    format: int = 1
    id: str
    created: str
    request: TextRequest
    scores: dict[str, dict[str, float]]
    trainable: int
    total: int
    costs: Costs
    environment: dict[str, str]
    files: dict[str, str]


@dataclass(frozen=True)
class TextRun:
    """A model with its tasks opened, and how it is trained on them.

    Attributes:
        model: frozen.
        tasks: in the order of their numbers.
        method: registered name.
        settings: what differs from its defaults.
        folder: where the record goes.
        seed: of start, batches, drawn targets and dropout.
        mode: ``proportional`` or ``balanced``, one task a batch, or ``mixed``.
        prefixes: hard prompts before texts, for every method alike.
        fraction: share of every task's training samples, the same for all methods.
        scored: the part that is scored, once, at the end.
        facts: further fields of ``LanguageModelCard``.
        eyes: trained with the model, where the method says so; the tasks' sights then give pictures.
        resume: go on where an interrupted run stopped; a finished one is returned as it is.
    """

    model: Seq2Seq
    tasks: Sequence[TaskData]
    method: str
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    mode: Mode = "proportional"
    prefixes: bool = True
    fraction: float = 1.0
    scored: str = "test"
    precision: Precision = "fp32"
    facts: Mapping[str, Any] = field(default_factory=dict)
    eyes: VisionTower | None = None
    resume: bool = False
    quiet: bool = False
    checkpoint_seconds: float = 20.0


def run(course: TextRun) -> TextRecord:
    """Train, score once, write record and adapter.

    Raises:
        RunError: the folder is in use, complete, or holds a run with another request.
        DataError: nothing to learn, or to score.
    """
    for data in course.tasks:
        for part in ("train", course.scored):
            data.part(part)
    with locked(course.folder):
        method = method_of(course.method, {**course.settings, "tasks": len(course.tasks)})
        request = _request(course, method)
        if claim_folder(course.folder, request, resume=course.resume):
            return read_record(course.folder)
        return _work(course, method, request)


def _work(course: TextRun, method: TextMethod, request: TextRequest) -> TextRecord:
    model, folder = course.model, course.folder
    with peak_memory(model.device) as peak, torch.random.fork_rng():
        torch.manual_seed(course.seed)
        adapted = AdaptedTextModel(
            model,
            method.plan(model),
            dropout=method.dropout,
            eyes=course.eyes,
            head=answer_head(method, model, course.tasks, course.fraction),
        )
        adapted.to(model.device)
        checkpoint = folder / "checkpoint.safetensors"
        log = appender(folder / LOG, fresh=not checkpoint.exists())
        callbacks = Callbacks(
            checkpoint=checkpoint,
            request=request.digest,
            every=course.checkpoint_seconds,
            log=lambda step, loss, lr: log(step, {"loss": loss, "lr": lr}),
            quiet=course.quiet,
        )
        collator = Collator(model, course.tasks, prefixes=course.prefixes)
        seconds = train(course, adapted, collator, method.recipe, callbacks)
    start = time.perf_counter()
    scores = {
        data.name: _score(course, adapted, collator, number)
        for number, data in enumerate(course.tasks)
    }
    test_seconds = time.perf_counter() - start
    adapter = _save(course, method, adapted)
    names = [REQUEST, LOG, *(f"{PREDICTIONS}/{name}.jsonl" for name in scores)]
    names += [f"adapter/{MANIFEST}", f"adapter/{TENSORS}"]
    record = TextRecord(
        id=request.digest[:16],
        created=now(),
        request=request,
        scores=scores,
        trainable=adapter.manifest.trainable,
        total=_total(adapted),
        costs=Costs(
            feature_seconds=0.0,
            train_seconds=seconds,
            test_seconds=test_seconds,
            peak_memory_mb=peak(),
            adapter_bytes=(folder / "adapter" / TENSORS).stat().st_size,
        ),
        environment=environment(),
        files={name: sha256(folder / name) for name in names if (folder / name).is_file()},
    )
    write_json(folder / RECORD, record.model_dump(mode="json"))
    checkpoint.unlink(missing_ok=True)
    return record


def train(
    course: TextRun,
    adapted: AdaptedTextModel,
    collator: Collator,
    recipe: Recipe,
    callbacks: Callbacks,
) -> float:
    """Train a speaker in place; returns the seconds that it took.

    Under several processes each takes a run of every batch's rows, and the step is that of one process.

    Raises:
        RunError: the loss became NaN or infinite, or the checkpoint cannot be used.
    """
    start = time.perf_counter()
    parts = [data.training(course.fraction) for data in course.tasks]
    names = [data.name for data in course.tasks]
    base = recipe.batch_size or 32
    batches = TaskBatches(
        {name: len(part) for name, part in zip(names, parts, strict=True)},
        {data.name: data.task.batch_size(base) for data in course.tasks},
        course.seed,
        course.mode,
    )
    steps = max(1, ceil(recipe.epochs * len(batches))) if recipe.epochs else recipe.steps
    recipe = replace(recipe, steps=steps)
    accelerator, head = accelerate(course.model.module, course.precision), adapted.head

    def feed(step: int) -> tuple[GenerationBatch | AnswerBatch]:
        rows = [
            (names.index(name), parts[names.index(name)][i])
            for name, chosen in batches(step)
            for i in chosen
        ]
        mine = (accelerator.process_index, accelerator.num_processes)
        if head:
            return (answer_batch(collator, rows, head.answers, *mine),)
        return (collator.lesson(rows, np.random.default_rng([course.seed, step]), *mine),)

    loss_module = AnswerLoss(adapted) if head else GenerationLoss(adapted, recipe.label_smoothing)
    if recipe.steps and any(p.requires_grad for p in loss_module.parameters()):
        Trainer(
            accelerator,
            loss_module,
            adapted,
            feed,
            make_optimizer(loss_module, recipe),
            recipe,
            float(len(batches)),
            course.seed,
        ).run(callbacks)
    adapted.eval()
    return time.perf_counter() - start


def answers(
    adapted: AdaptedTextModel,
    collator: Collator,
    number: int,
    samples: Sequence[TextSample],
    *,
    quiet: bool = True,
) -> list[str]:
    """What a speaker says to samples of one task."""
    data = collator.tasks[number]
    said: list[str] = []
    with progress(f"answers {data.name}", len(samples), quiet=quiet) as advance:
        for start in range(0, len(samples), ROWS):
            rows = samples[start : start + ROWS]
            said += adapted.answer(collator.inputs([data] * len(rows), rows), data.task, number)
            advance(len(rows))
    return said


def _score(
    course: TextRun, adapted: AdaptedTextModel, collator: Collator, number: int
) -> dict[str, float]:
    data = course.tasks[number]
    samples = data.part(course.scored)
    if course.scored == "test":
        line = {"when": now(), "task": data.name, "samples": len(samples)}
        with open(course.folder / TEST_EVALUATIONS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
    said = answers(adapted, collator, number, samples, quiet=course.quiet)
    lines = prediction_lines(data.task, samples, said)
    write_text(course.folder / PREDICTIONS / f"{data.name}.jsonl", lines)
    return data.task.score(samples, said)


def _save(course: TextRun, method: TextMethod, adapted: AdaptedTextModel) -> TextAdapter:
    """Write the adapter file, open it again and compare, before anything is called done."""
    names = [TaskName(name=data.name, kind=data.task.name) for data in course.tasks]
    facts = {"prefixes": course.prefixes, "options": {}, **course.facts}
    adapter = describe(adapted, course.method, settings_of(method), names, **facts)
    folder = course.folder / "adapter"
    adapter.save(folder)
    eyes = course.eyes.backbone if course.eyes else None
    again = TextAdapter.load(folder, model=course.model, eyes=eyes).adapted.state_dict()
    for name, tensor in adapted.state_dict().items():
        if not torch.equal(tensor, again[name]):
            raise RunError(f"{folder}: {name} did not survive saving. Please report this as a bug.")
    return adapter


def _total(adapted: AdaptedTextModel) -> int:
    """Parameters of the model with everything added; copies stand for their originals."""
    copies = sum(copy.numel() for copy in adapted.copies.values())
    own = sum(p.numel() for p in adapted.parameters()) - copies
    return adapted.model.parameter_count + own


def _request(course: TextRun, method: TextMethod) -> TextRequest:
    model = course.model
    return TextRequest(
        method=course.method,
        settings=settings_of(method),
        model=LanguageModelCard(
            name=model.name,
            fingerprint=model.fingerprint,
            vision_width=model.vision_width,
            **{"prefixes": course.prefixes, "options": {}, **course.facts},
        ),
        tasks=[
            TaskCard(
                name=data.name,
                digest=data.digest,
                samples={part: len(samples) for part, samples in data.parts.items()},
                fraction=course.fraction,
            )
            for data in course.tasks
        ],
        scored=course.scored,
        mode=course.mode,
        seed=course.seed,
        precision=course.precision,
    )


def read_record(folder: Path) -> TextRecord:
    """Read a run's record; see ``read_complete``."""
    return read_complete(folder, TextRecord)

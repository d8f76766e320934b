"""Training of an encoder-decoder on one or more tasks, and what it answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from petiole.data.task_batches import Mode, TaskBatches
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.device import Precision
from petiole.engine.optimizer import make_optimizer
from petiole.engine.progress import progress
from petiole.engine.trainer import Callbacks, Trainer, accelerate
from petiole.errors import unknown
from petiole.methods.recipe import Recipe
from petiole.tasks.text.adapter import TextAdapter
from petiole.tasks.text.answer_loss import AnswerBatch, AnswerLoss, answer_batch
from petiole.tasks.text.collator import BATCH, Collator, TaskData
from petiole.tasks.text.model import AdaptedTextModel, GenerationBatch, GenerationLoss
from petiole.tasks.text.registry import find

ROWS = 64
"""Samples that are answered at a time."""


@dataclass(frozen=True)
class TextOptions:
    """How a model is trained on its tasks, and scored.

    Attributes:
        mode: ``proportional`` or ``balanced``, one task a batch, or ``mixed``.
        prefixes: hard prompts before texts, for every method alike.
        fraction: share of every task's training samples, the same for all methods.
        scored: the part that is scored, once, at the end: ``test`` or ``val``.
    """

    mode: Mode = "proportional"
    prefixes: bool = True
    fraction: float = 1.0
    scored: str = "test"


def train(
    adapted: AdaptedTextModel,
    collator: Collator,
    recipe: Recipe,
    options: TextOptions,
    *,
    seed: int,
    precision: Precision = "fp32",
    callbacks: Callbacks | None = None,
) -> float:
    """Train a model in place; returns the seconds that it took.

    Under several processes each takes a run of every batch's rows, and the step is that of one process.

    Raises:
        RunError: the loss became NaN or infinite, or the checkpoint cannot be used.
    """
    start = time.perf_counter()
    parts = [data.training(options.fraction) for data in collator.tasks]
    names = [data.name for data in collator.tasks]
    base = recipe.batch_size or BATCH
    batches = TaskBatches(
        {name: len(part) for name, part in zip(names, parts, strict=True)},
        {data.name: data.task.batch_size(base) for data in collator.tasks},
        seed,
        options.mode,
    )
    recipe = replace(recipe, steps=recipe.length(len(batches)))
    accelerator, head = accelerate(adapted.model.module), adapted.head
    callbacks = callbacks or Callbacks()

    def batch(step: int) -> tuple[GenerationBatch | AnswerBatch]:
        rows = [
            (names.index(name), parts[names.index(name)][i])
            for name, chosen in batches(step)
            for i in chosen
        ]
        mine = (accelerator.process_index, accelerator.num_processes)
        if head:
            return (answer_batch(collator, rows, head.answers, *mine),)
        made = collator.batch(rows, np.random.default_rng([seed, step]), *mine)
        callbacks.samples += len(made.labels)
        callbacks.tokens.update(made.token_counts)
        return (made,)

    loss_module = AnswerLoss(adapted) if head else GenerationLoss(adapted, recipe.label_smoothing)
    if recipe.steps and any(p.requires_grad for p in loss_module.parameters()):
        Trainer(
            accelerator,
            loss_module,
            adapted,
            batch,
            make_optimizer(loss_module, recipe),
            recipe,
            float(len(batches)),
            seed,
            precision=precision,
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
    """What a model says to samples of one task."""
    data = collator.tasks[number]
    texts: list[str] = []
    with progress(f"answers {data.name}", len(samples), quiet=quiet) as advance:
        for start in range(0, len(samples), ROWS):
            rows = samples[start : start + ROWS]
            texts += adapted.answer(collator.inputs([data] * len(rows), rows), data.task, number)
            advance(len(rows))
    return texts


def ask(adapter: TextAdapter, question: str, images: Sequence[Path] = (), task: str = "") -> str:
    """What a trained model says to one question about pictures.

    Args:
        adapter: opened.
        question: a question, a sentence to judge, or "" for a caption.
        images: pictures.
        task: one of the adapter's; by default its first.

    Raises:
        ConfigError: no such task.
        AdapterError, DataError: it sees no pictures, or one cannot be read.
    """
    kinds = {one.name: one.kind for one in adapter.manifest.tasks}
    chosen = task or next(iter(kinds))
    if chosen not in kinds:
        raise unknown("task of this adapter", chosen, kinds)
    visuals = adapter.visuals(Path("/")) if images else None
    tasks = [TaskData(find(kind), {}, visuals, called=name) for name, kind in kinds.items()]
    collator = Collator(adapter.adapted.model, tasks, prefixes=adapter.details.prefixes)
    sample = TextSample("asked", question, tuple(str(Path(p).resolve()) for p in images))
    return answers(adapter.adapted, collator, list(kinds).index(chosen), [sample])[0]


def evaluate(adapter: TextAdapter, data: TextDataset, name: str) -> dict[str, float]:
    """Metrics in per cent of a trained model on the part ``test`` of one of its tasks.

    Args:
        adapter: opened.
        data: of the task.
        name: of the task in the adapter.

    Raises:
        DataError: there is no such part, or an image cannot be read.
    """
    visuals = adapter.visuals(data.root) if data.images else None
    tasks = [
        TaskData(find(one.kind), data.parts, visuals, called=one.name)
        for one in adapter.manifest.tasks
    ]
    number = [task.name for task in tasks].index(name)
    collator = Collator(adapter.adapted.model, tasks, prefixes=adapter.details.prefixes)
    samples = data["test"]
    texts = answers(adapter.adapted, collator, number, samples)
    return tasks[number].task.score(samples, texts)

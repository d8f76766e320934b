"""Training of an encoder before a frozen language model, and what the model then answers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from petiole.data.task_batches import TaskBatches
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.device import Precision
from petiole.engine.optimizer import make_optimizer
from petiole.engine.progress import progress
from petiole.engine.trainer import Callbacks, Trainer, accelerate
from petiole.layers.token_pruning import Pruning
from petiole.ledger.counting import flop_counter, own_gradients, own_randomness
from petiole.ledger.ledger import gradient_evaluations
from petiole.methods.codebook.base import CodebookMethod
from petiole.tasks.codebook.adapter import CodebookAdapter
from petiole.tasks.codebook.batches import BATCH, BatchLoader
from petiole.tasks.codebook.images import ImageFolder, VisionOutputs
from petiole.tasks.codebook.model import AdaptedCodebookModel, CodebookBatch, CodebookLoss
from petiole.tasks.text.registry import find

ROWS = 100
"""Samples that are answered at a time."""
COUNTED = 8
"""Samples whose FLOPs are counted for a training's utilisation."""


@dataclass(frozen=True)
class CodebookOptions:
    """How an adapted model is scored.

    Attributes:
        pruning: of image tokens; ``None`` for none.
        scored: the part that is scored, once, at the end.
    """

    pruning: Pruning | None = None
    scored: str = "test"


def train(
    adapted: AdaptedCodebookModel,
    method: CodebookMethod,
    image_folder: ImageFolder,
    samples: Sequence[TextSample],
    *,
    seed: int,
    general: TextDataset | None = None,
    precision: Precision = "fp32",
    callbacks: Callbacks | None = None,
    measure: Callable[[int], None] = lambda _: None,
) -> float:
    """Train a model in place; returns the seconds that it took.

    Under several processes each takes a run of every batch's rows; means are over the answers of all of them, and contrasts compare
    all of them. Only the mean of L_commit is each process's own, which is the same where all have equally many rows.

    Raises:
        RunError: the loss became NaN or infinite, or the checkpoint cannot be used.
    """
    start = time.perf_counter()
    recipe = method.recipe
    batches = TaskBatches({"all": len(samples)}, {"all": recipe.batch_size or BATCH}, seed)
    recipe = replace(recipe, steps=recipe.length(len(batches)))
    accelerator = accelerate(adapted.model.module)
    loader = BatchLoader(adapted, method, image_folder, samples, seed, general)
    mine = (accelerator.process_index, accelerator.num_processes)
    callbacks = callbacks or Callbacks()

    def batch(step: int) -> tuple[CodebookBatch]:
        made = loader(step, [int(i) for i in batches(step)[0][1]], *mine)
        callbacks.samples += len(made.answers)
        return (made,)

    loss_module = CodebookLoss(adapted, method.losses(adapted.model))
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
        ).run(callbacks, measure=measure)
    adapted.eval()
    return time.perf_counter() - start


def sample_flops(
    adapted: AdaptedCodebookModel,
    method: CodebookMethod,
    image_folder: ImageFolder,
    samples: Sequence[TextSample],
    *,
    general: TextDataset | None = None,
) -> float:
    """FLOPs of a training step a sample, forward and backward; 0 where nothing is trained.

    Counted by torch, in a batch of a few samples, with all terms of the loss.
    """
    few = samples[:: max(1, len(samples) // COUNTED)][:COUNTED]
    loss_module = CodebookLoss(adapted, method.losses(adapted.model))
    trained = [p for p in loss_module.parameters() if p.requires_grad]
    if not trained:
        return 0.0
    batch = BatchLoader(adapted, method, image_folder, few, 0, general)(0, range(len(few)), 0, 1)
    with (
        sdpa_kernel(SDPBackend.MATH),  # fused attention is not counted on every device
        own_randomness(adapted.model.device),
        own_gradients(trained),
        adapted.attached(),
        flop_counter() as counter,
    ):
        torch.autograd.backward(loss_module(batch))
    counted: int = counter.get_total_flops()
    return gradient_evaluations(method) * counted / len(few)


def answers(
    adapted: AdaptedCodebookModel,
    vision_outputs: VisionOutputs,
    samples: Sequence[TextSample],
    pruning: Pruning | None = None,
    frequencies: Tensor | None = None,
    *,
    longest: int = 40,
    quiet: bool = True,
) -> list[str]:
    """What a model says to each sample, in order.

    Args:
        adapted: with its language model.
        vision_outputs: of the samples' images.
        samples: with one image each.
        pruning, frequencies, longest: see ``AdaptedCodebookModel.answer``.
    """
    texts: list[str] = []
    with progress(f"answers {adapted.model.name}", len(samples), quiet=quiet) as advance:
        for start in range(0, len(samples), ROWS):
            rows = samples[start : start + ROWS]
            texts += adapted.answer(
                vision_outputs([sample.images[0] for sample in rows]),
                [sample.text for sample in rows],
                pruning=pruning,
                frequencies=frequencies,
                longest=longest,
            )
            advance(len(rows))
    return texts


def see(
    adapter: CodebookAdapter, image_folder: ImageFolder, names: Sequence[str], *, route: bool
) -> tuple[VisionOutputs, float]:
    """What the tuned encoder sees in images, and the share that it has seen.

    Args:
        route: images that do not look like the domain go through the original encoder.
    """
    seen = image_folder.vision_outputs(adapter.adapted, names)
    if not route:
        return seen, 1.0
    return image_folder.routed(seen, adapter.adapted, adapter.frequencies, names)


def ask(
    adapter: CodebookAdapter,
    image: Path,
    question: str,
    pruning: Pruning | None = None,
    *,
    route: bool = False,
) -> str:
    """What a tuned encoder's language model says to one question.

    Raises:
        DataError: the image cannot be read.
    """
    names = [str(image)]
    folder = ImageFolder(Path(), adapter.adapted.model.tower)
    seen, _ = see(adapter, folder, names, route=route)
    return adapter.adapted.answer(
        seen(names), [question], pruning=pruning, frequencies=adapter.frequencies.tuned
    )[0]


def evaluate(
    adapter: CodebookAdapter,
    data: TextDataset,
    pruning: Pruning | None = None,
    *,
    route: bool = False,
) -> tuple[dict[str, float], float]:
    """Metrics in per cent on the part ``test``, and the share of images that the tuned encoder has seen.

    Raises:
        DataError: there is no such part, or an image cannot be read.
    """
    samples = data["test"]
    names = [sample.images[0] for sample in samples]
    folder = ImageFolder(data.root, adapter.adapted.model.tower)
    seen, tuned = see(adapter, folder, names, route=route)
    texts = answers(adapter.adapted, seen, samples, pruning, adapter.frequencies.tuned)
    return find(data.task).score(samples, texts), tuned

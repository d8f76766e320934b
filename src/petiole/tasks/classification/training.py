"""The fit loop. It knows no method by name: it trains whatever a plan declares.

Under ``torchrun`` (or accelerate launch) every process takes a share of the same batch, and gradients are averaged. The
step equals the single-process one up to rounding: means are over the whole batch, and contrastive terms compare all of it. It
does not with dropout, whose masks differ between processes, nor where a loss draws at random.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.device import Precision
from petiole.engine.feature_table import Table
from petiole.engine.optimizer import make_optimizer
from petiole.engine.trainer import Callbacks, Trainer, accelerate, seed_device
from petiole.errors import ConfigError, first_line
from petiole.layers.solved import SolvedHead, balanced
from petiole.methods.recipe import Recipe
from petiole.tasks.classification.aligned import AlignedTable
from petiole.tasks.classification.drift import IMAGES as PROBED
from petiole.tasks.classification.drift import Drift, moves_tokens
from petiole.tasks.classification.held_back import HeldBack
from petiole.tasks.classification.learning_rates import factors
from petiole.tasks.classification.mixing import mixing
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.tasks.classification.path_search import search_paths
from petiole.tasks.classification.sampler import DOMAINS, Sampler, trained_on, without

if TYPE_CHECKING:
    from accelerate import Accelerator

PROBES, APART = 10, 10
"""Times that drift is measured in a run: so often, or once an epoch if that is what the run counts in; but at most every ten
steps, since a measurement costs half a step."""


def train(
    adapted: AdaptedClassifier,
    data: Dataset,
    table: Table,
    recipe: Recipe,
    *,
    seed: int,
    precision: Precision = "fp32",
    callbacks: Callbacks | None = None,
) -> float:
    """Train or solve the adapter in place; returns the seconds that it took.

    On one device the result is a pure function of weights, data, recipe and seed: batches and
    dropout depend on (seed, step) alone, so an interrupted run resumes to the same bits.

    Raises:
        RunError: the loss became NaN or infinite, or the checkpoint cannot be used.
        DataError: the recipe asks for a domain that has no images.
    """
    start = time.perf_counter()
    probes = max(PROBES, math.ceil(recipe.epochs))
    held: HeldBack | None = None
    if recipe.select == "best" or (adapted.plan.search and recipe.steps):
        held = HeldBack(adapted, data, table, recipe)
        data, table = held.kept, held.kept_table
    recipe = recipe.resolved(trained_on(data, recipe), len(data.classes))
    callbacks = callbacks or Callbacks()
    if isinstance(adapted.head, SolvedHead):
        seed_device(next(adapted.backbone.module.parameters()).device, seed)
        _solve(adapted, adapted.head, data, table, recipe)
    elif not recipe.steps:
        _start(adapted, data, table, recipe)
    elif any(p.requires_grad for p in adapted.parameters()):
        _descend(adapted, data, table, recipe, seed, precision, callbacks, probes, held)
        if held and adapted.plan.search:
            search_paths(adapted, held, callbacks)
    adapted.eval()
    return time.perf_counter() - start


def timed(work: Callable[[], object]) -> float:
    """Do it; returns the seconds that it took."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def _vectors(
    adapted: AdaptedClassifier, data: Dataset, table: Table, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled vectors (n, d), labels (n,) and domains (n,) of the images trained on, in the evaluation view."""
    wanted = DOMAINS.get(recipe.train_on, ("source", "target"))
    mask = torch.tensor([domain in wanted for domain in data.domains])
    if not mask.any():
        raise without(wanted[0], recipe, data)
    adapted.eval()
    vectors = torch.cat([adapted.pooled(state) for state in table.batches(len(data))]).float()
    keep = mask.to(vectors.device)
    labels, is_target = (t.to(keep.device)[keep] for t in labels_of(data))
    return vectors[keep], labels, is_target


@torch.no_grad()
def _solve(
    adapted: AdaptedClassifier, head: SolvedHead, data: Dataset, table: Table, recipe: Recipe
) -> None:
    head.weigh(recipe.class_weight)
    head.to(adapted.backbone.device).solve(*solved_from(adapted, data, table, recipe))


@torch.no_grad()
def solved_from(
    adapted: AdaptedClassifier, data: Dataset, table: Table, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """What a solved head learns from: refined vectors (n, d), labels (n,) and domains (n,) of the recipe's images."""
    vectors, labels, is_target = _vectors(adapted, data, table, recipe)
    return adapted.refine(vectors).float(), labels, is_target


@torch.no_grad()
def _start(adapted: AdaptedClassifier, data: Dataset, table: Table, recipe: Recipe) -> None:
    """Let the plan set head and refinement from the images that will be trained on."""
    if adapted.plan.start:
        adapted.plan.start(*_vectors(adapted, data, table, recipe))


def _descend(
    adapted: AdaptedClassifier,
    data: Dataset,
    table: Table,
    recipe: Recipe,
    seed: int,
    precision: Precision,
    callbacks: Callbacks,
    probes: int,
    held: HeldBack | None,
) -> None:
    if recipe.align_source:
        table = AlignedTable(table, data)
    partly = adapted.plan.search is not None
    accelerator = accelerate(adapted.backbone.module, partly=partly)
    loss_module = ClassificationLoss(
        adapted, recipe.target_weight, recipe.label_smoothing, _class_weights(data, recipe)
    )
    loss_module.to(accelerator.device)
    sampler = Sampler(data, recipe, seed)
    labels, is_target = (t.to(accelerator.device) for t in labels_of(data))

    mix = mixing(adapted, recipe, seed)

    def drawn(step: int) -> tuple[Tensor, Tensor]:
        rows, views = (_share(part, accelerator) for part in sampler(step))
        return rows, views

    def feed(step: int) -> tuple[Any, ...]:
        rows, views = drawn(step)
        callbacks.samples += len(rows)
        where = rows.to(labels.device, non_blocking=True)
        batch = table.fetch(rows, views), labels[where], is_target[where]
        if step + 1 < recipe.steps:
            table.expect(lambda: drawn(step + 1))
        return mix(step, *batch) if mix else batch

    if adapted.compiled:
        check_compiler()
    descent = Trainer(
        accelerator,
        loss_module,
        adapted,
        feed,
        make_optimizer(loss_module, recipe, factors(adapted, recipe)),
        recipe,
        recipe.a_pass(trained_on(data, recipe), len(data.classes)),
        seed,
        held.loss if held else None,
        precision,
    )
    main = accelerator.is_main_process
    with compiling() if adapted.compiled else nullcontext():
        descent.run(
            callbacks,
            fresh=lambda: _start(adapted, data, table, recipe),
            measure=_drift(
                adapted, data, table, callbacks if main else Callbacks(), recipe.steps, probes
            ),
        )
    if adapted.compiled:
        torch.compiler.reset()  # else code for every earlier run's adapters fills torch's cache


def _class_weights(data: Dataset, recipe: Recipe) -> Tensor | None:
    """Weights (K,) of the classes in the cross-entropy, where the recipe balances them."""
    if recipe.class_weight == "none":
        return None
    if not recipe.batch_size:
        raise ConfigError(
            "class_weight=balanced is for shuffled batches (batch_size), and batches without one draw all classes alike "
            "already. Leave it out."
        )
    return balanced(torch.tensor(data.labels.copy()), len(data.classes)).float()


def _share(rows: Tensor, accelerator: Accelerator) -> Tensor:
    """This process's part of a batch: whole runs of it, so that classes stay together."""
    world = accelerator.num_processes
    if len(rows) < world:
        raise ConfigError(
            f"A batch of {len(rows)} images cannot be shared by {world} processes. Start fewer, or raise classes_per_batch or "
            "batch_size."
        )
    mine: Tensor = rows.tensor_split(world)[accelerator.process_index]
    return mine


def _drift(
    adapted: AdaptedClassifier,
    data: Dataset,
    table: Table,
    callbacks: Callbacks,
    steps: int,
    probes: int,
) -> Callable[[int], None]:
    """Reports the drift before a step, if it is one of so many in a run, and at the end."""
    if callbacks.drift is None or not moves_tokens(adapted):
        return lambda _: None
    report, every = callbacks.drift, max(APART, steps // probes)
    rows = torch.linspace(0, len(data) - 1, min(PROBED, len(data))).round().long()
    probe = Drift(adapted, table.fetch(rows, torch.zeros_like(rows)))

    def measure(step: int) -> None:
        if step % every == 0 or step == steps:
            report(step, probe())

    return measure


@cache
def check_compiler() -> None:
    """Compile one addition.

    Raises:
        ConfigError: this machine cannot; the reason is given.
    """
    try:
        torch.compile(lambda x: x + 1)(torch.ones(2))
    except Exception as error:  # a missing C++ compiler, Python version or system: no common base
        raise ConfigError(
            f"torch.compile does not work on this machine ({first_line(error)}). Leave out --compile."
        ) from error


@contextmanager
def compiling() -> Iterator[None]:
    """Within it code is compiled, or taken from the compiler's cache.

    Raises:
        ConfigError: the compiler fails, or what its cache holds cannot be loaded.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    try:
        yield
    except (ImportError, TorchDynamoException) as error:
        raise ConfigError(
            f"torch.compile failed ({first_line(error, type(error).__name__)}). Its cache may be damaged: delete {cache_dir()}, or leave out --compile."
        ) from error


def labels_of(data: Dataset) -> tuple[Tensor, Tensor]:
    """Labels (n,) int64 and whether each image is of the target domain (n,) bool."""
    is_target = torch.tensor([domain == "target" for domain in data.domains], dtype=torch.bool)
    return torch.tensor(data.labels.copy()), is_target

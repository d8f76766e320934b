"""The fit loop. It knows no method by name: it trains whatever a plan declares.

Under ``accelerate launch`` (or torchrun) every process takes whole classes of the same batch, and
gradients are averaged. The step then equals the single-process one up to rounding where all
processes have equally many images of each domain (P divisible by the processes, no class without
one of the domains). It does not where a loss compares images with each other (contrastive terms see
the images of their own process only), nor with dropout (every process draws the same mask).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from torch import Tensor, nn

from petiole.backbones.base import State
from petiole.data.dataset import Dataset
from petiole.engine import checkpoint
from petiole.engine.adapted import Adapted, Trainee
from petiole.engine.drift import IMAGES as PROBED
from petiole.engine.drift import Drift, moves_tokens
from petiole.engine.features import Precision, Table
from petiole.engine.interrupt import stoppable
from petiole.engine.optimiser import GaussianAverage, learning_rate, optimiser
from petiole.engine.progress import progress
from petiole.engine.sampler import DOMAINS, Sampler, trained_on, without
from petiole.errors import ConfigError, RunError
from petiole.layers.solved import SolvedHead
from petiole.methods.recipe import Recipe

LOG_EVERY = 10
PROBES = 10
"""Times that drift is measured in a run: so often, or once an epoch if that is what the run counts in."""


def _silent(step: int, loss: float, lr: float) -> None: ...


@dataclass
class Watch:
    """What a run leaves while it trains.

    Attributes:
        checkpoint: file to resume from; ``None`` keeps none.
        request: digest of everything that decides the run.
        every: seconds between two checkpoints.
        log: called with step, loss and learning rate.
        drift: called with step and D_l by role, where tokens can move (see ``drift``).
        quiet: no progress bar.
    """

    checkpoint: Path | None = None
    request: str = ""
    every: float = 20.0
    log: Callable[[int, float, float], None] = _silent
    drift: Callable[[int, Mapping[str, float]], None] | None = None
    quiet: bool = False


def train(
    adapted: Adapted,
    data: Dataset,
    table: Table,
    recipe: Recipe,
    *,
    seed: int,
    precision: Precision = "fp32",
    watch: Watch | None = None,
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
    recipe = recipe.resolved(trained_on(data, recipe), len(data.classes))
    if isinstance(adapted.head, SolvedHead):
        seed_device(next(adapted.backbone.module.parameters()).device, seed)
        _solve(adapted, adapted.head, data, table, recipe)
    elif recipe.steps and any(p.requires_grad for p in adapted.parameters()):
        _descend(adapted, data, table, recipe, seed, precision, watch or Watch(), probes)
    adapted.eval()
    return time.perf_counter() - start


@torch.no_grad()
def _solve(adapted: Adapted, head: SolvedHead, data: Dataset, table: Table, recipe: Recipe) -> None:
    wanted = DOMAINS.get(recipe.train_on, ("source", "target"))
    mask = torch.tensor([domain in wanted for domain in data.domains])
    if not mask.any():
        raise without(wanted[0], recipe, data)
    adapted.eval()
    vectors = torch.cat([adapted.refine(adapted.pooled(s)) for s in table.batches(len(data))])
    labels, is_target = labels_of(data)
    keep = mask.to(vectors.device)
    head.to(vectors.device).solve(
        vectors[keep].float(), labels.to(keep.device)[keep], is_target.to(keep.device)[keep]
    )


def _descend(
    adapted: Adapted,
    data: Dataset,
    table: Table,
    recipe: Recipe,
    seed: int,
    precision: Precision,
    watch: Watch,
    probes: int,
) -> None:
    accelerator = accelerate(adapted.backbone.module, precision)
    trainee = Trainee(adapted, recipe.target_weight, recipe.label_smoothing)
    trainee.to(accelerator.device)
    a_pass = recipe.a_pass(trained_on(data, recipe), len(data.classes))
    optimizer = optimiser(trainee, recipe)
    average = GaussianAverage(trainee, recipe, int(a_pass)).to(accelerator.device)
    kept = nn.ModuleDict({"trainee": trainee, "average": average})
    done = 0
    if watch.checkpoint and watch.checkpoint.exists():
        done = checkpoint.load(watch.checkpoint, watch.request, kept, optimizer)
    elif recipe.imprint:
        _imprint(adapted, data, table)
    # The optimiser stays bare: accelerate's wrapper serves fp16 scaling, which is not used here.
    model = accelerator.prepare(trainee)
    sampler = Sampler(data, recipe, seed)
    run = _Run(accelerator, model, kept, optimizer, sampler, table, recipe, seed, a_pass)
    labels, is_target = (t.to(accelerator.device) for t in labels_of(data))
    if adapted.compiled:
        check_compiler()
    trainee.train()
    main = accelerator.is_main_process
    quiet = watch.quiet or not main
    measure = _drift(adapted, data, table, watch if main else Watch(), recipe.steps, probes)
    saved = time.perf_counter()
    with (
        adapted.attached(),
        progress("training", recipe.steps, quiet=quiet) as advance,
        stoppable() as stopped,
    ):
        advance(done)
        for step in range(done, recipe.steps):
            measure(step)
            loss, lr = run.step(step, labels, is_target)
            average.after(step)
            note = ""
            if step % LOG_EVERY == 0 or step == recipe.steps - 1:
                value = _finite(float(loss), step, recipe)
                if main:
                    watch.log(step, value, lr)
                note = f"loss {value:.3f}"
            advance(1, note)
            if time.perf_counter() - saved >= watch.every or stopped():
                run.save(watch, step + 1)
                saved = time.perf_counter()
            if stopped():
                raise KeyboardInterrupt
        average.finish()
        measure(recipe.steps)
    if adapted.compiled:
        torch.compiler.reset()  # else code for every earlier run's adapters fills torch's cache
    accelerator.wait_for_everyone()


def _drift(
    adapted: Adapted, data: Dataset, table: Table, watch: Watch, steps: int, probes: int
) -> Callable[[int], None]:
    """Reports the drift before a step, if it is one of so many in a run, and at the end."""
    if watch.drift is None or not moves_tokens(adapted):
        return lambda _: None
    report, every = watch.drift, max(1, steps // probes)
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
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"torch.compile does not work on this machine ({reason}). Leave out --compile."
        ) from error


def _finite(loss: float, step: int, recipe: Recipe) -> float:
    if not math.isfinite(loss):
        raise RunError(
            f"The loss is {loss} at step {step}: the run diverged. Lower lr (now {recipe.lr:g}), "
            "or set clip=1."
        )
    return loss


@dataclass
class _Run:
    accelerator: Accelerator
    model: nn.Module
    kept: nn.Module
    optimizer: torch.optim.Optimizer
    sampler: Sampler
    table: Table
    recipe: Recipe
    seed: int
    a_pass: float

    def step(self, step: int, labels: Tensor, is_target: Tensor) -> tuple[Tensor, float]:
        """One optimiser step; returns the loss, not yet read back, and the learning rate."""
        seed_device(self.accelerator.device, self.seed * 1_000_003 + step)
        rows, views = map(self._share, self.sampler(step))
        state: State = self.table.fetch(rows, views)
        where = rows.to(labels.device)
        lr = learning_rate(step, self.recipe, self.a_pass)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]
        loss: Tensor = self.model(state, labels[where], is_target[where])
        torch.autograd.backward(loss)
        if self.recipe.clip:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach(), lr

    def _share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch: whole runs of it, so that classes stay together."""
        world = self.accelerator.num_processes
        return rows.tensor_split(world)[self.accelerator.process_index] if world > 1 else rows

    def save(self, watch: Watch, step: int) -> None:
        if self.accelerator.is_main_process and watch.checkpoint:
            checkpoint.save(watch.checkpoint, step, watch.request, self.kept, self.optimizer)


def labels_of(data: Dataset) -> tuple[Tensor, Tensor]:
    """Labels (n,) int64 and whether each image is of the target domain (n,) bool."""
    is_target = torch.tensor([domain == "target" for domain in data.domains], dtype=torch.bool)
    return torch.tensor(data.labels.copy()), is_target


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the one generator that dropout uses; ``torch.manual_seed`` walks all back ends."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def accelerate(module: nn.Module, precision: Precision) -> Accelerator:
    """An accelerator for the device that the backbone lives on."""
    mixed = "bf16" if precision == "bf16" else "no"
    cpu = next(module.parameters()).device.type == "cpu"
    # Accelerate keeps one state a process; another device or precision needs a fresh one.
    moved = PartialState._shared_state.get("_cpu", cpu) != cpu
    if moved or AcceleratorState._shared_state.get("_mixed_precision", mixed) != mixed:
        AcceleratorState._reset_state(reset_partial_state=moved)
    return Accelerator(cpu=cpu, mixed_precision=mixed)


@torch.no_grad()
def _imprint(adapted: Adapted, data: Dataset, table: Table) -> None:
    if not hasattr(adapted.head, "imprint"):
        return
    adapted.eval()
    vectors = torch.cat([adapted(state).vector for state in table.batches(len(data))])
    labels, is_target = labels_of(data)
    chosen = is_target if bool(is_target.any()) else ~is_target
    adapted.head.imprint(vectors[chosen.to(vectors.device)], labels[chosen].to(vectors.device))  # type: ignore[operator]

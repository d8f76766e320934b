"""Gradient descent, whatever is trained: steps, rates, averaging, checkpoints, interruption, processes.

A loss module turns a batch into a loss; a feed gives the batch of a step as a pure function of (seed,
step), already this process's part of it. So a run that goes on after an interruption ends in the same bits on
one machine.
"""

from __future__ import annotations

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from petiole.allocator import release_memory
from petiole.collective import summed
from petiole.device import Precision
from petiole.engine import checkpoint
from petiole.engine.best_step import BestStep
from petiole.engine.interrupt import stoppable
from petiole.engine.optimizer import learning_rate
from petiole.engine.precision import LossScaler, autocast, check_precision
from petiole.engine.progress import progress
from petiole.engine.repeatable import Repeatable
from petiole.engine.use_check import UseCheck
from petiole.engine.weight_average import WeightAverage, make_average, teach
from petiole.errors import ConfigError, RunError
from petiole.layers.searchable import searchable_layers
from petiole.methods.base import Timed
from petiole.methods.recipe import Recipe
from petiole.methods.step_rules.base import StepContext, StepRule, make_step_rule
from petiole.processes import rank

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG_EVERY = 10


def _silent(step: int, loss: float, lr: float) -> None: ...


@dataclass
class Callbacks:
    """What a run leaves while it trains.

    Attributes:
        checkpoint: file to resume from; ``None`` keeps none.
        request: digest of everything that decides the run.
        every: seconds between two checkpoints.
        log: called with step, loss and learning rate.
        drift: called with step and D_l by role, where tokens can move (see ``drift``).
        quiet: no progress bar.
        selection: set by the training: which of the models that it passes through is kept.
        steps: counted by the training: optimizer steps since it began or went on.
        samples: counted by the task: what this process took of their batches.
        tokens: of these samples, padding included, by the names of ``Question``; where they are texts.
    """

    checkpoint: Path | None = None
    request: str = ""
    every: float = 20.0
    log: Callable[[int, float, float], None] = _silent
    drift: Callable[[int, Mapping[str, float]], None] | None = None
    quiet: bool = False
    selection: str = "last step"
    steps: int = 0
    samples: int = 0
    tokens: Counter[str] = field(default_factory=Counter)


class Attachable(Protocol):
    """What keeps its changes on a frozen network while it is trained."""

    def attached(self) -> AbstractContextManager[None]: ...


@dataclass
class Trainer:
    """One training.

    Attributes:
        accelerator: device and processes.
        loss_module: batch -> loss.
        model: whose changes are at work meanwhile.
        feed: step -> this process's part of the batch, on the device: the loss module's arguments.
        optimizer: over what is trained; fused.
        recipe: with its length in steps.
        a_pass: steps of an epoch.
        seed: of dropout.
        validate: mean loss on held-back samples, for ``select=best``.
        precision: of the forward pass; what is trained is fp32.
    """

    accelerator: Accelerator
    loss_module: nn.Module
    model: Attachable
    feed: Callable[[int], tuple[Any, ...]]
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    a_pass: float
    seed: int
    validate: Callable[[], float] | None = None
    precision: Precision = "fp32"

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.best: BestStep | None = None
        if recipe.select == "best":
            if self.validate is None:
                raise ConfigError(
                    "select=best is for methods on labelled images; this training holds nothing back. Set select=last."
                )
            self.best = BestStep(self.loss_module, recipe, self.validate)
        self.rule: StepRule = make_step_rule(recipe.step_rule, recipe.step_rule_settings)
        check_precision(recipe, self.precision)
        self.scaler = LossScaler(self.accelerator.device, enabled=self.precision == "fp16")
        self.scaler.prepare(self.optimizer)
        self.average: WeightAverage | None = None
        self.parameters = [p for p in self.loss_module.parameters() if p.requires_grad]
        # Dropout differs between processes; paths that are drawn must not.
        self._apart = 0 if searchable_layers(self.loss_module) else rank() * 2_000_000_011

    @property
    def gradient_evaluations(self) -> int:
        """Forward and backward passes of a step, by its rule."""
        return self.rule.gradient_evaluations

    def run(
        self,
        callbacks: Callbacks,
        *,
        fresh: Callable[[], None] = lambda: None,
        measure: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Train to the end, from the checkpoint if there is one.

        Args:
            callbacks: what is left on the way.
            fresh: called before the first step of all.
            measure: called before every step, and at the end.

        Raises:
            RunError: the loss became NaN or infinite, the checkpoint cannot be used, or something that the method
                declares took no part (see ``use_check``).
            ConfigError: a loss learns from an average that the recipe does not keep.
            KeyboardInterrupt: Ctrl-C; the step in hand is finished and stored.
        """
        kept = self._kept()
        done = self._begin(callbacks, kept, fresh)
        model = self.accelerator.prepare(self.loss_module)
        self.loss_module.train()
        quiet = callbacks.quiet or not self.accelerator.is_main_process
        saved = time.perf_counter()
        with (
            self.model.attached(),
            progress("training", self.recipe.steps, quiet=quiet) as advance,
            stoppable() as stopped,
            UseCheck(self.loss_module, math.ceil(self.a_pass)) as used,
        ):
            advance(done)
            for step in range(done, self.recipe.steps):
                if self.best and self.best.exhausted:
                    break
                measure(step)
                loss, lr = self._step(model, step, used)
                callbacks.steps += 1
                if self.average:
                    self.average.after(step)
                if self.best:
                    kept_average = self.average if self.average and self.average.replaces else None
                    self.best.after(step + 1, kept_average.weights if kept_average else nullcontext)
                advance(1, self._log(callbacks, step, loss, lr))
                stops = self._stops(step, stopped)
                if time.perf_counter() - saved >= callbacks.every or stops:
                    self._save(callbacks, step + 1, kept)
                    release_memory()  # a heap falls into pieces; seldom enough to cost nothing
                    saved = time.perf_counter()
                if stops:
                    raise KeyboardInterrupt
            if self.average:
                self.average.finish()
            if self.best:
                self.best.finish()
                callbacks.selection = self.best.words()
            measure(self.recipe.steps)
        release_memory()
        self.accelerator.wait_for_everyone()

    def _begin(self, callbacks: Callbacks, kept: nn.Module, fresh: Callable[[], None]) -> int:
        """Steps that a checkpoint has done already."""
        if callbacks.checkpoint and callbacks.checkpoint.exists():
            return checkpoint.load(callbacks.checkpoint, callbacks.request, kept, self.optimizer)
        fresh()
        if self.average:
            self.average.begin()
        return 0

    def _stops(self, step: int, stopped: Callable[[], bool]) -> bool:
        """Whether Ctrl-C was pressed; processes that train together ask each other at steps that are logged."""
        if self.accelerator.num_processes == 1:
            return stopped()
        pressed = torch.tensor(float(stopped()), device=self.accelerator.device)
        return self._is_logged(step) and bool(summed(pressed) > 0)

    def _is_logged(self, step: int) -> bool:
        return step % LOG_EVERY == 0 or step == self.recipe.steps - 1

    def _log(self, callbacks: Callbacks, step: int, loss: Tensor, lr: float) -> str:
        """What the progress bar says of a step; reading a loss back waits for the device, so few are read."""
        if not self._is_logged(step):
            return ""
        mean = summed(loss) / self.accelerator.num_processes  # so that one NaN ends all of them
        value = _finite(float(mean), step, self.recipe)
        if self.accelerator.is_main_process:
            callbacks.log(step, value, lr)
        return f"loss {value:.3f}"

    def _kept(self) -> nn.ModuleDict:
        """All that a checkpoint holds beside the optimiser's moments; losses that learn from the average are given it."""
        self.average = make_average(self.loss_module, self.recipe, int(self.a_pass))
        self.rule.prepare(self.loss_module)
        kept = nn.ModuleDict({"loss_module": self.loss_module, "step_rule": self.rule})
        if self.scaler.enabled:
            kept["scaler"] = self.scaler
        if self.best:
            kept["best"] = self.best
        if self.average:
            kept["average"] = self.average
            self.average.to(self.accelerator.device)
        for module in self.loss_module.modules():
            if isinstance(module, Timed):
                module.lasts(self.recipe.steps, max(1, int(self.a_pass)))
        teach(self.loss_module, self.average)
        return kept

    def _step(self, model: nn.Module, step: int, used: UseCheck) -> tuple[Tensor, float]:
        """One optimiser step; returns the loss, not yet read back, and the learning rate."""
        device = self.accelerator.device
        seed_device(device, self.seed * 1_000_003 + step + self._apart)
        batch = self.feed(step)
        lr = learning_rate(step, self.recipe, self.a_pass)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["factor"]

        def gradient() -> Tensor:
            with autocast(device, self.precision):
                loss: Tensor = model(*batch).float()
            self.scaler.backward(loss)
            return loss.detach()

        def update() -> None:
            used.after_backward()
            if self.recipe.clip:
                self.scaler.unscale(self.optimizer)
                self.accelerator.clip_grad_norm_(model.parameters(), self.recipe.clip)
            self.scaler.step(self.optimizer)
            self.optimizer.zero_grad()

        evaluate = gradient
        if self.rule.gradient_evaluations > 1:
            evaluate = Repeatable(gradient, self.loss_module, device)
        return self.rule.step(StepContext(self.parameters, evaluate, update)), lr

    def _save(self, callbacks: Callbacks, step: int, kept: nn.Module) -> None:
        if not (self.accelerator.is_main_process and callbacks.checkpoint):
            return
        try:
            checkpoint.save(callbacks.checkpoint, step, callbacks.request, kept, self.optimizer)
        except OSError as error:
            warnings.warn(
                f"No checkpoint after step {step}: {error}. The training goes on; if it is killed, it begins again at the "
                "last checkpoint.",
                stacklevel=2,
            )


def _finite(loss: float, step: int, recipe: Recipe) -> float:
    if not math.isfinite(loss):
        raise RunError(
            f"The loss is {loss} at step {step}: the run diverged. Lower lr (now {recipe.lr:g}), "
            "or set clip=1."
        )
    return loss


def seed_device(device: torch.device, seed: int) -> None:
    """Seed the one generator that dropout uses; ``torch.manual_seed`` walks all back ends."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)


def accelerate(module: nn.Module, *, partly: bool = False) -> Accelerator:
    """An accelerator for the device that the frozen network lives on; precision is the trainer's own.

    Args:
        module: the frozen network.
        partly: a step may leave parameters out, the same in every process (a supernet's paths).
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.state import AcceleratorState, PartialState

    cpu = next(module.parameters()).device.type == "cpu"
    # Accelerate keeps one state a process; another device, or another's precision, needs a fresh one.
    moved = PartialState._shared_state.get("_cpu", cpu) != cpu
    if moved or AcceleratorState._shared_state.get("_mixed_precision", "no") != "no":
        AcceleratorState._reset_state(reset_partial_state=moved)
    # Without it the average would wait for gradients that never come; those left out everywhere stay None, as in one process.
    averaging = [DistributedDataParallelKwargs(find_unused_parameters=True)] if partly else None
    return Accelerator(cpu=cpu, mixed_precision="no", kwargs_handlers=averaging)

"""Step rules: at which weights a gradient is taken, how often, and what the optimiser is given.

A rule receives a ``StepContext``. Every evaluation of one step sees the same batch, the same views and the same dropout.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.methods.settings import check_names
from petiole.registry import Registry


@dataclass(frozen=True)
class StepContext:
    """One optimiser step, as a rule sees it.

    Attributes:
        parameters: all that is trained.
        evaluate: sets every ``grad`` to the gradient of the batch's loss at the present weights, averaged over
            processes, and returns that loss, detached.
        update: clips and lets the optimiser move the weights by what ``grad`` holds, then clears it.
    """

    parameters: Sequence[nn.Parameter]
    evaluate: Callable[[], Tensor]
    update: Callable[[], None]


class StepRule(nn.Module, ABC):
    """Wraps one optimiser step. Its buffers are part of a checkpoint; it has no parameters.

    Attributes:
        gradient_evaluations: forward and backward passes that a step takes.
    """

    gradient_evaluations: ClassVar[int] = 1

    def prepare(self, loss_module: nn.Module) -> None:
        """Called once before training and before a checkpoint is read: register buffers here.

        Raises:
            ConfigError: the rule does not fit what is trained.
        """

    @abstractmethod
    def step(self, context: StepContext) -> Tensor:
        """Take one step; returns the loss to report."""


STEP_RULES = Registry[type[StepRule]](
    "step_rule",
    "petiole.methods.step_rules",
    "STEP_RULES.register",
    "petiole.step_rules",
    described=True,
)


def make_step_rule(name: str, settings: Mapping[str, Any] | None = None) -> StepRule:
    """Build a rule by name; ``settings`` are the arguments of its class.

    Raises:
        ConfigError: unknown name or setting, or a value out of range.
    """
    rule = STEP_RULES.find(name)
    check_names(settings or {}, rule, f"setting of step_rule={name}")
    return rule(**(settings or {}))


def within(rule: str, minimum: float, maximum: float = float("inf"), **values: float) -> None:
    """Refuse a setting outside its range.

    Raises:
        ConfigError: naming rule, setting, value and range.
    """
    for name, value in values.items():
        if not minimum <= value <= maximum:
            least = "not be negative" if minimum == 0 and maximum == float("inf") else ""
            wanted = least or f"lie in [{minimum:g}, {maximum:g}]"
            raise ConfigError(f"{name} of step_rule={rule} must {wanted}, but is {value}.")


@contextmanager
def moved(changes: Sequence[tuple[nn.Parameter, Tensor]]) -> Iterator[None]:
    """Add to weights within the context; afterwards they have their old bits again.

    They are copied back, because theta + eps - eps is not theta in floating point.
    """
    kept = [p.detach().clone() for p, _ in changes]
    with torch.no_grad():
        for p, change in changes:
            p.add_(change.to(p.dtype))
    try:
        yield
    finally:
        with torch.no_grad():
            for (p, _), value in zip(changes, kept, strict=True):
                p.copy_(value)


def norm(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of all of them together, in fp32 at least: squares of bf16 gradients lose too much."""
    parts = [
        torch.linalg.vector_norm(t, dtype=torch.promote_types(t.dtype, torch.float32))
        for t in tensors
    ]
    total: Tensor = torch.stack(parts).norm()
    return total


def gradients(parameters: Sequence[nn.Parameter]) -> list[tuple[nn.Parameter, Tensor]]:
    """What has a gradient, with it."""
    return [(p, p.grad) for p in parameters if p.grad is not None]

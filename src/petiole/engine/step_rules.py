"""What happens between the gradient and the optimiser: one file for every rule that needs the loss again.

A rule receives a ``StepContext`` and decides at which weights the gradient is taken and how often. Every evaluation of
one step sees the same batch, the same views and the same dropout.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError, unknown

R = TypeVar("R", bound="StepRule")


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

    def prepare(self, parameters: Sequence[nn.Parameter]) -> None:
        """Called once before training and before a checkpoint is read: register buffers here."""

    @abstractmethod
    def step(self, context: StepContext) -> Tensor:
        """Take one step; returns the loss to report."""


_RULES: dict[str, type[StepRule]] = {}


def register_step_rule(name: str) -> Callable[[type[R]], type[R]]:
    """Class decorator: make the rule available as ``step_rule=name``."""

    def add(cls: type[R]) -> type[R]:
        if name in _RULES:
            raise ConfigError(f"Two step rules are named {name!r}: {_RULES[name]} and {cls}.")
        _RULES[name] = cls
        return cls

    return add


def step_rules() -> Mapping[str, type[StepRule]]:
    """All rules, from this file and from the entry points ``petiole.step_rules``."""
    for point in entry_points(group="petiole.step_rules"):
        point.load()
    return dict(sorted(_RULES.items()))


def make_step_rule(name: str, settings: Mapping[str, Any] | None = None) -> StepRule:
    """Build a rule by name; ``settings`` are the arguments of its class.

    Raises:
        ConfigError: unknown name or setting, or a value out of range.
    """
    known = (
        _RULES if name in _RULES else step_rules()
    )  # plug-ins are looked up only if no built-in rule fits
    if name not in known:
        raise unknown("step_rule", name, known)
    accepted = inspect.signature(known[name]).parameters
    for key in settings or {}:
        if key not in accepted:
            raise unknown(f"setting of step_rule={name}", key, accepted)
    return known[name](**(settings or {}))


@register_step_rule("plain")
class Plain(StepRule):
    """theta <- optimiser(theta, grad L(theta))."""

    def __init__(self) -> None:
        super().__init__()

    def step(self, context: StepContext) -> Tensor:
        loss = context.evaluate()
        context.update()
        return loss


@register_step_rule("sam")
class SAM(StepRule):
    """Sharpness-aware minimisation (Foret et al., ICLR 2021, equations 2 and 3, p = 2).

        g = grad L(theta),   eps = rho g / (||g||_2 + 1e-12),   theta <- optimiser(theta, grad L(theta + eps))

    The norm is over all trained parameters together. Without momentum this is a gradient step on the first-order
    estimate of  max_{||e|| <= rho} L(theta + e).

    Args:
        rho: radius, not negative; 0 is the plain step at twice the price.
    """

    gradient_evaluations: ClassVar[int] = 2

    def __init__(self, rho: float = 0.05) -> None:
        super().__init__()
        if not rho >= 0:
            raise ConfigError(f"rho of step_rule=sam must not be negative, but is {rho}.")
        self.rho = rho

    def step(self, context: StepContext) -> Tensor:
        loss = context.evaluate()
        moved = [p for p in context.parameters if p.grad is not None]
        with torch.no_grad():
            norm = torch.stack([_norm(p.grad) for p in moved if p.grad is not None]).norm()
            kept = [p.detach().clone() for p in moved]
            for p in moved:
                assert p.grad is not None
                p.add_(p.grad * (self.rho / (norm + 1e-12)).to(p.dtype))
        context.evaluate()
        with (
            torch.no_grad()
        ):  # copied back, because theta + eps - eps is not theta in floating point
            for p, value in zip(moved, kept, strict=True):
                p.copy_(value)
        context.update()
        return loss


def _norm(gradient: Tensor) -> Tensor:
    """In fp32 at least: squares of bf16 gradients lose too much."""
    precise = torch.promote_types(gradient.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(gradient, dtype=precise)
    return norm

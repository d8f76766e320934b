"""GLAD: the gradient of SAM steers the plain one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from petiole.methods.step_rules.base import STEP_RULES, StepContext, gradients, moved, within
from petiole.methods.step_rules.sam import SAM, Changes


class Steered(SAM):
    """g = grad L(theta) and g_s = grad L(theta + eps) of SAM; the optimiser is given ``steer(g, g_s)``.

    "The gradient computed via SAM is a reference signal to steer the original gradient" (GLAD, arXiv 2507.13089, abstract;
    the rule itself was not readable, so the three forms are our reconstruction).

    Args:
        rho: of SAM.
        per_tensor: 1 steers tensor by tensor, 0 all parameters as one vector.
    """

    gradient_evaluations: ClassVar[int] = 2

    def __init__(self, rho: float = 0.05, per_tensor: float = 0.0) -> None:
        super().__init__(rho)
        within("glad", 0, 1, per_tensor=per_tensor)
        self.per_tensor = bool(per_tensor)

    def step(self, context: StepContext) -> Tensor:
        loss = context.evaluate()
        plain = [(p, g.clone()) for p, g in gradients(context.parameters)]
        with moved(self.ascent(context.parameters)):
            context.evaluate()
        self._steer_all(plain)
        context.update()
        return loss

    @torch.no_grad()
    def _steer_all(self, plain: Changes) -> None:
        groups = [[pair] for pair in plain] if self.per_tensor else [plain]
        for group in groups:
            sharp = [p.grad if p.grad is not None else torch.zeros_like(g) for p, g in group]
            given = self.steer(
                torch.cat([g.flatten() for _, g in group]), torch.cat([s.flatten() for s in sharp])
            )
            _hand_out(given, [p for p, _ in group])

    def steer(self, g: Tensor, sharp: Tensor) -> Tensor:
        """Both (n,) -> what the optimiser is given, (n,)."""
        raise NotImplementedError


@STEP_RULES.register("glad", "gradients that oppose SAM's lose what opposes; two gradients a step")
class Conflict(Steered):
    """If <g, g_s> < 0, then g - <g, g_s> g_s / |g_s|^2; else g. So <g, g_s> >= 0 afterwards."""

    def steer(self, g: Tensor, sharp: Tensor) -> Tensor:
        # By arithmetic, so that a GPU is not asked for the sign.
        return g - (g @ sharp).clamp(max=0) * sharp / (sharp @ sharp).clamp(min=1e-24)


@STEP_RULES.register("glad-project", "the part of the gradient along SAM's; two gradients a step")
class Project(Steered):
    """<g, g_s> g_s / |g_s|^2."""

    def steer(self, g: Tensor, sharp: Tensor) -> Tensor:
        return (g @ sharp) * sharp / (sharp @ sharp).clamp(min=1e-24)


@STEP_RULES.register("glad-mix", "the gradient and SAM's, mixed; two gradients a step")
class Mix(Steered):
    """(1 - beta) g + beta g_s.

    Args:
        rho: of SAM.
        beta: in [0, 1]; 0 is the plain step, 1 is SAM.
    """

    def __init__(self, rho: float = 0.05, beta: float = 0.5) -> None:
        super().__init__(rho)
        within("glad-mix", 0, 1, beta=beta)
        self.beta = beta

    def steer(self, g: Tensor, sharp: Tensor) -> Tensor:
        return torch.lerp(g, sharp, self.beta)


def _hand_out(values: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Cut one vector into the gradients of its parameters."""
    parts = torch.split(values, [p.numel() for p in parameters])
    for p, part in zip(parameters, parts, strict=True):
        p.grad = part.view_as(p)

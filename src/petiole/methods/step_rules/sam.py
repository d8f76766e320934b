"""Sharpness-aware minimisation: the gradient where the loss is highest nearby, to first order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from petiole.methods.step_rules.base import (
    STEP_RULES,
    StepContext,
    StepRule,
    gradients,
    moved,
    norm,
    within,
)

Changes = list[tuple[nn.Parameter, Tensor]]


@STEP_RULES.register("sam", "sharpness-aware minimisation; two gradients a step")
class SAM(StepRule):
    """SAM (Foret et al., ICLR 2021, equations 2 and 3, p = 2).

        g = grad L(theta),   eps = rho g / (||g||_2 + 1e-12),   theta <- optimiser(theta, grad L(theta + eps))

    The norm is over all trained parameters together. Without momentum this is a gradient step on the first-order
    estimate of  max_{||e|| <= rho} L(theta + e).

    Args:
        rho: radius, not negative; 0 is the plain step at twice the price.
    """

    gradient_evaluations: ClassVar[int] = 2

    def __init__(self, rho: float = 0.05) -> None:
        super().__init__()
        within("sam", 0, rho=rho)
        self.rho = rho

    def ascent(self, parameters: Sequence[nn.Parameter]) -> Changes:
        """eps for every parameter that has a gradient."""
        return steepest(gradients(parameters), self.rho)

    def step(self, context: StepContext) -> Tensor:
        loss = context.evaluate()
        with moved(self.ascent(context.parameters)):
            context.evaluate()
        context.update()
        return loss


@STEP_RULES.register("asam", "SAM in a ball that grows with the weights; two gradients a step")
class ASAM(SAM):
    """Adaptive SAM, whose ball does not depend on the scale of the weights (Kwon et al., ICML 2021, equation 8).

        T = |theta| + eta,   eps = rho T^2 g / (||T g||_2 + 1e-12),   elementwise

    Where a factor starts at zero, as those of adapters do, T is eta at first.

    Args:
        rho: radius, not negative.
        eta: added to every |theta|, not negative.
    """

    def __init__(self, rho: float = 0.5, eta: float = 0.01) -> None:
        super().__init__()
        within("asam", 0, rho=rho, eta=eta)
        self.rho, self.eta = rho, eta

    def ascent(self, parameters: Sequence[nn.Parameter]) -> Changes:
        scales = [(p, p.detach().abs() + self.eta, g) for p, g in gradients(parameters)]
        scaled = steepest([(p, scale * g) for p, scale, g in scales], self.rho)
        return [(p, scale * e) for (p, e), (_, scale, _) in zip(scaled, scales, strict=True)]


def steepest(pairs: Changes, rho: float) -> Changes:
    """rho v / (||v||_2 + 1e-12), the norm over all v together."""
    factor = rho / (norm([v for _, v in pairs]) + 1e-12)
    return [(p, v * factor.to(v.dtype)) for p, v in pairs]

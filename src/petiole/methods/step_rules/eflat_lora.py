"""EFlat-LoRA: sharpness in the space of the adapted weight, carried by one factor of the pair.

dW = s B A. A change eps_W of the weight is carried by B alone,

    eps_B = eps_W A^+ / s,     so that   s (B + eps_B) A - s B A = eps_W A^+ A,

which is eps_W projected on the row space of A (A^+ = A' (A A')^-1); two changes at once, of A and of B, would interfere. The
gradient of the weight is taken from B's:  grad_B = s G_W A',  so  G_W = grad_B (A A')^-1 A / s  on that row space, and

    eps_W = rho G_W / ||G_W||,   eps_B = rho grad_B (A A')^-1 / (s^2 ||G_W||),   ||G_W||^2 = tr(grad_B (A A')^-1 grad_B') / s^2,

all without a matrix of the weight's size. After the abstract of EFlat-LoRA (arXiv 2508.00522); that the norm is over all pairs together,
as SAM's, the constants, and the average are our reconstruction.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.lowrank import LowRank
from petiole.methods.step_rules.base import STEP_RULES, StepContext, StepRule, moved, within

Changes = list[tuple[nn.Parameter, Tensor]]


class LowRankRule(StepRule):
    """A rule that moves B of every low-rank pair.

    Args:
        rho: radius in the space of the weights, not negative.
    """

    def __init__(self, rho: float = 0.05) -> None:
        super().__init__()
        within("eflat-lora", 0, rho=rho)
        self.rho = rho
        self.pairs: tuple[LowRank, ...] = ()

    def prepare(self, loss_module: nn.Module) -> None:
        found = (m for m in loss_module.modules() if isinstance(m, LowRank))
        self.pairs = tuple(pair for pair in found if pair.b.requires_grad)
        if not self.pairs:
            raise ConfigError(
                "step_rule=eflat-lora moves the factor B of low-rank pairs, and this method trains none. Use a method with LoRA "
                "(lora-qkv, clip-lora, cls-residual-lora), or step_rule=sam."
            )

    @torch.no_grad()
    def ascent(self) -> Changes:
        """eps_B of every pair, from the gradients of the moment."""
        solved, squares = [], []
        for pair in self.pairs:
            gradient = pair.b.grad if pair.b.grad is not None else torch.zeros_like(pair.b)
            wide = torch.promote_types(gradient.dtype, torch.float32)
            a, g = pair.a.to(wide), gradient.to(wide)
            solved.append(torch.linalg.solve(a @ a.T, g.T).T)  # grad_B (A A')^-1
            squares.append((solved[-1] * g).sum() / pair.scale**2)
        size = torch.stack(squares).sum().clamp(min=0).sqrt() + 1e-12
        return [
            (pair.b, self.rho * s / (pair.scale**2 * size))
            for pair, s in zip(self.pairs, solved, strict=True)
        ]


@STEP_RULES.register(
    "eflat-lora-exact", "sharpness of the adapted weights, carried by B; two gradients a step"
)
class Exact(LowRankRule):
    """The gradient is taken anew where B has moved by eps_B of the moment."""

    gradient_evaluations: ClassVar[int] = 2

    def step(self, context: StepContext) -> Tensor:
        loss = context.evaluate()
        with moved(self.ascent()):
            context.evaluate()
        context.update()
        return loss


@STEP_RULES.register(
    "eflat-lora", "the same with a running mean of the change; one gradient a step"
)
class EFlatLoRA(LowRankRule):
    """One gradient a step, taken where B has moved by a running mean of eps_B:  m <- beta m + (1 - beta) eps_B.

    Args:
        rho: as above.
        beta: in [0, 1).
    """

    def __init__(self, rho: float = 0.05, beta: float = 0.9) -> None:
        super().__init__(rho)
        within("eflat-lora", 0, 1, beta=beta)
        self.beta = beta

    def prepare(self, loss_module: nn.Module) -> None:
        super().prepare(loss_module)
        for index, pair in enumerate(self.pairs):
            self.register_buffer(f"mean_{index}", torch.zeros_like(pair.b))

    def step(self, context: StepContext) -> Tensor:
        means = list(self.buffers())
        with moved([(pair.b, mean) for pair, mean in zip(self.pairs, means, strict=True)]):
            loss = context.evaluate()
        for mean, (_, change) in zip(means, self.ascent(), strict=True):
            mean.lerp_(change.to(mean.dtype), 1 - self.beta)
        context.update()
        return loss

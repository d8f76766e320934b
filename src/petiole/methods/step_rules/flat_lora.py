"""Flat-LoRA: the gradient where the adapted weights have moved at random (Li et al., arXiv 2409.14396).

    L = E_eps L(W + s B A + eps),   eps_ij ~ N(0, sigma^2 |(W + s B A)_i|^2 / n)

i a row of n numbers: noise in the whole space of the weight, sized by its rows, one draw a step. The frozen weight itself moves for the length of one
gradient and has its old bits again afterwards. Constants are after the abstract and our reconstruction; processes that train together draw each their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Carrier
from petiole.methods.step_rules.base import STEP_RULES, StepContext, StepRule, moved, within


@STEP_RULES.register(
    "flat-lora", "the gradient where the adapted weights have moved at random; one gradient a step"
)
class FlatLoRA(StepRule):
    """Noise on the frozen weights under every low-rank pair.

    Args:
        sigma: size of the noise by that of a row, not negative; 0 is the plain step.
    """

    def __init__(self, sigma: float = 0.05) -> None:
        super().__init__()
        within("flat-lora", 0, sigma=sigma)
        self.sigma = sigma
        self.places: tuple[tuple[LowRank, nn.Parameter, slice], ...] = ()

    def prepare(self, loss_module: nn.Module) -> None:
        carriers = [m for m in loss_module.modules() if isinstance(m, Carrier)]
        self.places = tuple(place for carrier in carriers for place in _places(carrier))
        if not self.places:
            raise ConfigError(
                "step_rule=flat-lora moves the frozen weights under low-rank pairs, and this method trains none over linear layers of "
                "floats. Use a method with LoRA (lora-qkv, clip-lora) on a backbone that is not quantised, or step_rule=sam."
            )

    @torch.no_grad()
    def noise(self) -> list[tuple[nn.Parameter, Tensor]]:
        """eps of every frozen weight (out, in)."""
        changes: dict[int, tuple[nn.Parameter, Tensor]] = {}
        for pair, weight, rows in self.places:
            if id(weight) not in changes:
                changes[id(weight)] = weight, torch.zeros_like(weight)
            part = weight[rows]
            adapted, _ = pair.merged(part, part.new_zeros(len(part)))
            size = adapted.norm(dim=1, keepdim=True) * self.sigma / sqrt(part.shape[1])
            changes[id(weight)][1][rows] = size * torch.randn_like(part)
        return list(changes.values())

    def step(self, context: StepContext) -> Tensor:
        device = self.places[0][1].device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            changes = self.noise()  # dropout stays that of the plain step
        with moved(changes):
            loss = context.evaluate()
        context.update()
        return loss


def _places(carrier: Carrier) -> Iterator[tuple[LowRank, nn.Parameter, slice]]:
    """Low-rank pairs with the weight whose product they add to, and its rows."""
    for attachment in carrier.changes.attach:
        layer = attachment.layer
        if not isinstance(layer, LowRank) or not layer.b.requires_grad:
            continue
        site = carrier.frozen.site(attachment.role)
        module = site.module
        if (
            isinstance(module, nn.Linear)
            and site.side == "out"
            and module.weight.is_floating_point()
        ):
            yield layer, module.get_parameter("weight"), site.columns or slice(None)

"""Mixed precision: where autocast computes, and the scaled loss that fp16 needs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from petiole.device import Precision
from petiole.errors import ConfigError
from petiole.methods.recipe import Recipe

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """Matrix products and convolutions in bf16 or fp16; nothing for fp32."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, AUTOCAST[precision])


def check_precision(recipe: Recipe, precision: str) -> None:
    """Refuse what reads gradients that a scaled loss lets overflow now and then.

    Raises:
        ConfigError: a step rule under fp16.
    """
    if precision == "fp16" and recipe.step_rule != "plain":
        raise ConfigError(
            f"step_rule={recipe.step_rule} reads gradients, which may overflow in fp16. Take --precision bf16 or fp32, or step_rule=plain."
        )


class LossScaler(nn.Module):
    """Gradients of s L instead of L, so that small ones are not 0 in fp16; an optimiser step divides by s again.

    s starts at 2^16. A step whose gradients hold infinity or NaN is left out and halves s; 2,000 others in a row double it
    (Micikevicius et al., ICLR 2018; ``torch.amp.GradScaler``). Scale and count are part of a checkpoint. The optimisers are
    fused, which look at what overflowed on the device: no step waits for it.

    Args:
        device: of what is trained.
        enabled: whether anything is scaled.
    """

    def __init__(self, device: torch.device, *, enabled: bool) -> None:
        super().__init__()
        self.enabled = enabled
        self._scaler = torch.amp.GradScaler(device.type, enabled=enabled)

    def prepare(self, optimizer: torch.optim.Optimizer) -> None:
        """Called once before the first step.

        A fused SGD whose very first step is left out takes its momentum from memory that nobody has written (torch 2.14); from
        zeros the first step is the same as without this.
        """
        if self.enabled and isinstance(optimizer, torch.optim.SGD):
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of s times the loss."""
        torch.autograd.backward(self._scaler.scale(loss))

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by s, for what looks at them before the step."""
        self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Take the step, or leave it out; then choose the next s."""
        self._scaler.step(optimizer)
        self._scaler.update()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:  # noqa: ARG002
        for name in self._numbers():
            destination[prefix + name] = torch.tensor(float(self._scaler.state_dict()[name]))

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Tensor],
        prefix: str,
        *_: Any,
    ) -> None:
        found = {name: float(state_dict[prefix + name]) for name in self._numbers()}
        if found:
            found["_growth_tracker"] = int(found["_growth_tracker"])
            self._scaler.load_state_dict(self._scaler.state_dict() | found)

    def _numbers(self) -> tuple[str, ...]:
        return ("scale", "_growth_tracker") if self.enabled else ()

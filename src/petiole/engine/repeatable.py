"""The loss of one batch several times over, each time with the same dropout and the same state of the modules."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Repeatable:
    """Gradient of one batch's loss, as often as it is called in a step: the ``evaluate`` of a ``StepContext``.

    Gradients of an earlier call are cleared. A call leaves random generator and buffers (running statistics, caches)
    as the first one left them, so that a step with two evaluations counts its batch once.

    Args:
        gradient: one forward and backward pass; returns the loss.
        module: whose gradients and buffers these are.
        device: of the generator.
    """

    def __init__(
        self, gradient: Callable[[], Tensor], module: nn.Module, device: torch.device
    ) -> None:
        self._gradient, self._module = gradient, module
        self._cuda = [device] if device.type == "cuda" else []
        self._random = self._generators()
        self._buffers = self._copies()
        self._calls = 0

    def __call__(self) -> Tensor:
        self._calls += 1
        if self._calls == 1:
            return self._gradient()
        random, buffers = self._generators(), self._copies()
        self._restore(self._random, self._buffers)
        self._module.zero_grad()
        try:
            return self._gradient()
        finally:
            self._restore(random, buffers)

    def _copies(self) -> list[Tensor]:
        return [buffer.clone() for buffer in self._module.buffers()]

    def _generators(self) -> list[Tensor]:
        return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, self._cuda)]

    def _restore(self, random: list[Tensor], buffers: list[Tensor]) -> None:
        own, *cuda = random
        torch.set_rng_state(own)
        for device, state in zip(self._cuda, cuda, strict=True):
            torch.cuda.set_rng_state(state, device)
        with torch.no_grad():
            for buffer, value in zip(self._module.buffers(), buffers, strict=True):
                buffer.copy_(value)

"""The best step of a training by the loss on held-back samples, and early stopping."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from petiole.methods.recipe import Recipe

TIMES = 20
"""Times that a training is judged."""


class BestStep(nn.Module):
    """Keeps the trained weights of the step with the lowest loss on held-back samples. Its buffers are part of a checkpoint.

    Args:
        loss_module: whose trained parameters are kept.
        recipe: with its length in steps, and ``patience``.
        validate: mean loss on the held-back samples under the weights of the moment; draws no random numbers.
    """

    state: Tensor

    def __init__(
        self, loss_module: nn.Module, recipe: Recipe, validate: Callable[[], float]
    ) -> None:
        super().__init__()
        self._trained = tuple(p for p in loss_module.parameters() if p.requires_grad)
        self._validate = validate
        self.steps, self.patience = recipe.steps, recipe.patience
        self.every = max(1, recipe.steps // TIMES)
        # lowest loss, its step, times judged since
        self.register_buffer("state", torch.tensor([torch.inf, 0, 0], dtype=torch.float64))
        for index, parameter in enumerate(self._trained):
            self.register_buffer(str(index), parameter.detach().clone())

    @property
    def exhausted(self) -> bool:
        """Whether ``patience`` judgements in a row were no better than the best."""
        return 0 < self.patience <= int(self.state[2])

    @torch.no_grad()
    def after(
        self, done: int, weights: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """Judge the weights after ``done`` steps, if it is time; ``weights`` puts an average in their place."""
        if done % self.every and done != self.steps:
            return
        with weights():
            loss = self._validate()
            if not loss < float(self.state[0]):
                self.state[2] += 1
                return
            self.state.copy_(torch.tensor([loss, done, 0], dtype=torch.float64))
            for index, parameter in enumerate(self._trained):
                self.get_buffer(str(index)).copy_(parameter)

    @torch.no_grad()
    def finish(self) -> None:
        """Put the best weights in their place."""
        if torch.isfinite(self.state[0]):
            for index, parameter in enumerate(self._trained):
                parameter.copy_(self.get_buffer(str(index)))

    def words(self) -> str:
        """Which step was kept, for the record."""
        loss, step, _ = self.state.tolist()
        early = ", stopped early" if self.exhausted else ""
        return f"step {step:.0f} of {self.steps}: lowest held-back log-loss {loss:.3f}{early}"

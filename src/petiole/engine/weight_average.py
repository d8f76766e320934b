"""Averages of what is trained over the steps: as the result of a run, or as its own teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from petiole.methods.recipe import Recipe


class WeightAverage(nn.Module, ABC):
    """theta_bar, a running average of the trained weights in fp32. Its buffers are part of a checkpoint.

    Only trained tensors: a frozen one needs no average.

    Args:
        loss_module: whose parameters are averaged.
        replaces: whether the average takes the place of the weights when the run ends.
    """

    def __init__(self, loss_module: nn.Module, *, replaces: bool = True) -> None:
        super().__init__()
        self._parameters_of = (loss_module,)
        self.replaces = replaces
        for index, parameter in enumerate(self._trained()):
            self.register_buffer(str(index), torch.zeros_like(parameter, dtype=torch.float32))

    def _trained(self) -> Iterator[nn.Parameter]:
        return (p for p in self._parameters_of[0].parameters() if p.requires_grad)

    def _pairs(self) -> Iterator[tuple[Tensor, nn.Parameter]]:
        return zip(self.buffers(), self._trained(), strict=True)

    def begin(self) -> None:
        """Called before the first step of all, not when a run is resumed."""

    @abstractmethod
    def after(self, step: int) -> None:
        """Take in the weights as they are after ``step``, counted from 0."""

    @torch.no_grad()
    def finish(self) -> None:
        """Put the average in the place of the weights, if that is what it is for."""
        if self.replaces:
            for average, parameter in self._pairs():
                parameter.copy_(average)

    @contextmanager
    def weights(self) -> Iterator[None]:
        """Let the average stand in for the weights, for a forward pass without gradients.

        The storage is exchanged, not written to: what autograd keeps of the trained weights stays valid.
        """
        pairs = [(parameter, parameter.data, average) for average, parameter in self._pairs()]
        try:
            for parameter, own, average in pairs:
                parameter.data = average.to(own.dtype)
            with torch.no_grad():
                yield
        finally:
            for parameter, own, _ in pairs:
                parameter.data = own


class Teacher:
    """A ``SelfTeacher``. No module itself: a loss that keeps it must not own the average's buffers."""

    def __init__(self, average: WeightAverage) -> None:
        self.weights = average.weights


class GaussianAverage(WeightAverage):
    """The average over the epochs, weighted by a Gaussian (PromptSRC: Khattak et al., ICCV 2023, section 3.2.2).

        theta_bar = sum_e w_e theta_e,   w_e = N(e; mean, sd^2) / sum_j N(j; mean, sd^2),   e = 1 .. T

    In fp32 and only of trained tensors: the authors' code averages the whole state in half precision, which
    rounds the frozen weights. It is an average only when the last epoch has ended, so it cannot teach on the way.

    Args:
        loss_module: whose parameters are averaged.
        recipe: with the Gaussian and the epochs.
        a_pass: steps of an epoch.
    """

    def __init__(self, loss_module: nn.Module, recipe: Recipe, a_pass: int) -> None:
        super().__init__(loss_module)
        self.a_pass = a_pass
        epochs = torch.arange(1, int(recipe.epochs) + 1, dtype=torch.float64)
        exponents = -(((epochs - recipe.average_mean) / recipe.average_sd) ** 2) / 2
        self.of_epoch = exponents.softmax(0).tolist()

    @torch.no_grad()
    def after(self, step: int) -> None:
        epoch, rest = divmod(step + 1, self.a_pass)
        if not rest:
            for average, parameter in self._pairs():
                average.add_(parameter.float(), alpha=self.of_epoch[epoch - 1])


class ExponentialAverage(WeightAverage):
    """An exponential moving average, the mean teacher of Tarvainen and Valpola (NeurIPS 2017, section 2).

        theta_bar_0 = theta_0,   theta_bar <- d theta_bar + (1 - d) theta   after every step

    Args:
        loss_module: whose parameters are averaged.
        decay: d in [0, 1).
        replaces: see ``WeightAverage``.
    """

    def __init__(self, loss_module: nn.Module, decay: float, *, replaces: bool = True) -> None:
        super().__init__(loss_module, replaces=replaces)
        self.decay = decay

    @torch.no_grad()
    def begin(self) -> None:
        for average, parameter in self._pairs():
            average.copy_(parameter)

    @torch.no_grad()
    def after(self, step: int) -> None:  # noqa: ARG002 - every step counts
        for average, parameter in self._pairs():
            average.lerp_(parameter.float(), 1 - self.decay)


def make_average(loss_module: nn.Module, recipe: Recipe, a_pass: int) -> WeightAverage | None:
    """What a recipe asks for; none where it asks for none."""
    if recipe.average_mean:
        return GaussianAverage(loss_module, recipe, a_pass)
    if recipe.average_decay:
        return ExponentialAverage(
            loss_module, recipe.average_decay, replaces=recipe.average_as == "result"
        )
    return None

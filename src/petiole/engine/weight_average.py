"""Averages of what is trained over the steps: as the result of a run, or as its own teacher."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from math import ceil, cos, pi
from typing import ClassVar

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.methods.base import SelfTaught
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
        trained = tuple(self._trained())
        averages = (self.get_buffer(str(index)) for index in range(len(trained)))
        return zip(averages, trained, strict=True)

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

    d may rise linearly at first (CaRot: Oh et al., NeurIPS 2024).

    Args:
        loss_module: whose parameters are averaged.
        decay: d in [0, 1).
        first: where d begins.
        rise: steps until it is ``decay``.
        replaces: see ``WeightAverage``.
    """

    def __init__(
        self,
        loss_module: nn.Module,
        decay: float,
        *,
        first: float = 0.0,
        rise: int = 0,
        replaces: bool = True,
    ) -> None:
        super().__init__(loss_module, replaces=replaces)
        self.decay, self.first, self.rise = decay, first, rise

    @torch.no_grad()
    def begin(self) -> None:
        for average, parameter in self._pairs():
            average.copy_(parameter)

    @torch.no_grad()
    def after(self, step: int) -> None:
        share = min(1.0, step / self.rise) if self.rise else 1.0
        decay = self.first + share * (self.decay - self.first)
        for average, parameter in self._pairs():
            average.lerp_(parameter.float(), 1 - decay)


class WindowedAverage(WeightAverage):
    """The mean of the weights after the last steps, whose number m(t) grows from few to all (OGEN: Zang et al., ICLR 2024, section 3.3).

        m(t) = m_0 + ceil((1 + cos(pi (1 + t / T))) / 2 (T - m_0)),   theta_bar = sum of theta over the last m(t) steps / m(t)

    The paper's text alone could be read; that m counts steps and ends at all of them is our reconstruction. Sums up to where
    windows begin are kept at no more than ``MARKS`` steps, so in long trainings a window begins a little earlier.

    Args:
        loss_module: whose parameters are averaged.
        first: m_0.
        steps: T.
        replaces: see ``WeightAverage``.
    """

    MARKS: ClassVar[int] = 32

    def __init__(
        self, loss_module: nn.Module, first: int, steps: int, *, replaces: bool = True
    ) -> None:
        super().__init__(loss_module, replaces=replaces)
        self.first, self.steps = min(first, steps), steps
        latest = max((t - self.window(t) for t in range(steps)), default=0)
        self.every = max(1, ceil(latest / self.MARKS))
        self.marks = latest // self.every + 1
        for index, parameter in enumerate(self._trained()):
            zeros = torch.zeros_like(parameter, dtype=torch.float32)
            self.register_buffer(f"sum_{index}", zeros)
            self.register_buffer(f"before_{index}", zeros.expand(self.marks, *zeros.shape).clone())

    def window(self, step: int) -> int:
        """m(t) after so many steps."""
        grown = (1 + cos(pi * (1 + step / self.steps))) / 2 * (self.steps - self.first)
        return min(step, self.first + ceil(grown))

    @torch.no_grad()
    def begin(self) -> None:
        for average, parameter in self._pairs():
            average.copy_(parameter)

    @torch.no_grad()
    def after(self, step: int) -> None:
        done = step + 1
        mark, here = (done - self.window(done)) // self.every, done // self.every
        for index, (average, parameter) in enumerate(self._pairs()):
            total, before = self.get_buffer(f"sum_{index}"), self.get_buffer(f"before_{index}")
            total.add_(parameter)
            if done % self.every == 0 and here < self.marks:
                before[here] = total
            average.copy_((total - before[mark]) / (done - mark * self.every))


def make_average(loss_module: nn.Module, recipe: Recipe, a_pass: int) -> WeightAverage | None:
    """What a recipe asks for; none where it asks for none."""
    if recipe.average_mean:
        return GaussianAverage(loss_module, recipe, a_pass)
    if recipe.average_decay:
        return ExponentialAverage(
            loss_module,
            recipe.average_decay,
            first=recipe.average_from,
            rise=round(recipe.average_rise * recipe.steps),
            replaces=recipe.average_as == "result",
        )
    if recipe.average_window:
        return WindowedAverage(
            loss_module,
            recipe.average_window,
            recipe.steps,
            replaces=recipe.average_as == "result",
        )
    return None


def teach(loss_module: nn.Module, average: WeightAverage | None) -> None:
    """Give the average to the losses that learn from one.

    Raises:
        ConfigError: there is none.
    """
    for module in loss_module.modules():
        if isinstance(module, SelfTaught):
            if average is None:
                raise ConfigError(
                    f"{type(module).__name__} learns from an average of the weights, and the recipe keeps none: "
                    "set average_decay=0.999 and average_as=teacher."
                )
            module.learn_from(Teacher(average))

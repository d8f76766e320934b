"""Predictors that adapt on each test sample and are as before after it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

S = TypeVar("S")
P = TypeVar("P")
S_contra = TypeVar("S_contra", contravariant=True)


class TestTimeStep(Protocol[S_contra]):
    """Changes the weights of a model on one unlabelled test sample (e.g. TPT: Shu et al., NeurIPS 2022)."""

    def __call__(self, model: nn.Module, sample: S_contra) -> None:
        """Adapt ``model`` in place; it is reset after the sample's prediction."""
        ...


def none(model: nn.Module, sample: object) -> None:
    """Adapt nothing: prediction is the plain one."""


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Give parameters, their gradients, buffers and train or eval modes back as they were, to the bit."""
    tensors: list[Tensor] = [*model.parameters(), *model.buffers()]
    kept = [tensor.detach().clone() for tensor in tensors]
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    modes = [(module, module.training) for module in model.modules()]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors, kept, strict=True):
                tensor.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode


def adapted_predictions(
    model: nn.Module,
    samples: Iterable[S],
    predict: Callable[[S], P],
    step: TestTimeStep[S] = none,
    *,
    seed: int = 0,
) -> Iterator[P]:
    """Adapt on a sample, predict it, reset; one after the other, so that none depends on those before it.

    Args:
        model: whose weights ``step`` changes: an adapter, not the frozen network.
        samples: in the order of the predictions.
        predict: sample -> prediction, with the model's weights of the moment; runs without gradients.
        step: ``none`` adapts nothing.
        seed: of random draws in ``step`` (views, dropout), the same for every sample.
    """
    for sample in samples:
        with restored(model), torch.random.fork_rng():
            torch.manual_seed(seed)
            with torch.enable_grad():
                step(model, sample)
            with torch.no_grad():
                prediction = predict(sample)
        yield prediction

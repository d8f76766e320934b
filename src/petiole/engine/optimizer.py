"""Optimiser, learning rates and averaging of weights: what a recipe says, as torch does it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from petiole.backbones.base import IMAGES, Backbone
from petiole.methods.recipe import FIRST_EPOCH, Recipe
from petiole.tasks.classification.model import AdaptedClassifier


def make_optimizer(
    loss_module: nn.Module, recipe: Recipe, factors: Mapping[int, float] | None = None
) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum over what is trained; for ``factors`` see ``parameter_groups``."""
    groups = parameter_groups(loss_module, recipe, factors or {})
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=True)
    return torch.optim.AdamW(groups, lr=recipe.lr, eps=recipe.epsilon, fused=True)


def learning_rate(step: int, recipe: Recipe, a_pass: float = 1.0) -> float:
    """The rate of a step, by the recipe's schedule.

    steps     a linear rise over the first ``warmup`` share of the steps, then a half cosine to 0
    linear    the same rise, then a linear fall to 0 (VL-Adapter)
    epochs    1e-5 in epoch 0; then lr (1 + cos(pi (e - 1) / T)) / 2 all through epoch e of T, which
              never reaches 0 (spec prompt.md, section 1: Dassl's)

    Args:
        a_pass: steps of an epoch.
    """
    if recipe.schedule == "epochs":
        epoch = int(step // a_pass)
        return _cosine(recipe.lr, (epoch - 1) / recipe.epochs) if epoch else FIRST_EPOCH
    rise = round(recipe.warmup * recipe.steps)
    if step < rise:
        return recipe.lr * (step + 1) / rise
    phase = (step - rise) / max(1, recipe.steps - rise)
    return recipe.lr * (1 - phase) if recipe.schedule == "linear" else _cosine(recipe.lr, phase)


def _cosine(peak: float, phase: float) -> float:
    return peak * (1 + math.cos(math.pi * phase)) / 2


def parameter_groups(
    loss_module: nn.Module, recipe: Recipe, factors: Mapping[int, float]
) -> list[dict[str, Any]]:
    """Parameters by (decayed, factor on the learning rate), in the order of their first member.

    Matrices decay; vectors (biases, norms) and scalars (tau) do not, unless all do.

    Args:
        factors: by ``id`` of a parameter; 1 for all others.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for p in loss_module.parameters():
        if p.requires_grad:
            decays = recipe.decay_all or p.ndim >= 2
            groups.setdefault((decays, factors.get(id(p), 1.0)), []).append(p)
    return [
        {"params": params, "weight_decay": recipe.weight_decay * decays, "factor": factor}
        for (decays, factor), params in groups.items()
    ]


def factors(adapted: AdaptedClassifier, recipe: Recipe) -> dict[int, float]:
    """Of the head, and of tuned copies by their block."""
    known = {id(p): recipe.head_lr for p in adapted.head.parameters()}
    for name, copy in adapted.copies.items():
        known[id(copy)] = layer_factor(adapted.backbone, name, recipe.layer_decay)
    return known


def layer_factor(backbone: Backbone, parameter: str, decay: float) -> float:
    """decay^(L - l) for a parameter of block l; decay^(L + 1) below the blocks, 1 above them."""
    if decay == 1.0:
        return 1.0
    role = backbone.role_of(parameter)
    below = -1 if role == IMAGES else backbone.depth
    layer = int(role.split(".")[1]) if role.startswith("block.") else below
    return float(decay ** (backbone.depth - layer))


class GaussianAverage(nn.Module):
    """The average of what is trained over the epochs, weighted by a Gaussian (PromptSRC).

        theta = sum_e w_e theta_e,   w_e = N(e; mean, sd^2) / sum_j N(j; mean, sd^2),   e = 1 .. T

    Only trained tensors and in fp32: the authors' code averages the whole state in half precision,
    which rounds the frozen weights. Its buffers are part of a checkpoint.

    Args:
        loss_module: whose parameters are averaged.
        recipe: with the Gaussian and the epochs; inactive where ``average_mean`` is 0.
        a_pass: steps of an epoch.
    """

    def __init__(self, loss_module: nn.Module, recipe: Recipe, a_pass: int) -> None:
        super().__init__()
        self._parameters_of = (loss_module,)
        self.a_pass = a_pass
        epochs = torch.arange(1, int(recipe.epochs) + 1, dtype=torch.float64)
        exponents = -(((epochs - recipe.average_mean) / recipe.average_sd) ** 2) / 2
        self.weights = exponents.softmax(0).tolist() if recipe.average_mean else []
        for index, parameter in enumerate(self._trained()):
            if self.weights:
                self.register_buffer(str(index), torch.zeros_like(parameter.float()))

    def _trained(self) -> Iterator[nn.Parameter]:
        return (p for p in self._parameters_of[0].parameters() if p.requires_grad)

    @torch.no_grad()
    def after(self, step: int) -> None:
        """Add the weights as they are now, if ``step`` was the last of an epoch."""
        epoch, rest = divmod(step + 1, self.a_pass)
        if self.weights and not rest:
            for total, parameter in zip(self.buffers(), self._trained(), strict=True):
                total.add_(parameter.float(), alpha=self.weights[epoch - 1])

    @torch.no_grad()
    def finish(self) -> None:
        """Put the average in the place of the weights."""
        if self.weights:
            for total, parameter in zip(self.buffers(), self._trained(), strict=True):
                parameter.copy_(total)

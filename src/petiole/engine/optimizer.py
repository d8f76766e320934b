"""Optimiser and learning rates: what a recipe says, as torch does it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from petiole.methods.recipe import FIRST_EPOCH, Recipe


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
              never reaches 0 (Dassl's, the code base of CoOp: Zhou et al., IJCV 2022, section 4.1)

    Args:
        a_pass: steps of an epoch.
    """
    if recipe.schedule == "epochs":
        epoch = int(step // a_pass)
        return _cosine(recipe.lr, (epoch - 1) / recipe.epochs) if epoch else FIRST_EPOCH
    rise = round(recipe.warmup * recipe.steps)
    if step < rise:
        return recipe.lr * (step + 1) / rise
    phase = (step - rise) / (recipe.steps - rise)
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

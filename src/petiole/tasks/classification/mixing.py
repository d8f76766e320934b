"""mixup and CutMix: a batch mixed with a shuffled copy of itself, as a pure function of (seed, step)."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.backbones.frozen_network import IMAGES
from petiole.errors import ConfigError
from petiole.methods.recipe import Recipe
from petiole.tasks.classification.model import AdaptedClassifier


class Partner(NamedTuple):
    """What a batch was mixed with: the first part's share, and labels and domains (B,) of the second."""

    share: float
    labels: Tensor
    is_target: Tensor


@dataclass(frozen=True)
class Mixing:
    """One of the two a step, where the recipe asks for both.

        mixup     x = s x_i + (1 - s) x_j,   s ~ Beta(a, a)         Zhang et al., ICLR 2018
        CutMix    a box of 1 - s of the area is x_j's, s as above   Yun et al., ICCV 2019

    Their loss is  s CE(y_i) + (1 - s) CE(y_j).  mixup mixes what training reads: pixels, or the values at the cut where
    the half below is stored (manifold mixup: Verma et al., ICML 2019).

    Attributes:
        mixup, cutmix: a of either; 0 for none.
        seed: of the run.
    """

    mixup: float
    cutmix: float
    seed: int

    def __call__(
        self, step: int, state: State, labels: Tensor, is_target: Tensor
    ) -> tuple[State, Tensor, Tensor, Partner]:
        rng = np.random.default_rng([self.seed, step, 2])
        pastes = bool(self.cutmix) and (not self.mixup or rng.random() < 0.5)
        alpha = self.cutmix if pastes else self.mixup
        share = float(rng.beta(alpha, alpha))
        order = torch.from_numpy(rng.permutation(len(labels))).to(labels.device)
        if pastes:
            images = state[IMAGES].clone()
            top, bottom, left, right = _box(images.shape[-2:], share, rng)
            images[..., top:bottom, left:right] = state[IMAGES][order, :, top:bottom, left:right]
            share = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
            state = {IMAGES: images}
        else:
            state = {role: share * x + (1 - share) * x[order] for role, x in state.items()}
        return state, labels, is_target, Partner(share, labels[order], is_target[order])


def _box(
    size: tuple[int, ...], share: float, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """A box of about 1 - share of the area, cut off at the edges: top, bottom, left, right."""
    ends: list[int] = []
    for side in size:
        middle, half = rng.integers(side), sqrt(1 - share) * side / 2
        ends += [max(0, round(middle - half)), min(side, round(middle + half))]
    return ends[0], ends[1], ends[2], ends[3]


def mixing(adapted: AdaptedClassifier, recipe: Recipe, seed: int) -> Mixing | None:
    """What a recipe asks for; none where it asks for none.

    Raises:
        ConfigError: the method has losses of its own, or CutMix would have no pixels.
    """
    if not recipe.mixup and not recipe.cutmix:
        return None
    plan = adapted.plan
    if plan.losses or plan.anchors or plan.teacher:
        names = ", ".join(type(loss).__name__ for loss in plan.losses) or "its teacher"
        raise ConfigError(
            f"mixup and CutMix give an image two labels, and {names} takes one: set mixup=0 and cutmix=0, or "
            "choose a method without losses of its own."
        )
    stored = set(adapted.training_cut) <= set(adapted.backbone.finals)
    if adapted.backbone.preprocessing.patch and not stored:
        raise ConfigError(
            f"{adapted.backbone.name} gives each image a grid of its own shape, and images of two grids have no mean: set mixup=0 and "
            "cutmix=0."
        )
    if recipe.cutmix and adapted.training_cut != (IMAGES,):
        raise ConfigError(
            f"CutMix pastes pixels, and this method trains on stored {', '.join(adapted.training_cut)}: set cutmix=0; "
            "mixup works, and mixes those values."
        )
    return Mixing(recipe.mixup, recipe.cutmix, seed)

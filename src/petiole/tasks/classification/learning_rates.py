"""Factors on the learning rate: of the head, by layer, and those that a module states for its own parameters."""

from __future__ import annotations

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.methods.recipe import Recipe
from petiole.tasks.classification.model import AdaptedClassifier


def factors(adapted: AdaptedClassifier, recipe: Recipe) -> dict[int, float]:
    """Of the head, of tuned copies by their block, and of parameters named in a module's ``lr_factors``."""
    known = {id(p): recipe.head_lr for p in adapted.head.parameters()}
    for module in adapted.modules():
        for name, factor in getattr(module, "lr_factors", {}).items():
            own = id(getattr(module, name))
            known[own] = known.get(own, 1.0) * factor
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

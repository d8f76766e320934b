"""How a method is trained: data, batches, optimiser, length, views."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from petiole.errors import ConfigError

TrainOn = Literal["source", "target", "joint", "sequential"]


@dataclass(frozen=True)
class Recipe:
    """Everything about training that is not the method's equation (spec B3, all [?] there).

    Attributes:
        train_on: ``joint`` source and target in every batch; ``sequential`` source for the first
            half of the steps, target for the second; or one of them alone.
        steps: optimiser steps. 0 leaves the method as initialised.
        warmup: fraction of the steps with a linear rise; then cosine to 0.
        lr: peak learning rate of AdamW.
        weight_decay: on matrices only; vectors and scales are never decayed.
        classes_per_batch: P; fewer if the task has fewer.
        source_per_class, target_per_class: images of each drawn class; target ones are drawn with
            replacement.
        target_weight: w in  w CE(target) + (1 - w) CE(source).
        label_smoothing: of the cross-entropy.
        clip: largest norm of the gradient; 0 for none.
        views: stored random views of every training image; 0 trains on the evaluation view alone.
        augmentation: name of the random view's recipe.
        imprint: start a cosine head from the class means of the training features.
    """

    train_on: TrainOn = "joint"
    steps: int = 3000
    warmup: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 1e-4
    classes_per_batch: int = 16
    source_per_class: int = 8
    target_per_class: int = 4
    target_weight: float = 0.5
    label_smoothing: float = 0.0
    clip: float = 0.0
    views: int = 4
    augmentation: str = "default"
    imprint: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "views", "lr", "weight_decay", "clip"):
            if not getattr(self, name) >= 0:  # nan fails too
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}.")
        for name in ("warmup", "target_weight", "label_smoothing"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], but is {getattr(self, name)}.")
        for name in ("classes_per_batch", "source_per_class", "target_per_class"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}.")

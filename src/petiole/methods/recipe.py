"""How a method is trained: data, batches, optimiser, length, views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
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
        epochs: if above 0, the length in passes over the training images instead of steps.
        batch_size: 0 draws class-balanced batches; more shuffles all images into batches of so many.
        warmup: fraction of the steps with a linear rise; then cosine to 0.
        lr: peak learning rate of AdamW.
        head_lr: factor on lr for the head.
        layer_decay: lr of tuned copies of block l is lr * layer_decay^(L - l), L the number of
            blocks; what lies below the blocks counts as l = -1.
        weight_decay: on matrices only; vectors and scales are never decayed ...
        decay_all: ... unless this says so, as AdapterTune's code does.
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
    epochs: float = 0.0
    batch_size: int = 0
    warmup: float = 0.1
    lr: float = 1e-3
    head_lr: float = 1.0
    layer_decay: float = 1.0
    weight_decay: float = 1e-4
    decay_all: bool = False
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
        floor = ("steps", "epochs", "batch_size", "views", "lr", "head_lr", "weight_decay", "clip")
        for name in floor:
            if not getattr(self, name) >= 0:  # nan fails too
                raise ConfigError(f"{name} must not be negative, but is {getattr(self, name)}.")
        for name in ("warmup", "target_weight", "label_smoothing", "layer_decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must lie in [0, 1], but is {getattr(self, name)}.")
        for name in ("classes_per_batch", "source_per_class", "target_per_class"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, but is {getattr(self, name)}.")

    def images_per_step(self, classes: int) -> int:
        """Images of a whole batch, with both domains present."""
        a_class = self.source_per_class + self.target_per_class
        return self.batch_size or min(self.classes_per_batch, classes) * a_class

    def resolved(self, images: int, classes: int) -> Recipe:
        """The recipe with its length in steps, for so many training images and classes."""
        if not self.epochs:
            return self
        a_pass = images / min(images, self.images_per_step(classes))
        if self.batch_size:  # a shuffled pass ends with what is left
            a_pass = ceil(a_pass)
        return replace(self, steps=max(1, ceil(self.epochs * a_pass)), epochs=0.0)

"""How a method is trained: data, batches, optimiser, length, views."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil, floor
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from petiole.errors import ConfigError
from petiole.ranges import (
    FINITE,
    Decay,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ProperFraction,
    UnitInterval,
)

TrainOn = Literal["source", "target", "joint", "sequential"]
FIRST_EPOCH = 1e-5
"""Learning rate of the first epoch under ``schedule=epochs`` (Dassl's constant warm-up)."""


def numbers(value: Any) -> Any:
    """``rho=0.05,scale=2`` as a mapping of texts; whatever is no text stays as it is."""
    if not isinstance(value, str):
        return value
    pairs = (part.partition("=") for part in value.split(",") if part.strip())
    return {name.strip(): number.strip() for name, _, number in pairs}


@dataclass(frozen=True)
class Recipe:
    """Everything about training that is not the method's equation.

    Attributes:
        train_on: ``joint`` source and target in every batch; ``sequential`` source for the first
            half of the steps, target for the second; or one of them alone.
        steps: optimiser steps. 0 leaves the method as initialised.
        epochs: if above 0, the length in passes over the training images instead of steps ...
        min_steps, max_steps: ... but at least and at most so many steps; 0 for no bound.
        batch_size: 0 draws class-balanced batches; more shuffles all images into batches of so many.
        drop_last: leave out the images at the end of a pass that fill no whole batch.
        optimizer: ``adamw`` or ``sgd``.
        momentum: of SGD.
        schedule: ``steps``, a linear rise and then cosine to 0; ``linear``, a linear fall instead; or
            ``epochs``, the prompt learners' rate, which changes once an epoch: 1e-5 in epoch 0, then
            lr (1 + cos(pi (e - 1) / T)) / 2.
        warmup: fraction of the steps with a linear rise, but under ``schedule=epochs``.
        lr: peak learning rate.
        head_lr: factor on lr for the head.
        layer_decay: lr of tuned copies of block l is lr * layer_decay^(L - l), L the number of
            blocks; what lies below the blocks counts as l = -1.
        weight_decay: on matrices only; vectors and scales are never decayed ...
        decay_all: ... unless this says so, as AdapterTune's code does.
        epsilon: of AdamW.
        classes_per_batch: P; fewer if the task has fewer.
        source_per_class, target_per_class: images of each drawn class; target ones are drawn with
            replacement.
        target_weight: w in  w CE(target) + (1 - w) CE(source).
        class_weight: ``none``, every image weighs alike; or ``balanced``, an image of class c weighs n / (K n_c), as in
            scikit-learn: for shuffled batches (``batch_size``) and heads that are solved. Batches without a ``batch_size``
            draw all classes alike already.
        align_source: move source vectors onto the mean of the target's before they are trained on.
        label_smoothing: of the cross-entropy.
        clip: largest norm of the gradient; 0 for none.
        average_mean, average_sd: keep the average of the weights after each epoch e = 1 .. T, weighted
            by the density of N(mean, sd^2) at e (PromptSRC); mean 0 keeps the last.
        average_decay: d of an exponential moving average of the weights, updated after every step; 0 keeps
            none.
        average_from, average_rise: d rises from the one to ``average_decay`` in this first share of the steps.
        average_window: m of the mean of the weights after the last steps, whose number grows by a cosine from m to all; 0
            keeps none.
        average_as: ``result``, that average takes the place of the weights in the end; or ``teacher``, it only
            gives targets to losses that ask for a teacher.
        step_rule: how an optimiser step uses gradients: ``plain``, ``sam``, or a registered one.
        step_rule_settings: numbers that the rule takes, e.g. ``rho=0.05``.
        mixup, cutmix: a of Beta(a, a), the shares of two images in a mixed one; 0 for none.
        select: ``last`` step, or the ``best`` by log-loss on images held back from the training images ...
        held_back: ... this share of each class of the target; and then
        patience: end after so many of 20 judgements without a better one; 0 never ends early.
        views: stored random views of every training image; 0 trains on the evaluation view alone.
        augmentation: name of the random view's recipe.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FINITE

    train_on: TrainOn = "joint"
    steps: NonNegativeInt = 3000
    epochs: NonNegativeFloat = 0.0
    min_steps: NonNegativeInt = 0
    max_steps: NonNegativeInt = 0
    batch_size: NonNegativeInt = 0
    drop_last: bool = False
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: UnitInterval = 0.9
    schedule: Literal["steps", "linear", "epochs"] = "steps"
    warmup: UnitInterval = 0.1
    lr: NonNegativeFloat = 1e-3
    head_lr: NonNegativeFloat = 1.0
    layer_decay: UnitInterval = 1.0
    weight_decay: NonNegativeFloat = 1e-4
    decay_all: bool = False
    epsilon: NonNegativeFloat = 1e-8
    classes_per_batch: PositiveInt = 16
    source_per_class: PositiveInt = 8
    target_per_class: PositiveInt = 4
    target_weight: UnitInterval = 0.5
    class_weight: Literal["none", "balanced"] = "none"
    align_source: bool = False
    label_smoothing: UnitInterval = 0.0
    clip: NonNegativeFloat = 0.0
    average_mean: NonNegativeFloat = 0.0
    average_sd: PositiveFloat = 1.0
    average_decay: Decay = 0.0
    average_from: UnitInterval = 0.0
    average_rise: UnitInterval = 0.0
    average_window: NonNegativeInt = 0
    average_as: Literal["result", "teacher"] = "result"
    step_rule: str = "plain"
    step_rule_settings: Annotated[dict[str, float], BeforeValidator(numbers)] = field(
        default_factory=dict, hash=False
    )
    mixup: NonNegativeFloat = 0.0
    cutmix: NonNegativeFloat = 0.0
    select: Literal["last", "best"] = "last"
    held_back: ProperFraction = 0.2
    patience: NonNegativeInt = 0
    views: NonNegativeInt = 4
    augmentation: str = "default"

    def __post_init__(self) -> None:
        averages = [
            n for n in ("average_mean", "average_decay", "average_window") if getattr(self, n)
        ]
        if len(averages) > 1:
            raise ConfigError(
                f"{' and '.join(averages)} are {len(averages)} averages of the weights, and a run keeps one: set "
                f"{averages[0] if len(averages) == 2 else 'all but one'} to 0."
            )
        if self.average_rise and not self.average_decay:
            raise ConfigError(
                f"average_rise={self.average_rise:g} is of a moving average: set average_decay, or average_rise=0."
            )
        if self.patience and self.select == "last":
            raise ConfigError(
                f"patience={self.patience} ends a training whose best step is kept: set select=best, or patience=0."
            )
        if self.max_steps and self.min_steps > self.max_steps:
            raise ConfigError(
                f"min_steps={self.min_steps} is more than max_steps={self.max_steps}: lower it, or set max_steps=0."
            )
        counts_epochs = self.schedule == "epochs" or self.average_mean
        whole = self.epochs >= 1 and self.epochs == int(self.epochs) and self.batch_size
        if counts_epochs and not whole:
            raise ConfigError(
                "schedule=epochs and average_mean count whole epochs of shuffled batches: set epochs "
                f"(now {self.epochs:g}) and batch_size (now {self.batch_size}), or schedule=steps and "
                "average_mean=0."
            )
        if counts_epochs and (self.min_steps or self.max_steps):
            raise ConfigError(
                f"schedule=epochs and average_mean count {self.epochs:g} epochs, and min_steps={self.min_steps} or "
                f"max_steps={self.max_steps} would end the training before or after them: set min_steps=0 and max_steps=0."
            )

    def images_per_step(self, classes: int) -> int:
        """Images of a whole batch, with both domains present."""
        a_class = self.source_per_class + self.target_per_class
        return self.batch_size or min(self.classes_per_batch, classes) * a_class

    def resolved(self, images: int, classes: int) -> Recipe:
        """The recipe with its length in steps, for so many training images and classes."""
        if not self.epochs:
            return self
        return replace(self, steps=self.length(self.a_pass(images, classes)))

    def length(self, a_pass: float) -> int:
        """Optimiser steps of a training whose pass takes so many."""
        if not self.epochs:
            return self.steps
        steps = max(1, self.min_steps, ceil(self.epochs * a_pass))
        return min(steps, self.max_steps or steps)

    def a_pass(self, images: int, classes: int) -> float:
        """Steps of one pass over so many images."""
        steps = images / min(images, self.images_per_step(classes))
        if not self.batch_size:
            return steps
        # A shuffled pass ends with what is left, or without it.
        return floor(steps) if self.drop_last else ceil(steps)


INSIDE_BLOCKS = {
    "epochs": 30,
    "min_steps": 200,
    "max_steps": 3000,
    "source_per_class": 2,
    "target_per_class": 2,
}
"""Length and batches of methods that train inside the backbone, where every image of every step passes through it:
passes over the images, bounded so that few images still get a training and many no endless one. Papers count in epochs
too: AdapterTune 50 (Khazem, 2026), SSF, AdaptFormer and VPT 100 on sets of thousands of images."""
AS_MANY_STEPS = {
    "epochs": 0.0,
    "min_steps": 0,
    "max_steps": 0,
    "source_per_class": 8,
    "target_per_class": 4,
}
"""The training of the heads behind the backbone, which rows inside it had in CLS-Residual LoRA's tables (``recipe=paper``)."""

PROMPT_LEARNING: dict[str, Any] = {
    "optimizer": "sgd",
    "schedule": "epochs",
    "lr": 2e-3,
    "weight_decay": 5e-4,
    "decay_all": True,
    "batch_size": 32,
    "drop_last": True,
    "train_on": "target",
    "augmentation": "crops",
}
"""What all prompt learners inherit from Dassl, the code base of CoOp (Zhou et al., IJCV 2022): SGD with momentum 0.9, decay
on everything, a rate by epoch. Views are stored, so that crops repeat after ``views`` of them."""

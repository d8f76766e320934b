"""A method on a tiny image backbone: built, trained for a few steps, saved. What the clauses look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES
from petiole.data.dataset import Dataset, Sample
from petiole.engine.feature_table import Table
from petiole.engine.trainer import Callbacks
from petiole.engine.weight_average import make_average, teach
from petiole.methods.base import Method
from petiole.methods.registry import create, settings_of
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import ANCHOR, AdaptedClassifier, ClassificationLoss
from petiole.tasks.classification.training import labels_of, train
from petiole.testing.contract import require_close
from petiole.testing.random_weights import images as noise
from petiole.testing.random_weights import seeded

CLASSES = ("ash", "birch", "cedar")
STEPS = 4
RECIPE = {
    "steps": STEPS,
    "warmup": 0.0,
    "lr": 1e-2,
    "weight_decay": 0.0,  # so that what gets no gradient stays where it is
    "classes_per_batch": 3,
    "source_per_class": 2,
    "target_per_class": 2,
    "views": 0,
}
SMALL = {"iterations": 30, "population": 3, "rounds": 2}
"""Of a head or a supernet that is searched, where the method has such a setting."""


def dataset(source: int = 3, target: int = 3) -> Dataset:
    """Three classes, both domains; the images are made by ``Memory``."""
    samples = [
        Sample(Path(f"{domain}-{label}-{i}.png"), label, f"{label}{domain}{i}", domain)  # type: ignore[arg-type]
        for label in range(len(CLASSES))
        for domain, n in (("source", source), ("target", target))
        for i in range(n)
    ]
    return Dataset("made up", CLASSES, tuple(samples))


class Memory(Table):
    """Images in memory, computed up to ``cut`` when asked (``stored``: once, in advance)."""

    def __init__(
        self,
        adapted: AdaptedClassifier,
        cut: tuple[str, ...] = (),
        *,
        stored: bool,
        count: int = 18,
    ) -> None:
        self.backbone, self.cut = adapted.backbone, cut or adapted.training_cut
        self.images = noise(self.backbone, count, seed=5)
        self.stored = self.backbone.lower(self.images, self.cut) if stored else None
        anchors = adapted.plan.anchors
        bare = self.backbone.lower(self.images, anchors) if anchors else {}
        self.anchors = {ANCHOR + role: value for role, value in bare.items()}

    def fetch(self, rows: Tensor, views: Tensor) -> State:  # noqa: ARG002 - one view
        """Values at the cut of these images, and of the roles that losses compare with."""
        anchors = {role: value[rows] for role, value in self.anchors.items()}
        if self.stored is not None:
            return anchors | {role: value[rows] for role, value in self.stored.items()}
        return anchors | self.backbone.lower(self.images[rows], self.cut)


@dataclass
class ImageCase:
    """One method on one fresh backbone.

    Attributes:
        name: of the method, as it is registered.
        backbone: frozen; whatever is done here, it must stay as it is.
        folder: to write an adapter to.
        settings: of the method, beside those of a short training.
    """

    name: str
    backbone: Backbone
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def method(self) -> Method:
        """The method with a short training."""
        has = settings_of(create(self.name, self.settings))
        small = {key: value for key, value in SMALL.items() if key in has}
        return create(self.name, {**RECIPE, **small, **self.settings})

    @cached_property
    def images(self) -> Tensor:
        """Three of noise, preprocessed."""
        return noise(self.backbone)

    def adapted(self, seed: int = 0, *, checkpoint: bool = False) -> AdaptedClassifier:
        """Freshly initialised."""
        with seeded(seed):
            plan = self.method.plan(self.backbone, len(CLASSES))
            adapted = AdaptedClassifier(self.backbone, plan, checkpoint=checkpoint)
        adapted.name(CLASSES)
        return adapted

    @cached_property
    def trained(self) -> AdaptedClassifier:
        """After a few steps on stored values."""
        return self.train()

    @cached_property
    def saved(self) -> ClassificationAdapter:
        """``trained``, written to ``folder``."""
        adapter = ClassificationAdapter.of(
            self.trained,
            method=self.name,
            settings=settings_of(self.method),
            classes=CLASSES,
        )
        adapter.save(self.folder)
        return adapter

    def train(
        self, seed: int = 0, *, at: tuple[str, ...] = (), stored: bool = True
    ) -> AdaptedClassifier:
        """A new one after a few steps; ``at`` is the cut where the table lies, by default the plan's own."""
        adapted = self.adapted(seed)
        table = Memory(adapted, at, stored=stored)
        train(
            adapted,
            dataset(),
            table,
            self.method.recipe,
            seed=seed,
            callbacks=Callbacks(quiet=True),
        )
        return adapted

    def logits(self, adapted: AdaptedClassifier) -> Tensor:
        """In evaluation mode, of the pair's images."""
        adapted.eval()
        with torch.no_grad():
            logits: Tensor = adapted({IMAGES: self.images}).logits
        return logits

    @cached_property
    def bare(self) -> State:
        """Every final role of the backbone before anything was on it."""
        return self.backbone.lower(self.images, self.backbone.finals)


def backward(case: ImageCase, adapted: AdaptedClassifier) -> None:
    """Gradients of the whole loss on all images, dropout seeded."""
    labels, is_target = labels_of(dataset())
    state = Memory(adapted, stored=True).fetch(torch.arange(18), torch.zeros(18))
    recipe = case.method.recipe
    loss_module = ClassificationLoss(adapted, recipe.target_weight, recipe.label_smoothing).train()
    if average := make_average(loss_module, recipe, a_pass=1):
        average.begin()
        teach(loss_module, average)
    with seeded(7), adapted.attached():
        loss_module(state, labels, is_target).backward()


def descends(adapted: AdaptedClassifier) -> bool:
    """Whether anything is trained by gradients."""
    return any(p.requires_grad for p in adapted.parameters())


def losses(adapted: AdaptedClassifier) -> nn.ModuleList:
    """The plan's extra losses, whose parameters are trained and then dropped."""
    return nn.ModuleList(adapted.plan.losses)


def cuts_below(backbone: Backbone, highest: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every cut from the images up to ``highest``."""
    inside: list[tuple[str, ...]] = [(cut,) for cut in (IMAGES, *backbone.cuts)]
    return inside[: inside.index(highest) + 1] if highest in inside else [*inside, highest]


def require_same_tensors(one: AdaptedClassifier, two: AdaptedClassifier, tolerance: float) -> None:
    """Raise Unmet unless all tensors of two trained models agree."""
    other = two.state_dict()
    for name, value in one.state_dict().items():
        require_close(other[name], value, tolerance, f"values of {name}")

"""Labelled images of one or two domains and a backbone: what is opened, and both of them opened."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load_backbone
from petiole.data.checks.leaks import LeakReport, find_leaks
from petiole.data.dataset import Dataset, Sample
from petiole.data.label_safe import stated_augmentation
from petiole.data.preprocessing import Augmentation, augmentation
from petiole.data.sources import DomainShift, Part, open_shift
from petiole.data.splits import draw_fraction, holdout
from petiole.device import Precision
from petiole.engine.feature_extractor import Features, views_of
from petiole.engine.feature_store import FeatureCache
from petiole.engine.feature_table import JoinedTable, Table
from petiole.engine.share import WHOLE, Share
from petiole.engine.task import Task, TaskRun, Workspace, open_workspace
from petiole.engine.thumbnail_store import store_thumbnails, stored_thumbnails
from petiole.files import text_digest
from petiole.methods.base import Method, Plan
from petiole.methods.recipe import Recipe
from petiole.methods.registry import configure, create
from petiole.tasks.classification.distillation_targets import distillation_targets
from petiole.tasks.classification.model import ANCHOR, AdaptedClassifier

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec


@dataclass(frozen=True)
class Classification(Task["ClassificationWorkspace"]):
    """Images with labels, and a backbone.

    Attributes:
        backbone: name for ``petiole.load``.
        images: target images, or a root with synthetic/, real_train/, real_eval/; or images in memory.
        source: source images, where they lie elsewhere.
        test: held-back target images, where they lie elsewhere.
        test_fraction: held back by content where the layout states no test part.
        part: all classes, or the base or novel half of them.
        weights, image_size, quantize, device: of the backbone.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        checkpointing: recompute activations in the backward pass instead of keeping them.
        compiled: train through ``torch.compile``.
        dtype: in which features are stored.
        cache: folder of the feature cache; ``None`` for none.
        skip_bad: leave unreadable images out and count them.
    """

    kind: ClassVar[str] = "classification"

    backbone: str
    images: Path | Dataset
    source: Path | Dataset | None = None
    test: Path | Dataset | None = None
    test_fraction: float = 0.5
    part: Part = "all"
    weights: Path | None = None
    image_size: int | None = None
    quantize: str | None = None
    device: str = "cpu"
    precision: Precision = "fp32"
    checkpointing: bool = False
    compiled: bool = False
    dtype: str = "float32"
    cache: Path | None = None
    skip_bad: bool = False

    def open(self) -> ClassificationWorkspace:
        return ClassificationWorkspace(self)

    def data_digest(self) -> str:
        shift = open_workspace(self).shift
        parts = [part.digest() for part in (shift.source, shift.train, shift.test) if part]
        return text_digest("".join(parts))


VALIDATION_SEED = 0
"""Of the held-back split: one for all runs, whatever their own seeds."""


@dataclass(frozen=True)
class Subset:
    """Which of the target's training images a run gets, and what it is scored on.

    Attributes:
        shots: images drawn from each class; ``None`` for all.
        split_seed: of the subset.
        fraction: share of each class that is left; smaller fractions are part of larger ones.
        validation: above 0, this share of the training images is held back and scored instead of
            the test set, which stays closed. The images are the same for every fraction and, unless
            shots are drawn, for every seed; with shots they are among the shots, because these are
            all the labels that there are.
        fold: which of these shares is held back; 0 but for tuning.
        vectors: keep image vectors before and after, for the diagnosis.
        calibration_folds: parts of the target images that are left out in turn, for the adapter's calibration; 0 for none;
            ``None`` for five where that needs no further training, else none.
    """

    shots: int | None = 10
    split_seed: int = 0
    fraction: float = 1.0
    validation: float = 0.0
    fold: int = 0
    vectors: bool = False
    calibration_folds: int | None = 0

    @property
    def scored(self) -> str:
        """What the images are called that a run is scored on."""
        return "validation" if self.validation else "test"


class ClassificationWorkspace(Workspace):
    """Both of them opened; files are read and features computed when they are asked for."""

    task: Classification

    def __init__(self, task: Classification) -> None:
        self.task = task
        self.feature_seconds = 0.0
        self._leaks: dict[str, LeakReport] = {}

    def method_of(self, spec: RunSpec) -> Method:
        """The run's method; its views are those that keep the data's labels, unless the run itself names some."""
        method = create(spec.method, spec.settings)
        stated = stated_augmentation(self.task.images)
        if not stated or not method.recipe.views or "augmentation" in spec.settings:
            return method
        views = 0 if augmentation(stated).identity else method.recipe.views
        return configure(method, {"augmentation": stated, "views": views}, spec.method)

    def prepare(self, spec: RunSpec) -> TaskRun:
        from petiole.tasks.classification.task import ClassificationRun

        return ClassificationRun(self, spec)

    def store(self, specs: Sequence[RunSpec], share: Share = WHOLE) -> None:
        if self.task.cache is None:
            return
        needs: dict[tuple[tuple[str, ...], int, Augmentation], dict[str, Sample]] = {}
        for spec in specs:
            for data, cut, recipe in self._needs(spec):
                images = needs.setdefault((cut, *views_of(recipe)), {})
                images.update((sample.id, sample) for sample in data.samples)
        for (cut, views, augmented), images in sorted(needs.items(), key=lambda n: -n[0][1]):
            self.features.store(images.values(), cut, views, augmented, share=share)
        compared = {
            sample.id: sample
            for spec in specs
            for part in self.parts(spec.options or Subset())
            for sample in part.samples
            if sample.domain == "target"
        }
        if cache := self.features.cache:  # of the leak check
            store_thumbnails(cache, compared.values(), share=share, quiet=self.task.quiet)

    def _needs(self, spec: RunSpec) -> Iterator[tuple[Dataset, tuple[str, ...], Recipe | None]]:
        """The images, cuts and views that a run reads; those of a teacher aside, which the run itself stores."""
        subset, recipe, plan = (
            spec.options or Subset(),
            self.method_of(spec).recipe,
            self.plan_of(spec),
        )
        data, scored = self.parts(subset)
        shown, vector = plan.cut(self.shape), (self.shape.vector,)
        yield data, plan.cut(self.shape, training=True), recipe
        if plan.anchors:
            yield data, plan.anchors, recipe
        for part in (data, scored):  # kNN, the leak check and the diagnosis read vectors
            yield part, vector, None
        yield scored, shown, None
        if subset.vectors and self.shift.source:
            yield self.shift.source, shown, None

    def describe(self, specs: Sequence[RunSpec]) -> list[str]:
        from petiole.tasks.classification.cost_estimate import describe

        return describe(self, specs)

    @cached_property
    def backbone(self) -> Backbone:
        """The frozen model."""
        b = self.task
        return load_backbone(
            b.backbone,
            weights=b.weights,
            image_size=b.image_size,
            quantize=b.quantize,
            device=b.device,
        )

    @cached_property
    def shape(self) -> Backbone:
        """The same network without its weights: what is counted on it costs nothing."""
        b = self.task
        return load_backbone(b.backbone, weights=b.weights, image_size=b.image_size, device="meta")

    def plan_of(self, spec: RunSpec) -> Plan:
        """What a run attaches to the network, to count or to cut it by: without weights."""
        shape, method = self.shape, self.method_of(spec)
        with torch.device("meta"), torch.random.fork_rng():
            return method.plan(shape, len(self.shift.classes))

    @cached_property
    def shift(self) -> DomainShift:
        """Source, pool of shots, and test."""
        b = self.task
        whole = open_shift(
            b.images, b.source, test=b.test, test_fraction=b.test_fraction, skip_bad=b.skip_bad
        )
        return whole.half(b.part)

    @cached_property
    def features(self) -> Features:
        """The frozen half, with its cache."""
        b = self.task
        cache = FeatureCache(b.cache) if b.cache else None
        return Features(self.backbone, cache, b.precision, b.dtype, b.quiet)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was left out of the data."""
        parts = [p for p in (self.shift.source, self.shift.train, self.shift.test) if p is not None]
        return tuple(dict.fromkeys(note for part in parts for note in part.notes))

    def notes_with(self, subset: Subset) -> tuple[str, ...]:
        """The same, and what a draw of the training images says."""
        drawn = self.parts(subset)[0].notes
        return tuple(dict.fromkeys((*self.notes, *drawn)))

    def leaks(self, data: Dataset, scored: Dataset) -> LeakReport:
        """Suspicious pairs between the target images of a training set and those scored.

        Image vectors are compared where the cache keeps them, and thumbnails are kept beside them; they are computed once in
        any case.
        """
        target = data.select(np.array([domain == "target" for domain in data.domains]))
        key = target.digest() + scored.digest()
        if key not in self._leaks:
            quiet, vectors, thumbnails = self.task.quiet, None, None
            if cache := self.features.cache:
                self._store_vectors(target, scored)
                vectors = self.vectors(target), self.vectors(scored)
                thumbnails = (
                    stored_thumbnails(cache, target, quiet=quiet),
                    stored_thumbnails(cache, scored, quiet=quiet),
                )
            self._leaks[key] = find_leaks(
                target, scored, features=vectors, thumbnails=thumbnails, quiet=quiet
            )
        return self._leaks[key]

    def _store_vectors(self, *parts: Dataset) -> None:
        """What ``vectors`` reads of all of them, computed together: one chunk at most is filled up, not one for each."""
        start = time.perf_counter()
        samples = [sample for part in parts for sample in part.samples]
        self.features.store(samples, (self.backbone.vector,))
        self.feature_seconds += time.perf_counter() - start

    def vectors(self, data: Dataset) -> NDArray[np.float32]:
        """Image vectors (n, d) of the frozen backbone, in the evaluation view."""
        role = self.backbone.vector
        states = self.table(data, (role,)).batches(len(data))
        return np.concatenate([state[role].float().cpu().numpy() for state in states])

    def parts(self, subset: Subset) -> tuple[Dataset, Dataset]:
        """Training images (source and target in one data set) and those that will be scored."""
        target, scored = self.shift.train, self.shift.test
        if subset.shots is not None:
            target = self.shift.draw(subset.shots, subset.split_seed)
        if subset.validation:
            target, scored = holdout(target, subset.validation, VALIDATION_SEED, subset.fold)
        if subset.fraction != 1.0:
            target = draw_fraction(target, subset.fraction, subset.split_seed)
        source = self.shift.source
        return (target if source is None else source.concat(target)), scored

    def table(self, data: Dataset, cut: tuple[str, ...], recipe: Recipe | None = None) -> Table:
        """Values of ``data`` at ``cut``: evaluation view, and the recipe's random ones."""
        return self._timed(lambda: self.features.table(data, cut, *views_of(recipe)))

    def training_table(self, adapted: AdaptedClassifier, data: Dataset, recipe: Recipe) -> Table:
        """What training reads: values at its cut, and the anchors of its losses."""
        plan, parts = adapted.plan, [("", self.table(data, adapted.training_cut, recipe))]
        if plan.anchors:
            parts.append((ANCHOR, self.table(data, plan.anchors, recipe)))
        if plan.teacher:
            taught = self._timed(lambda: distillation_targets(self.features, adapted, data, recipe))
            parts.append((ANCHOR, taught))
        return JoinedTable(parts)

    def _timed(self, make: Callable[[], Table]) -> Table:
        start = time.perf_counter()
        table = make()
        self.feature_seconds += time.perf_counter() - start
        return table

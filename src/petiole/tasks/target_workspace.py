"""Images whose targets are several labels, or numbers: what is opened, and both of them opened."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from petiole.data.sources import DomainShift
from petiole.data.splits import holdout
from petiole.data.targets import TargetImages, open_targets
from petiole.engine.run import RunSpec
from petiole.engine.task import open_workspace
from petiole.errors import DataError
from petiole.files import text_digest
from petiole.methods.registry import create
from petiole.tasks.classification.workspace import Classification, ClassificationWorkspace

if TYPE_CHECKING:
    from petiole.engine.task import TaskRun


@dataclass(frozen=True)
class TargetTask(Classification):
    """Images and their targets, and a backbone; fields are those of ``Classification``, without part."""

    column: ClassVar[str]

    def open(self) -> TargetWorkspace:
        return TargetWorkspace(self)

    def data_digest(self) -> str:
        workspace = cast(TargetWorkspace, open_workspace(self))
        return text_digest("".join(part.digest() for _, part in sorted(workspace.targets.items())))

    @abstractmethod
    def parts(self, data: Any) -> dict[str, TargetImages]:
        """Open ``train``, and where there are some ``test`` and ``source``; raises DataError."""

    @staticmethod
    @abstractmethod
    def names(parts: Sequence[TargetImages]) -> tuple[str, ...]:
        """Names of the outputs."""

    @staticmethod
    def notes(part: TargetImages, names: Sequence[str]) -> tuple[str, ...]:  # noqa: ARG004
        """What of a test part is not scored."""
        return ()

    @classmethod
    @abstractmethod
    def run(cls, workspace: TargetWorkspace, spec: RunSpec) -> TaskRun:
        """One run of this kind."""


class VectorTask(TargetTask):
    """Images of a table with a vector of targets each."""

    @staticmethod
    @abstractmethod
    def text(said: str, where: str) -> str:
        """A cell in the one form of what it says; raises DataError."""

    @staticmethod
    @abstractmethod
    def matrix(part: TargetImages, names: Sequence[str]) -> NDArray[np.float64]:
        """Targets (n, K) of the images of a part."""

    def parts(self, data: Any) -> dict[str, TargetImages]:
        return open_targets(_source(data), self.column, self.text, skip_bad=self.skip_bad)


class TargetWorkspace(ClassificationWorkspace):
    """Both of them opened."""

    task: TargetTask

    @cached_property
    def targets(self) -> dict[str, TargetImages]:
        """What is said of the images of ``train``, ``test`` and, where there is one, ``source``."""
        task = self.task
        parts = task.parts(task.images)
        if task.test is not None:
            other = task.parts(task.test)
            parts["test"] = other.get("test") or other["train"]
        if task.source is not None:
            other = task.parts(task.source)
            source = other.get("train") or other["source"]
            parts["source"] = replace(source, images=source.images.with_domain("source"))
        if "train" not in parts:
            raise DataError(f"{task.images}: no rows to train on; mark some with split train.")
        if "test" not in parts:
            whole = parts["train"]
            kept, held = holdout(whole.images, task.test_fraction, 0)
            parts |= {"train": whole.select(kept), "test": whole.select(held)}
        return parts

    @cached_property
    def learned(self) -> TargetImages:
        """What is said of all images that may be trained on, of both domains."""
        train, source = self.targets["train"], self.targets.get("source")
        return train.joined(source) if source else train

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the outputs, by the training images."""
        return self.task.names([self.learned])

    @cached_property
    def shift(self) -> DomainShift:
        train, test = (self.targets[part] for part in ("train", "test"))
        notes = (*test.images.notes, *self.task.notes(test, self.names))
        source = self.targets.get("source")
        return DomainShift(
            source.images if source else None, train.images, replace(test.images, notes=notes)
        )

    def prepare(self, spec: RunSpec) -> TaskRun:
        return self.task.run(self, spec)

    def describe(self, specs: Sequence[RunSpec]) -> list[str]:
        recipe = create(specs[0].method, specs[0].settings).recipe
        length = f"{recipe.epochs:g} passes" if recipe.epochs else f"{recipe.steps} steps at most"
        return [
            f"data     {self._drawn(specs)}, {len(self.shift.test):,} held back, targets: "
            f"{', '.join(self.names[:8])}{', ...' if len(self.names) > 8 else ''}",
            *(f"note     {note}" for note in self.notes),
            f"training {len(specs)} x {specs[0].method} on {self.backbone.name}, solved or {length}",
        ]

    def _drawn(self, specs: Sequence[RunSpec]) -> str:
        shots = specs[0].options.shots if specs[0].options else None
        source, own = self.shift.source, f"{len(self.shift.train):,} images to train on"
        own = f"{shots:,} of {own}" if shots else own
        return own + (f" with {len(source):,} of the source domain" if source else "")


def _source(data: Any) -> Any:
    return data.pairs if isinstance(data, Pairs) else data


@dataclass(frozen=True, eq=False)
class Pairs:
    """(image, labels or number) pairs in memory; one that is itself alone equal."""

    pairs: Sequence[tuple[object, object]]

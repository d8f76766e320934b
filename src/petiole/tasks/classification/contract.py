"""Unit tests of an adapter: a contract in TOML, each line of which passes or fails with its value and bound.

    [accuracy]                  # any of these tables, or none
    min = 0.8
    [ece]
    max = 0.1
    [[recall]]
    class = "cat"
    min = 0.9
    slice = "night/*"           # of the paths below the folder of images; without it all images
    [[corruption]]
    name = "defocus_blur"       # or any other of ``petiole.data.corruptions``
    severity = 3                # 1 to 5
    max_drop = 0.1              # of accuracy
    [zero_shot]                 # where the head is made of class names
    images = "novel/"           # class folders that the adapter was not trained on
    max_drop = 0.02             # below the backbone's own zero-shot accuracy
    [ood]
    images = "other/"           # images of none of the classes
    min_auroc = 0.8

Folders in a contract start at its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field, ValidationError
from torch import Tensor

from petiole.data.corruptions import corruption
from petiole.data.dataset import Dataset
from petiole.data.inputs import as_dataset, as_images
from petiole.engine.model_card import FrozenModel
from petiole.errors import ConfigError, DataError, boundary, unknown
from petiole.methods.registry import create
from petiole.metrics.classification import score
from petiole.printable import composed
from petiole.tasks.classification.adapter import ClassificationAdapter, logits_of, outputs_of
from petiole.tasks.classification.model import AdaptedClassifier, ClassNameHead, Predictions

Share = Field(ge=0, le=1)


class AccuracyClause(FrozenModel):
    """At least so many are right."""

    min: float = Share


class EceClause(FrozenModel):
    """The calibration error of the adapter's probabilities is at most so large."""

    max: float = Share


class RecallClause(FrozenModel):
    """Of the images of a class, on a slice or on all, at least so many are found."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    name: Annotated[str, AfterValidator(composed)] = Field(alias="class")
    min: float = Share
    slice: str = "*"


class CorruptionClause(FrozenModel):
    """Accuracy falls by at most so much under a corruption, of severity 1 to 5."""

    name: str
    severity: int = 3
    max_drop: float = Share


class ZeroShotClause(FrozenModel):
    """On classes of other names, accuracy is at most so much below the bare backbone's."""

    images: Path
    max_drop: float = Share


class OodClause(FrozenModel):
    """What the adapter marks by tells images of none of the classes from those of the classes so well."""

    images: Path
    min_auroc: float = Share


class Contract(FrozenModel):
    """What an adapter must hold."""

    accuracy: AccuracyClause | None = None
    ece: EceClause | None = None
    recall: list[RecallClause] = Field(default_factory=list)
    corruption: list[CorruptionClause] = Field(default_factory=list)
    zero_shot: ZeroShotClause | None = None
    ood: OodClause | None = None


class Line(FrozenModel):
    """One line of a contract, measured.

    Attributes:
        name: what was measured.
        value: what was found.
        bound: what was allowed.
        at_least: whether the value must be at least the bound, else at most.
        images: measured on.
    """

    name: str
    value: float
    bound: float
    at_least: bool
    images: int

    @property
    def ok(self) -> bool:
        """Whether it holds; rounding of the last digits breaks nothing."""
        over = self.value - self.bound
        return (over if self.at_least else -over) >= -1e-9


def read_contract(file: Path) -> Contract:
    """Read a contract.

    Raises:
        ConfigError: no file, no TOML, nothing in it, or a key or value that no contract has; the place is named.
    """
    with boundary(file, "Correct it there.", ConfigError, what="cannot be read as TOML"):
        value = tomllib.loads(file.read_text(encoding="utf-8"))
    try:
        contract = Contract.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"{file}: {_slip(error)}") from error
    if contract == Contract():
        raise ConfigError(
            f"{file} asks for nothing. Give it at least one of {', '.join(Contract.model_fields)}, e.g. [accuracy] with min = 0.8."
        )
    folders = {
        name: clause.model_copy(update={"images": file.parent / clause.images})
        for name in ("zero_shot", "ood")
        if (clause := getattr(contract, name))
    }
    return contract.model_copy(update=folders)


def _slip(error: ValidationError) -> str:
    """The first slip, with its place and what is known there; an unknown key before one that is missing, which it may stand for."""
    slip = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    *place, last = [str(part) for part in slip["loc"]]
    if slip["type"] == "missing":
        return f"{'.'.join(place)} needs {last}."
    if slip["type"] != "extra_forbidden":
        return f"{'.'.join([*place, last])}: {slip['msg']}, not {slip['input']!r}."
    tables: dict[str, type[FrozenModel]] = {
        "accuracy": AccuracyClause,
        "ece": EceClause,
        "recall": RecallClause,
        "corruption": CorruptionClause,
        "zero_shot": ZeroShotClause,
        "ood": OodClause,
    }
    model = tables[place[0]] if place else Contract
    keys = [known.alias or name for name, known in model.model_fields.items()]
    where = f"key in [{place[0]}]" if place else "table of a contract"
    return str(unknown(where, last, keys))


class ContractTest:
    """Measures an adapter against a contract, a line at a time.

    Args:
        adapter: opened.
        contract: what it must hold.
        data: labelled images.
        root: folder that slices start at; ``None`` for images without one.
    """

    def __init__(
        self, adapter: ClassificationAdapter, contract: Contract, data: Dataset, root: Path | None
    ) -> None:
        self.adapter, self.contract, self.data, self.root = adapter, contract, data, root
        for clause in contract.recall:
            if clause.name not in data.classes:
                raise unknown("class in [[recall]]", clause.name, data.classes)
        for corrupted in contract.corruption:
            corruption(corrupted.name, corrupted.severity)
        if contract.zero_shot and not isinstance(adapter.adapted.head, ClassNameHead):
            raise ConfigError(
                f"[zero_shot] is for heads that are made of class names, and {adapter.manifest.method} has a fixed set of "
                "classes. Take the table out of the contract."
            )

    def lines(self) -> Iterator[Line]:
        """Every line, in the contract's order.

        Raises:
            DataError: images that cannot be read, or a slice without images of its class.
        """
        contract, n = self.contract, len(self.data)
        if contract.accuracy:
            yield _at_least("accuracy", self._accuracy, contract.accuracy.min, n)
        if contract.ece:
            yield _at_most("ECE", self._ece(), contract.ece.max, n)
        yield from map(self._recall, contract.recall)
        for clause in contract.corruption:
            change = corruption(clause.name, clause.severity)
            logits = logits_of(self.adapter.adapted, self.data.samples, change=change)
            drop = self._accuracy - _share(logits, self.data.labels)
            yield _at_most(f"drop under {clause.name}", drop, clause.max_drop, n)
        if contract.zero_shot:
            yield self._zero_shot(contract.zero_shot)
        if contract.ood:
            yield self._ood(contract.ood)

    @cached_property
    def _outputs(self) -> Predictions:
        return outputs_of(self.adapter.adapted, self.data.samples)

    @property
    def _logits(self) -> Tensor:
        return self._outputs.logits

    @cached_property
    def _accuracy(self) -> float:
        return _share(self._logits, self.data.labels)

    def _ece(self) -> float:
        p = self.adapter.probabilities(self._logits)
        return score(p.double().numpy(), self.data.labels).ece

    def _recall(self, clause: RecallClause) -> Line:
        of_class = self.data.labels == self.data.classes.index(clause.name)
        inside = np.array([fnmatch(self._place(path), clause.slice) for path in self.data.paths])
        rows = np.flatnonzero(of_class & inside)
        if not of_class.any():
            raise DataError(
                f"[[recall]] is of class {clause.name}, of which {self.data.name} has no image. Give images of it, or take the "
                "table out of the contract."
            )
        if not len(rows):
            raise DataError(
                f"No image of class {clause.name} matches the slice {clause.slice!r}; paths look like "
                f"{self._place(self.data.paths[int(of_class.argmax())])!r}."
            )
        where = "" if clause.slice == "*" else f" on {clause.slice}"
        value = _share(self._logits[rows], self.data.labels[rows])
        return _at_least(f"recall of {clause.name}{where}", value, clause.min, len(rows))

    def _place(self, path: Path) -> str:
        inside = self.root is not None and path.is_relative_to(self.root)
        return (path.relative_to(self.root) if inside and self.root else path).as_posix()

    def _zero_shot(self, clause: ZeroShotClause) -> Line:
        """Both models get the other class names; the adapter's own come back afterwards."""
        adapted, novel = self.adapter.adapted, as_dataset(clause.images)
        plan = create("zero-shot").plan(adapted.backbone, len(novel.classes))
        bare = AdaptedClassifier(adapted.backbone, plan).to(adapted.backbone.device)
        shares = []
        for model in (bare, adapted):
            model.name(novel.classes)
            shares.append(_share(logits_of(model, novel.samples), novel.labels))
        adapted.name(self.adapter.classes)
        name = f"drop from zero-shot on {clause.images.name}"
        return _at_most(name, shares[0] - shares[1], clause.max_drop, len(novel))

    def _ood(self, clause: OodClause) -> Line:
        from sklearn.metrics import roc_auc_score

        others = outputs_of(self.adapter.adapted, as_images(clause.images))
        confidence = np.concatenate([self.adapter.familiarity(z) for z in (self._outputs, others)])
        inside = np.arange(len(confidence)) < len(self.data)
        value = float(roc_auc_score(inside, confidence))
        name = f"AUROC against {clause.images.name}"
        return _at_least(name, value, clause.min_auroc, len(confidence))


def _share(logits: Tensor, labels: NDArray[np.int64]) -> float:
    return float((logits.argmax(-1).numpy() == labels).mean())


def _line(at_least: bool) -> Callable[[str, float, float, int], Line]:
    def make(name: str, value: float, bound: float, images: int) -> Line:
        return Line(name=name, value=value, bound=bound, at_least=at_least, images=images)

    return make


_at_least, _at_most = _line(True), _line(False)

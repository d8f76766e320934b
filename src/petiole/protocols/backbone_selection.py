"""Which backbone: each is judged by the averaged ridge on left-out target images, and costs stand beside.

Between backbones the differences are larger than between methods on one of them, and the accuracy on left-out blocks
ranks them rightly (docs/auto.md says where it was tried).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from petiole.engine.executor import Executor, Local
from petiole.engine.model_card import FrozenModel
from petiole.engine.run import RunSpec
from petiole.errors import BackboneError, DataError
from petiole.ledger import count
from petiole.methods.registry import create
from petiole.protocols.model_selection import START, judge
from petiole.tasks.classification.workspace import (
    Classification,
    ClassificationWorkspace,
    Subset,
)


class RankedBackbone(FrozenModel):
    """A backbone on left-out target images.

    Attributes:
        accuracy, low, high: share that is right, with its 95 % interval over images.
        images: target images that judged.
        parameters: of the backbone.
        megabytes: of its tensors, as they are stored.
        gflops: of an image, forward.
        seconds: that its features took, cached ones counted as nothing.
    """

    name: str
    accuracy: float
    low: float
    high: float
    images: int
    parameters: int
    megabytes: float
    gflops: float
    seconds: float

    def line(self) -> str:
        """For people."""
        return (
            f"{self.name}: {100 * self.accuracy:.1f} % [{100 * self.low:.1f}, {100 * self.high:.1f}] of {self.images} "
            f"left-out target images; {self.parameters / 1e6:.1f} M parameters, {self.gflops:.2f} GFLOPs an image"
        )


def rank_backbones(
    task: Classification,
    names: Sequence[str],
    subset: Subset,
    executor: Executor | None = None,
) -> tuple[list[RankedBackbone], dict[str, str]]:
    """Backbones from the best on, and why others could not be judged.

    Args:
        task: data; its backbone is not looked at.
        names: as for ``petiole.load``.
        subset: which target images are learned from.
        executor: where each is judged; by default here.

    Raises:
        DataError: one target image a class, so that none can be left out.
        BackboneError: none of the backbones can be used.
    """
    ranked: list[RankedBackbone] = []
    failed: dict[str, str] = {}
    asked = [_Asked(replace(task, backbone=name), subset) for name in dict.fromkeys(names)]
    for one, found in zip(asked, (executor or Local()).map(_judged, asked), strict=True):
        if isinstance(found, str):
            failed[one.task.backbone] = found
        else:
            ranked.append(found)
    if not ranked:
        reasons = " ".join(f"{name}: {reason}" for name, reason in failed.items())
        raise BackboneError(f"None of these backbones can be used. {reasons}")
    return sorted(ranked, key=lambda one: (-one.accuracy, one.gflops)), failed


class _Asked(NamedTuple):
    """A backbone on the data, and which target images are learned from."""

    task: Classification
    subset: Subset


def _judged(asked: _Asked) -> RankedBackbone | str:
    """A backbone, or why it cannot be used."""
    try:
        return _ranked(asked.task.open(), asked.subset)
    except BackboneError as error:
        return str(error)


def _ranked(workspace: ClassificationWorkspace, subset: Subset) -> RankedBackbone:
    backbone = workspace.backbone
    judged = judge(workspace, RunSpec(workspace.task, START, Path(), options=subset), START)
    if judged is None:
        raise DataError(
            "Backbones are ranked on left-out target images, and here no class has two. Give at least two labelled "
            "images a class, or name one backbone."
        )
    accuracy = judged.accuracy
    ledger = count(backbone, create(START).plan(backbone, len(workspace.shift.classes)))
    return RankedBackbone(
        name=backbone.name,
        accuracy=accuracy.mean,
        low=max(0.0, accuracy.low),
        high=min(1.0, accuracy.high),
        images=accuracy.n,
        parameters=backbone.parameter_count,
        megabytes=backbone.stored_bytes / 1e6,
        gflops=ledger.flops_forward / 1e9,
        seconds=workspace.feature_seconds,
    )

"""Images with masks, and a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from petiole.data.dataset import listed
from petiole.data.image import load
from petiole.data.masks import MaskedImages, fineness, open_masked, shares
from petiole.data.readers.masks import MASK
from petiole.data.targets import TargetImages
from petiole.errors import DataError
from petiole.methods.base import Method, Plan
from petiole.methods.registry import configure, create
from petiole.tasks.segmentation.dense import dense
from petiole.tasks.target_workspace import TargetTask, TargetWorkspace

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec
    from petiole.engine.task import TaskRun


@dataclass(frozen=True)
class Segmentation(TargetTask):
    """Images with a class for every pixel, from a folder of images and masks or a table's column ``mask``."""

    kind: ClassVar[str] = "segmentation"
    column: ClassVar[str] = MASK

    def open(self) -> SegmentationWorkspace:
        return SegmentationWorkspace(self)

    def parts(self, data: Any) -> dict[str, TargetImages]:
        if not isinstance(data, Path):
            raise DataError(
                "Masks are read from a folder or a table: write them to files, and give the path."
            )
        return dict(open_masked(data, skip_bad=self.skip_bad))

    @staticmethod
    def names(parts: Sequence[TargetImages]) -> tuple[str, ...]:
        return masked(parts[0]).known.names

    @staticmethod
    def notes(part: TargetImages, names: Sequence[str]) -> tuple[str, ...]:
        others = [name for name in masked(part).known.names if name not in names]
        if not others:
            return ()
        return (
            f"{len(others)} classes of {part.images.name} are not trained on, and their pixels not scored: {listed(others)}.",
        )

    @classmethod
    def run(cls, workspace: TargetWorkspace, spec: RunSpec) -> TaskRun:
        from petiole.tasks.segmentation.task import SegmentationRun

        assert isinstance(workspace, SegmentationWorkspace)
        return SegmentationRun(workspace, spec)


class SegmentationWorkspace(TargetWorkspace):
    """Both of them opened."""

    task: Segmentation

    def method_of(self, spec: RunSpec) -> Method:
        """The run's method, on images as they are: a mask has no random views."""
        method = create(spec.method, spec.settings)
        return configure(method, {"views": 0}, spec.method) if method.recipe.views else method

    def plan_of(self, spec: RunSpec) -> Plan:
        with torch.device("meta"), torch.random.fork_rng():
            return dense(self.method_of(spec), self.shape, len(self.names), spec.method)

    @cached_property
    def cells(self) -> int:
        """k: cells along a patch's side."""
        return fineness(self.backbone.preprocessing, self.backbone.grid)

    def shares(self, images: Any, part: MaskedImages) -> NDArray[np.float32]:
        """Share of each cell of each patch that each class covers (n, k^2 N, K), of images of a part."""
        p = self.backbone.preprocessing
        rows, columns = self.backbone.grid
        grid = rows * self.cells, columns * self.cells
        found = [
            shares(part.mask(s.id, load(s).size, self.names), len(self.names), p, grid)
            for s in images.samples
        ]
        return np.stack(found)


def masked(part: TargetImages) -> MaskedImages:
    """The same, known to have masks."""
    assert isinstance(part, MaskedImages)
    return part

"""Images with several labels each, and a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from petiole.data.readers.table import LABELS
from petiole.data.targets import TargetImages, label_matrix, labels_text, names_in, unknown_labels
from petiole.errors import DataError
from petiole.tasks.target_workspace import TargetWorkspace, VectorTask

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec
    from petiole.engine.task import TaskRun


@dataclass(frozen=True)
class MultiLabel(VectorTask):
    """Images with any number of labels each, from a table's column ``labels``."""

    kind: ClassVar[str] = "multilabel"
    column: ClassVar[str] = LABELS

    @staticmethod
    def text(said: str, where: str) -> str:
        return labels_text(said, where)

    @staticmethod
    def names(parts: Sequence[TargetImages]) -> tuple[str, ...]:
        names = names_in(parts)
        if not names:
            raise DataError(
                f"{parts[0].images.name}: no image has a label. Fill the column labels."
            )
        return names

    @staticmethod
    def matrix(part: TargetImages, names: Sequence[str]) -> NDArray[np.float64]:
        return label_matrix(part, names)

    @staticmethod
    def notes(part: TargetImages, names: Sequence[str]) -> tuple[str, ...]:
        return unknown_labels(part, names)

    @classmethod
    def run(cls, workspace: TargetWorkspace, spec: RunSpec) -> TaskRun:
        from petiole.tasks.multilabel.task import MultiLabelRun

        return MultiLabelRun(workspace, spec)

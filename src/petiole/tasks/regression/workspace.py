"""Images with a number or several each, and a backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from petiole.data.readers.table import VALUE
from petiole.data.targets import TargetImages, value_matrix, value_names, value_text
from petiole.tasks.target_workspace import TargetWorkspace, VectorTask

if TYPE_CHECKING:
    from petiole.engine.run import RunSpec
    from petiole.engine.task import TaskRun


@dataclass(frozen=True)
class Regression(VectorTask):
    """Images with a number or several each, from a table's column ``value`` or columns ``value.NAME``."""

    kind: ClassVar[str] = "regression"
    column: ClassVar[str] = VALUE

    @staticmethod
    def text(said: str, where: str) -> str:
        return value_text(said, where)

    @staticmethod
    def names(parts: Sequence[TargetImages]) -> tuple[str, ...]:
        return value_names(parts[0])

    @staticmethod
    def matrix(part: TargetImages, names: Sequence[str]) -> NDArray[np.float64]:
        return value_matrix(part, names)

    @classmethod
    def run(cls, workspace: TargetWorkspace, spec: RunSpec) -> TaskRun:
        from petiole.tasks.regression.task import RegressionRun

        return RegressionRun(workspace, spec)

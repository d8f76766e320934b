"""The adapter of a number an image: value = mean + sd * output, mean and sd of the training images."""

from __future__ import annotations

from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from petiole.engine.model_card import FrozenModel
from petiole.engine.task import register
from petiole.metrics.targets import value_scores
from petiole.tasks.image_targets import TargetAdapter
from petiole.tasks.regression.workspace import Regression


class Scale(FrozenModel):
    """Mean and standard deviation of the training images' numbers."""

    mean: float
    sd: float = Field(gt=0)

    def values(self, outputs: Tensor) -> NDArray[np.float64]:
        """Outputs (n, 1) as numbers (n,)."""
        return np.asarray(self.mean + self.sd * outputs[:, 0].double().numpy(), dtype=np.float64)


@register("regression")
class RegressionAdapter(TargetAdapter):
    """A model that gives an image a number."""

    kind: ClassVar[str] = "regression"
    details_model = Scale
    task = Regression

    def values(self, outputs: Tensor) -> NDArray[np.float64]:
        """The numbers (n,) of outputs (n, 1)."""
        return cast(Scale, self.read_details()).values(outputs)

    def said(self, outputs: Tensor) -> list[str]:
        return [repr(float(value)) for value in self.values(outputs)]

    def rows(self, outputs: Tensor) -> list[dict[str, Any]]:
        found = self.values(outputs).tolist()
        return [{"label": f"{value:.6g}", "value": value} for value in found]

    def scores(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        return value_scores(self.values(outputs), truth[:, 0])

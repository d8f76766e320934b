"""The adapter of numbers of an image: value_k = mean_k + sd_k * output_k, mean and sd of the training images."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field
from torch import Tensor

from petiole.engine.model_card import FrozenModel
from petiole.engine.task import register
from petiole.metrics.targets import value_scores
from petiole.tasks.image_targets import VectorAdapter
from petiole.tasks.regression.workspace import Regression

# Adapters of one number were once written without a list.
_Each = BeforeValidator(lambda value: (value,) if isinstance(value, float | int) else value)


class Scale(FrozenModel):
    """Mean and standard deviation of each of the training images' K numbers."""

    mean: Annotated[tuple[float, ...], _Each]
    sd: Annotated[tuple[Annotated[float, Field(gt=0)], ...], _Each]

    def values(self, outputs: Tensor) -> NDArray[np.float64]:
        """Outputs (n, K) as numbers (n, K)."""
        return np.asarray(np.array(self.mean) + np.array(self.sd) * outputs.double().numpy())


@register("regression")
class RegressionAdapter(VectorAdapter):
    """A model that gives an image a number, or several."""

    kind: ClassVar[str] = "regression"
    details_model = Scale
    task = Regression

    def values(self, outputs: Tensor) -> NDArray[np.float64]:
        """The numbers (n, K) of outputs (n, K)."""
        return cast(Scale, self.read_details()).values(outputs)

    def said(self, outputs: Tensor) -> list[str]:
        return ["|".join(map(repr, row)) for row in self.values(outputs).tolist()]

    def rows(self, outputs: Tensor) -> list[dict[str, Any]]:
        found = self.values(outputs).tolist()
        if len(self.classes) == 1:
            return [{"label": f"{value:.6g}", "value": value} for (value,) in found]
        named = [dict(zip(self.classes, row, strict=True)) for row in found]
        return [
            {"label": ", ".join(f"{n} {v:.6g}" for n, v in row.items()), "values": row}
            for row in named
        ]

    def scores(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        return value_scores(self.values(outputs), truth)

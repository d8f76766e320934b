"""One method on images with a number each: squared error of standardised numbers, scored by R² and mean absolute error."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import mse_loss

from petiole.errors import ConfigError, DataError
from petiole.methods.base import Plan
from petiole.metrics.targets import value_scores
from petiole.tasks.classification.model import AdaptedClassifier, ClassNameHead
from petiole.tasks.image_targets import TargetRun
from petiole.tasks.regression.adapter import RegressionAdapter, Scale


class RegressionRun(TargetRun):
    """A run on images with a number each."""

    @property
    def scale(self) -> Scale:
        """Of the training images.

        Raises:
            DataError: their numbers are all equal.
        """
        if np.ptp(self.truth) == 0:
            raise DataError(
                f"{self.train_images.name}: all training images have the number {self.truth[0, 0]:g}, so there is nothing "
                "to learn."
            )
        return Scale(mean=float(self.truth.mean()), sd=float(self.truth.std()))

    def check(self, plan: Plan) -> None:
        super().check(plan)
        _ = self.scale
        if isinstance(plan.head, ClassNameHead):
            raise ConfigError(
                f"The head of {self.spec.method} is made of class names, and a number has none. Take ridge, linear-probe, "
                "lora-qkv or adaptertune."
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """mean_i (z_i - (y_i - mean) / sd)^2."""
        return mse_loss(outputs, targets)

    def wanted(self) -> NDArray[np.float64]:
        return np.asarray((self.truth - self.scale.mean) / self.scale.sd, dtype=np.float64)

    def scored_by(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        return value_scores(self.scale.values(outputs), truth[:, 0])

    def adapter(self, adapted: AdaptedClassifier) -> RegressionAdapter:
        return RegressionAdapter.describe(adapted, self.scale, **self.described())

    def finish(self, adapted: AdaptedClassifier, folder: Path) -> Mapping[str, Any]:  # noqa: ARG002
        """Mean, spread and ends of the true and the predicted numbers."""
        outputs, truth = self.outputs
        both = {"true": truth[:, 0], "predicted": self.scale.values(outputs)}
        return {
            name: {
                "mean": float(v.mean()),
                "sd": float(v.std()),
                "least": float(v.min()),
                "most": float(v.max()),
            }
            for name, v in both.items()
        }

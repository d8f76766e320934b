"""One method on images with numbers: squared error of each, standardised; scored by R² and mean absolute error."""

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
from petiole.tasks.image_targets import VectorRun, known
from petiole.tasks.regression.adapter import RegressionAdapter, Scale


class RegressionRun(VectorRun):
    """A run on images with a number or several each."""

    @property
    def scale(self) -> Scale:
        """Of the training images.

        Raises:
            DataError: one of their numbers is the same in all.
        """
        for name, column in zip(self.names, self.truth.T, strict=True):
            if np.ptp(column) == 0:
                raise DataError(
                    f"{self.train_images.name}: all training images have the {name} {column[0]:g}, so there is nothing to learn."
                )
        return Scale(mean=self.truth.mean(axis=0).tolist(), sd=self.truth.std(axis=0).tolist())

    def check(self, plan: Plan) -> None:
        super().check(plan)
        _ = self.scale
        if isinstance(plan.head, ClassNameHead):
            raise ConfigError(
                f"The head of {self.spec.method} is made of class names, and a number has none. Take ridge, linear-probe, "
                "lora-qkv or adaptertune."
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """mean_ik (z_ik - (y_ik - mean_k) / sd_k)^2."""
        return mse_loss(outputs, targets)

    def wanted(self) -> NDArray[np.float64]:
        scale = self.scale
        return np.asarray((self.truth - np.array(scale.mean)) / np.array(scale.sd))

    def scored_by(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        return value_scores(self.scale.values(outputs), truth)

    def adapter(self, adapted: AdaptedClassifier) -> RegressionAdapter:
        return RegressionAdapter.describe(adapted, self.scale, **self.described())

    def finish(self, adapted: AdaptedClassifier, folder: Path) -> Mapping[str, Any]:  # noqa: ARG002
        """Scores of each of several numbers; mean, spread and ends of the true and the predicted ones."""
        outputs, truth = self.outputs
        found, several = self.scale.values(outputs), len(self.names) > 1
        tables: dict[str, dict[str, float]] = {}
        for k, name in enumerate(self.names):
            if several:
                scored = known(value_scores(found[:, k], truth[:, k]))
                for score in ("r2", "mae", "rmse"):
                    if score in scored:
                        tables.setdefault(score, {})[name] = scored[score]
            for what, v in (("true", truth[:, k]), ("predicted", found[:, k])):
                tables[f"{what} {name}" if several else what] = {
                    "mean": float(v.mean()),
                    "sd": float(v.std()),
                    "least": float(v.min()),
                    "most": float(v.max()),
                }
        return tables

"""One method on images with several labels: binary cross-entropy of every label, scored by mAP and F1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from petiole.engine.model_card import FrozenModel
from petiole.layers.ridge import RidgeHead
from petiole.metrics.targets import THRESHOLD, average_precisions, label_scores
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.image_targets import VectorRun
from petiole.tasks.multilabel.adapter import MultiLabelAdapter

SCALES = (0.5, 50.0)
"""Between which the factor on ridge's outputs is looked for."""


class MultiLabelRun(VectorRun):
    """A run on images with several labels."""

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """mean_ik of  -t log sigmoid(z) - (1 - t) log(1 - sigmoid(z))."""
        return binary_cross_entropy_with_logits(outputs, targets)

    def wanted(self) -> NDArray[np.float64]:
        # Ridge's targets are -1 and 1, so that 0 is where a label is as likely as not.
        ridge = isinstance(self.plan().head, RidgeHead)
        return 2 * self.truth - 1 if ridge else self.truth

    def finish_ridge(self, head: RidgeHead, left_out: Tensor) -> None:
        """z = s (W x + b), with the s that makes the labels of left-out images most likely."""
        from scipy.optimize import minimize_scalar

        truth = torch.from_numpy(self.truth).float()

        def loss(log_scale: float) -> float:
            return float(self.loss(float(np.exp(log_scale)) * left_out, truth))

        best = minimize_scalar(loss, bounds=tuple(np.log(SCALES)), method="bounded").x
        head.weight *= float(np.exp(best))
        head.bias *= float(np.exp(best))

    def scored_by(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        return label_scores(outputs.double().sigmoid().numpy(), truth)

    def adapter(self, adapted: AdaptedClassifier) -> MultiLabelAdapter:
        return MultiLabelAdapter.describe(adapted, FrozenModel(), **self.described())

    def finish(self, adapted: AdaptedClassifier, folder: Path) -> Mapping[str, Any]:  # noqa: ARG002
        """Average precision of every label, and how often it is true and given."""
        outputs, truth = self.outputs
        p = outputs.double().sigmoid().numpy()
        columns = {
            "average precision": average_precisions(p, truth),
            "test images": truth.sum(0).tolist(),
            "given": (p >= THRESHOLD).sum(0).astype(float).tolist(),
        }
        return {
            title: {n: v for n, v in zip(self.names, values, strict=True) if not np.isnan(v)}
            for title, values in columns.items()
        }

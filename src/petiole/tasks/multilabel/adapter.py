"""The adapter of several labels an image: its outputs are logits, sigmoid(z) the probabilities of the labels."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from petiole.engine.task import register
from petiole.metrics.targets import label_scores, names_given
from petiole.tasks.image_targets import VectorAdapter
from petiole.tasks.multilabel.workspace import MultiLabel


@register("multilabel")
class MultiLabelAdapter(VectorAdapter):
    """A model that gives an image any number of labels."""

    kind: ClassVar[str] = "multilabel"
    task = MultiLabel

    def said(self, outputs: Tensor) -> list[str]:
        return ["|".join(sorted(names_given(p, self.classes))) for p in outputs.sigmoid().tolist()]

    def rows(self, outputs: Tensor) -> list[dict[str, Any]]:
        found = []
        for p in outputs.double().sigmoid().tolist():
            labels = names_given(p, self.classes)
            ranked = sorted(zip(self.classes, p, strict=True), key=lambda pair: -pair[1])
            row = {"label": ", ".join(labels), "labels": labels, "probabilities": dict(ranked)}
            found.append(row)
        return found

    def scores(self, outputs: Tensor, truth: NDArray[np.float64]) -> dict[str, float]:
        return label_scores(outputs.double().sigmoid().numpy(), truth)

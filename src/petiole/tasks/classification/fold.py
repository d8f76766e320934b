"""Settle the class names of an adapter: its class vectors become a matrix, its text side goes."""

from __future__ import annotations

import torch

from petiole.errors import AdapterError
from petiole.layers.matrix import ClassMatrix
from petiole.methods.prompt_learning.class_vectors import ClassVectors
from petiole.methods.prompt_learning.folded import Folded
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier


def fold(adapter: ClassificationAdapter) -> ClassificationAdapter:
    """Return an adapter that gives the same logits without a text tower.

    Raises:
        AdapterError: its head has no one vector for each class (a linear head, CoCoOp).
    """
    adapted, manifest = adapter.adapted, adapter.manifest
    if not isinstance(adapted.head, ClassVectors):
        raise AdapterError(
            f"{manifest.method} has no one vector for each class name that could be stored: its classes are "
            "not made of names, or their vectors depend on the image (CoCoOp). Only the other prompt "
            "learners, with or without TextRefiner, CLIP-LoRA and zero-shot can be folded."
        )
    method = Folded(method=manifest.method, settings=manifest.settings)
    folded = AdaptedClassifier(
        adapted.backbone, method.plan(adapted.backbone, len(manifest.classes))
    )
    assert isinstance(folded.head, ClassMatrix)
    with torch.no_grad(), adapted.attached():
        folded.head.matrix.copy_(adapted.head.embeddings())
        folded.head.scale.copy_(adapted.head.scale)
    kept = {k: v for k, v in adapted.state_dict().items() if not k.startswith("head.")}
    image = {k: v for k, v in kept.items() if k in folded.state_dict()}
    folded.load_state_dict({**folded.state_dict(), **image})
    card = manifest.backbone
    again = ClassificationAdapter.of(
        folded.to(next(adapted.backbone.module.parameters()).device).eval(),
        method="folded",
        settings={"method": manifest.method, "settings": manifest.settings},
        classes=manifest.classes,
        weights=None,
        image_size=card.image_size,
        calibration=adapter.calibration,
    )
    again.manifest = again.manifest.model_copy(update={"backbone": card})
    _check(adapter, again)
    return again


def _check(
    before: ClassificationAdapter, after: ClassificationAdapter, tolerance: float = 1e-5
) -> None:
    one, two = (torch.tensor(a.manifest.golden) for a in (before, after))
    worst = float(((one - two).abs() / (1 + one.abs())).max())
    if not worst <= tolerance:
        raise AdapterError(
            f"The folded adapter's golden logits differ by {worst:.2g} (relative; allowed "
            f"{tolerance:g}). Please report this as a bug."
        )

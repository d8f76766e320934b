"""The adapter of a class for every pixel: patch scores (N, K), interpolated to the pixels of the image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.data.image import load
from petiole.data.masks import open_masked, pixels_of
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_table import Table
from petiole.engine.task import ScoredSet, register
from petiole.methods.base import Method, Plan
from petiole.metrics.segmentation import confusion, mask_scores
from petiole.tasks.classification.adapter import logits_of
from petiole.tasks.classification.model import AdaptedClassifier, predict
from petiole.tasks.image_targets import TargetAdapter, known
from petiole.tasks.segmentation.dense import dense
from petiole.tasks.segmentation.overlays import write_mask
from petiole.tasks.segmentation.workspace import Segmentation


def patch_scores(adapted: AdaptedClassifier, table: Table, count: int) -> Iterator[Tensor]:
    """Scores (N, K) of the first images of a table, one after the other."""
    for state in table.batches(count):
        yield from predict(adapted, [state]).logits


@register("segmentation")
class SegmentationAdapter(TargetAdapter):
    """A model that gives every pixel a class."""

    kind: ClassVar[str] = "segmentation"
    task = Segmentation

    @classmethod
    def plan(cls, method: Method, backbone: Backbone, classes: int, name: str) -> Plan:
        return dense(method, backbone, classes, name)

    def predict_rows(self, images: object, masks: Path | None = None) -> list[dict[str, Any]]:
        """Of each image the share of pixels of each class, largest first.

        Args:
            images: in any form that ``petiole.data.inputs.as_images`` takes.
            masks: folder for a PNG of each image, whose pixels are the numbers of classes in the adapter's order.

        Raises:
            DataError: an image cannot be read.
        """
        from petiole.data.inputs import as_images

        backbone, rows = self.adapted.backbone, []
        taken: dict[str, int] = {}
        for ref in as_images(images):
            (scores,) = logits_of(self.adapted, [ref])
            found = pixels_of(scores, load(ref).size, backbone.preprocessing, backbone.grid)
            part = np.bincount(found.ravel(), minlength=len(self.classes)) / found.size
            order = [i for i in np.argsort(-part, kind="stable") if part[i] > 0]
            shares = {self.classes[i]: float(part[i]) for i in order}
            said = ", ".join(f"{name} {100 * share:.1f} %" for name, share in shares.items())
            rows.append({"path": str(ref.path), "label": said, "shares": shares})
            if masks is not None:
                stem = ref.path.stem
                taken[stem] = taken.get(stem, 0) + 1
                again = f"-{taken[stem]}" if taken[stem] > 1 else ""
                write_mask(masks / f"{stem}{again}.png", found)
                rows[-1]["mask"] = str(masks / f"{stem}{again}.png")
        return rows

    def score_on(self, data: Any, *, skip_bad: bool = False) -> ScoredSet:
        """Scores on the test part of a folder or table of images with masks, or on all of one without parts.

        Raises:
            DataError: no masks there, or bad ones.
        """
        parts = open_masked(Path(data), skip_bad=skip_bad)
        part = parts.get("test") or parts["train"]
        backbone, images, k = self.adapted.backbone, part.images, len(self.classes)
        table = Features(backbone).table(images, self.adapted.cut)
        counts = np.zeros((k, k), dtype=np.int64)
        for sample, scores in zip(
            images.samples, patch_scores(self.adapted, table, len(images)), strict=True
        ):
            size = load(sample).size
            found = pixels_of(scores, size, backbone.preprocessing, backbone.grid)
            counts += confusion(part.mask(sample.id, size, self.classes), found, k)
        notes = (*images.notes, *self.task.notes(part, self.classes))
        reached = known(mask_scores(counts, len(images)))
        return ScoredSet(images.name, reached, len(images), part.digest(), notes, images.ids)

"""One method on images with masks: cross-entropy of every pixel, or ridge in closed form; scored by mIoU.

Predicted masks are the scores of patches, interpolated to the image's own pixels, of which all count that are of a class. What is learned are the scores
interpolated to cells c, k x k of each patch; over the pixels of one both losses depend on the share s_cK of each class alone:

    CE = - sum_cK s_cK log softmax(z_c)_K / sum_cK s_cK,   ridge = sum_c v_c |W f_c + b - (2 s_c / |s_c| - 1)|^2 + alpha |W|^2

with v_c = sum_K s_cK / sum_c' s_c'K, by which all classes weigh alike, as they do in mIoU; constant factors aside. A linear head's scores of a cell are
those of the cell's interpolated token f_c, so ridge stays a closed form.
A run leaves ``overlays/``, the first test images with their true and predicted masks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.data.image import load
from petiole.data.masks import finer, pixels_of
from petiole.data.targets import TargetImages
from petiole.engine.feature_table import Table
from petiole.engine.record import count_test_evaluation
from petiole.engine.task import Scores
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError
from petiole.files import write_text
from petiole.layers.moment_ridge import Moments, solve
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import balanced_weights
from petiole.layers.standardise import Standardise
from petiole.methods.base import Plan
from petiole.methods.registry import create
from petiole.metrics.segmentation import confusion, ious, mask_scores
from petiole.printable import cell
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.image_targets import TABLE, TargetRun, known
from petiole.tasks.segmentation.adapter import SegmentationAdapter, patch_scores
from petiole.tasks.segmentation.dense import dense
from petiole.tasks.segmentation.overlays import OVERLAYS, write_overlay
from petiole.tasks.segmentation.workspace import SegmentationWorkspace, masked

PARTS, SEEN = 5, 256
"""Parts of the images that ridge's penalty is chosen by, and most images that tokens are standardised by."""
SHOWN = 8


def of_shares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of all pixels, of scores (B, n, K) and the share of each class in every cell."""
    return -(targets * outputs.log_softmax(-1)).sum() / targets.sum().clamp_min(1e-6)


class SegmentationRun(TargetRun):
    """A run on images with masks."""

    files: ClassVar[tuple[str, ...]] = (*TargetRun.files, f"{OVERLAYS}/*.webp")
    workspace: SegmentationWorkspace

    def plan(self) -> Plan:
        return dense(self.method, self.workspace.backbone, len(self.names), self.spec.method)

    def check(self, plan: Plan) -> None:  # noqa: ARG002 - what does not fit is refused where it is made dense
        given = self.spec.settings
        asked = "views" in given and create(self.spec.method, given).recipe.views
        if asked or "augmentation" in given:
            raise ConfigError(
                f"{'views' if asked else 'augmentation'} makes random views of images, which masks have not. Leave it out."
            )

    def matrix(self, images: Dataset, part: TargetImages) -> NDArray[Any]:
        return self.workspace.shares(images, masked(part))

    def cells(self, values: Tensor) -> Tensor:
        """Values of patches (B, N, c) as those of their cells (B, k^2 N, c)."""
        return finer(values, self.workspace.backbone.grid, self.workspace.cells)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return of_shares(self.cells(outputs), targets)

    def _descend(
        self, adapted: AdaptedClassifier, table: Table, wanted: Tensor, callbacks: Callbacks
    ) -> None:
        adapted.eval()
        states = table.batches(min(SEEN, len(wanted)))
        with torch.no_grad():
            tokens = torch.cat([adapted.pooled(state).float().flatten(0, 1) for state in states])
        assert isinstance(adapted.refine, Standardise)
        adapted.refine.see(tokens)
        super()._descend(adapted, table, wanted, callbacks)

    @torch.no_grad()
    def _solve(self, adapted: AdaptedClassifier, table: Table, wanted: Tensor) -> None:
        head = adapted.head
        assert isinstance(head, RidgeHead)
        adapted.eval()
        parts: dict[int, Moments] = {}
        done, alike = 0, balanced_weights(wanted.sum(dim=(0, 1)))
        for state in table.batches(len(wanted)):
            tokens = self.cells(adapted.pooled(state).float()).cpu()
            for one, shares in zip(tokens, wanted[done : done + len(tokens)], strict=True):
                targets = 2 * shares / shares.sum(dim=1, keepdim=True).clamp_min(1e-9) - 1
                found, part = Moments.of(one, targets, shares @ alike), done % PARTS
                parts[part] = parts[part] + found if part in parts else found
                done += 1
        weight, bias, alpha = solve(list(parts.values()), head.grid)
        head.weight.copy_(weight)
        head.bias.copy_(bias)
        head.chosen_alpha = torch.tensor(alpha)

    def evaluate(self, adapted: AdaptedClassifier, folder: Path) -> Scores:
        workspace, scored, test = (
            self.workspace,
            self.scored,
            masked(self.workspace.targets["test"]),
        )
        count_test_evaluation(folder, test.digest(), len(scored), "end of training", once=True)
        table = workspace.table(scored, adapted.cut)
        p, grid, k = workspace.backbone.preprocessing, workspace.backbone.grid, len(self.names)
        self.counts = np.zeros((k, k), dtype=np.int64)
        rows = io.StringIO()
        lines = csv.writer(rows, lineterminator="\n")
        lines.writerow(["path", "sha256", "mask", "miou", "pixel_accuracy"])
        for i, (sample, scores) in enumerate(
            zip(scored.samples, patch_scores(adapted, table, len(scored)), strict=True)
        ):
            image = load(sample)
            truth = test.mask(sample.id, image.size, self.names)
            found = pixels_of(scores, image.size, p, grid)
            counts = confusion(truth, found, k)
            self.counts += counts
            own = mask_scores(counts, 1)
            place = test.masks[test.said[sample.id]]
            said = [f"{own[name]:.6f}" for name in ("miou", "pixel_accuracy")]
            lines.writerow([cell(sample.path), sample.id, cell(place), *said])
            if i < SHOWN:
                write_overlay(folder / OVERLAYS / f"{i}.webp", image, truth, found)
        write_text(folder / TABLE, rows.getvalue())
        return {self.subset.scored: known(mask_scores(self.counts, len(scored)))}

    def adapter(self, adapted: AdaptedClassifier) -> SegmentationAdapter:
        return SegmentationAdapter.describe(
            adapted, SegmentationAdapter.details_model(), **self.described()
        )

    def finish(self, adapted: AdaptedClassifier, folder: Path) -> Mapping[str, Any]:  # noqa: ARG002
        """IoU of every class, and its true and predicted share of the test pixels."""
        whole = max(1, int(self.counts.sum()))
        columns = {
            "IoU": ious(self.counts),
            "share, true": self.counts.sum(1) / whole,
            "share, predicted": self.counts.sum(0) / whole,
        }
        return {
            title: {n: float(v) for n, v in zip(self.names, values, strict=True) if not np.isnan(v)}
            for title, values in columns.items()
        }

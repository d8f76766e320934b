"""``safetensors-merged``: the backbone's weights with the adapter in them, and a linear head, for one's own code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import linear

from petiole.backbones.frozen_network import IMAGES
from petiole.files import read_tensors, write_tensors
from petiole.methods.base import Plan
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.format import FORMATS, Format, Run
from petiole.tasks.classification.export.plain import plain
from petiole.tasks.classification.model import AdaptedClassifier, Predictions

BACKBONE, HEAD = "backbone.safetensors", "head.safetensors"


@FORMATS.register("safetensors-merged", "merged weights and a linear head, for your own code")
@dataclass(frozen=True)
class SafetensorsMerged(Format):
    """``backbone.safetensors``, under the names of the backbone's own architecture, and ``head.safetensors``.

    The head has ``weight`` (K, d) and ``bias`` (K,), on the image vector. There is no usage script, because what builds the
    architecture is not said by weights: timm, transformers, or ``petiole.load(NAME, weights=...)``.
    """

    def write(self, adapter: ClassificationAdapter, folder: Path) -> None:
        parts = plain(adapter.adapted)
        stated = {"architecture": adapter.manifest.backbone.name}
        write_tensors(folder / BACKBONE, parts.weights, stated)
        write_tensors(folder / HEAD, {"weight": parts.weight, "bias": parts.bias})

    def open(self, folder: Path, adapter: ClassificationAdapter) -> Run:
        backbone = adapter.adapted.backbone
        weights, _ = read_tensors(folder / BACKBONE)
        head, _ = read_tensors(folder / HEAD)
        own = tuple(name for name, _ in backbone.module.named_parameters())
        vector = AdaptedClassifier(backbone, replace(Plan(), reads=(backbone.vector,), tune=own))

        @torch.no_grad()
        def run(pixels: Tensor) -> Predictions:
            for name, copy in vector.copies.items():
                copy.copy_(weights[name])
            seen = vector({IMAGES: pixels}).vector
            return Predictions(seen, linear(seen, head["weight"], head["bias"]))

        return run

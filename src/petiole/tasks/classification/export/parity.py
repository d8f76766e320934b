"""Whether an exported model says what the adapter says: on made-up images, on the golden input, and on given images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from petiole.data.dataset import Dataset
from petiole.data.image import load
from petiole.data.preprocessing import evaluate_transform
from petiole.engine.model_card import FrozenModel
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.format import Run
from petiole.tasks.classification.model import AdaptedClassifier, predict

MADE_UP = 32
BATCH = 16


class Agreement(FrozenModel):
    """Of some images.

    Attributes:
        images: how many.
        largest_difference: of a logit.
        largest_logit: in absolute value, of the adapter.
        same_label: share of images whose most probable class is the same.
    """

    images: int
    largest_difference: float
    largest_logit: float
    same_label: float

    @property
    def relative(self) -> float:
        """Largest difference over 1 + the largest logit."""
        return self.largest_difference / (1 + self.largest_logit)


class Parity(FrozenModel):
    """An exported model beside its adapter.

    Attributes:
        made_up: on images of random colours, in batches of several sizes.
        given: on the images that were given.
        accuracy: of the exported model on these.
        adapter_accuracy: of the adapter.
    """

    made_up: Agreement
    given: Agreement | None = None
    accuracy: float | None = None
    adapter_accuracy: float | None = None


@dataclass(frozen=True)
class Comparison:
    """Runs both on the same images.

    Attributes:
        adapter: the original.
        run: the exported model.
        raw: whether that takes raw images.
    """

    adapter: ClassificationAdapter
    run: Run
    raw: bool

    def parity(self, data: Dataset | None = None) -> Parity:
        """Compare on made-up images, and on ``data``."""
        made_up = _agreement(*self._both(coloured(self.adapter.adapted)))
        if data is None:
            return Parity(made_up=made_up)
        labels = torch.tensor(data.labels.tolist())
        pairs = [
            self._both([load(sample) for sample in data.samples[start : start + BATCH]])
            for start in range(0, len(data), BATCH)
        ]
        want, got = (torch.cat(logits) for logits in zip(*pairs, strict=True))
        share = [float((logits.argmax(1) == labels).double().mean()) for logits in (got, want)]
        return Parity(
            made_up=made_up,
            given=_agreement(want, got),
            accuracy=share[0],
            adapter_accuracy=share[1],
        )

    def _both(self, images: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
        """The adapter's logits, and the exported model's: the first image alone, the others in one batch."""
        adapted = self.adapter.adapted
        transform = evaluate_transform(adapted.backbone.preprocessing)
        pixels = torch.stack([transform(image) for image in images])
        want = predict(
            adapted, [adapted.backbone.lower(pixels.to(adapted.backbone.device), adapted.cut)]
        ).logits
        if self.raw:
            arrays = [torch.from_numpy(np.array(image)[None]) for image in images]
            return want, torch.cat([self.run(array) for array in arrays])
        parts = [part for part in (pixels[:1], pixels[1:]) if len(part)]
        return want, torch.cat([self.run(part) for part in parts])


def coloured(adapted: AdaptedClassifier) -> list[Image.Image]:
    """Images of random colours that run into each other, of many shapes."""
    rng = np.random.default_rng(0)
    height, width = adapted.backbone.preprocessing.size
    images = []
    for _ in range(MADE_UP):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
        w, h = (int(side * rng.uniform(0.7, 2.0)) + 1 for side in (width, height))
        images.append(coarse.resize((w, h), Image.Resampling.BICUBIC))
    return images


def _agreement(want: Tensor, got: Tensor) -> Agreement:
    return Agreement(
        images=len(want),
        largest_difference=float((got - want).abs().max()),
        largest_logit=float(want.abs().max()),
        same_label=float((got.argmax(1) == want.argmax(1)).double().mean()),
    )

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
from petiole.tasks.classification.model import AdaptedClassifier, Predictions, predict

MADE_UP = 32
BATCH = 16


class Agreement(FrozenModel):
    """Of some images.

    Attributes:
        images: how many.
        largest_difference: of a logit.
        largest_logit: in absolute value, of the adapter.
        same_label: share of images whose most probable class is the same.
        vectors: largest difference of an image vector over 1 + its largest number; ``None`` where they are of another size.
    """

    images: int
    largest_difference: float
    largest_logit: float
    same_label: float
    vectors: float | None = None

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
        want, got = (_joined(parts) for parts in zip(*pairs, strict=True))
        share = [float((one.logits.argmax(1) == labels).double().mean()) for one in (got, want)]
        return Parity(
            made_up=made_up,
            given=_agreement(want, got),
            accuracy=share[0],
            adapter_accuracy=share[1],
        )

    def _both(self, images: Sequence[Image.Image]) -> tuple[Predictions, Predictions]:
        """The adapter's, and the exported model's: the first image alone, the others in one batch."""
        adapted = self.adapter.adapted
        transform = evaluate_transform(adapted.backbone.preprocessing)
        pixels = torch.stack([transform(image) for image in images])
        want = predict(
            adapted, [adapted.backbone.lower(pixels.to(adapted.backbone.device), adapted.cut)]
        )
        if self.raw:
            parts = [torch.from_numpy(np.array(image)[None]) for image in images]
        else:
            parts = [part for part in (pixels[:1], pixels[1:]) if len(part)]
        return want, _joined([self.run(part) for part in parts])


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


def _joined(parts: Sequence[Predictions]) -> Predictions:
    return Predictions(*map(torch.cat, zip(*parts, strict=True)))


def _agreement(want: Predictions, got: Predictions) -> Agreement:
    labels = got.logits.argmax(1) == want.logits.argmax(1)
    same = got.vectors.shape == want.vectors.shape
    return Agreement(
        images=len(want.logits),
        largest_difference=_furthest(want.logits, got.logits),
        largest_logit=float(want.logits.abs().max()),
        same_label=float(labels.double().mean()),
        vectors=_furthest(want.vectors, got.vectors) / (1 + float(want.vectors.abs().max()))
        if same
        else None,
    )


def _furthest(want: Tensor, got: Tensor) -> float:
    return float((got - want).abs().max())

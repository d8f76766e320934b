"""Predictions of an adapter that adapts to each test image and is as before after it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import torch
from PIL.Image import Image
from torch import Tensor

from petiole.data.image import ImageRef
from petiole.data.image import load as load_image
from petiole.data.preprocessing import Preprocessing, augmentation, view
from petiole.engine.adapted_model import evaluating
from petiole.engine.progress import progress
from petiole.methods.test_time.base import FrozenClassifier, TestTimeMethod
from petiole.tasks.classification.model import AdaptedClassifier, Predictions

CROPS = "crops"
"""The random views: 8 to 100 % of the image, mirrored or not, as TPT and LoRA-TTT take them."""


def adapted_outputs(
    adapted: AdaptedClassifier,
    refs: Sequence[ImageRef],
    method: TestTimeMethod,
    change: Callable[[Image], Image] = lambda image: image,
    *,
    quiet: bool = False,
) -> Predictions:
    """Vectors (n, d) and logits (n, C) of images, each adapted to on its own; ``change`` may alter an image first.

    Raises:
        ConfigError: the method does not fit this adapter.
        DataError: an image cannot be read; the message names it.
    """
    vectors, logits = [torch.zeros(0, 1)], [torch.zeros(0, 1)]
    with progress("adapting", len(refs), quiet=quiet) as advance, evaluating(adapted):
        model = FrozenClassifier(adapted.backbone, adapted.plan, adapted.copies)
        method.check(model)
        size = min(method.images_at_once, 1 << max(0, len(refs) - 1).bit_length())
        for start in range(0, len(refs), size):
            part = refs[start : start + size]
            with ThreadPoolExecutor() as pool:
                read = list(pool.map(lambda ref: change(load_image(ref)), part))
                seen = list(pool.map(lambda image: views_of(image, adapted, method.views), read))
            # The last images are joined by copies: one size for all, so that none changes with those beside it.
            seen += seen[-1:] * (size - len(part))
            found = method.adapt(model, torch.stack(seen).to(adapted.backbone.device))
            vectors.append(found.vectors[: len(part)].float().cpu())
            logits.append(found.logits[: len(part)].float().cpu())
            advance(len(part))
    return Predictions(torch.cat(vectors[1:] or vectors), torch.cat(logits[1:] or logits))


def views_of(image: Image, adapted: AdaptedClassifier, count: int) -> Tensor:
    """(count, 3, H, W): the evaluation view, then random crops that are the same for the same pixels."""
    name = sha256(image.tobytes()).hexdigest()
    how: Preprocessing = adapted.backbone.preprocessing
    crops = augmentation(CROPS)
    return torch.stack([view(image, how, crops, name, index) for index in range(count)])

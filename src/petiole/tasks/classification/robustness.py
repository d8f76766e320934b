"""What is left of an adapter's accuracy under attack and under corruptions.

An attack knows everything: weights, adapter, and the true class, whose cross-entropy it raises (white box, untargeted).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import fmean

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from petiole.backbones.frozen_network import IMAGES
from petiole.data.corruptions import corruption
from petiole.data.dataset import Dataset, Sample
from petiole.data.image import load
from petiole.data.preprocessing import evaluate_transform
from petiole.engine.adapted_model import evaluating
from petiole.engine.progress import progress
from petiole.methods.adversary import Adversary, perturb
from petiole.metrics.classification import score
from petiole.tasks.classification.adapter import logits_of
from petiole.tasks.classification.model import AdaptedClassifier, predict

BATCH = 16
MEAN = "mean of the corruptions"


def under_attack(
    adapted: AdaptedClassifier,
    data: Dataset,
    adversary: Adversary,
    epsilon: float,
    *,
    quiet: bool = False,
) -> dict[str, float]:
    """Scores on images that were changed by at most ``epsilon`` a pixel, on the scale [0, 1].

    Args, Raises: as ``logits_under_attack``.
    """
    return _scores(logits_under_attack(adapted, data, adversary, epsilon, quiet=quiet), data)


def logits_under_attack(
    adapted: AdaptedClassifier,
    data: Dataset,
    adversary: Adversary,
    epsilon: float,
    *,
    quiet: bool = False,
) -> Tensor:
    """Logits (n, C) of images that were changed by at most ``epsilon`` a pixel, on the scale [0, 1].

    Args:
        adapted: with its head; in evaluation mode meanwhile.
        data: labelled images.
        adversary: chooses the changes.
        epsilon: radius in the maximum norm, e.g. 1 / 255.
        quiet: no progress bar.

    Raises:
        ConfigError: ``epsilon`` is negative, or the head has no gradient.
        DataError: an image cannot be read.
    """
    rows = []
    with progress("attack", len(data), quiet=quiet) as advance, evaluating(adapted):
        for images, labels in _batches(adapted, data.samples):

            def loss(changed: Tensor, labels: Tensor = labels) -> Tensor:
                return cross_entropy(adapted({IMAGES: changed}).logits, labels, reduction="sum")

            preprocessing = adapted.backbone.preprocessing
            attacked = perturb(loss, images, preprocessing, epsilon, adversary)
            rows.append(predict(adapted, [{IMAGES: attacked}]).logits)
            advance(len(labels))
    return torch.cat(rows)


def under_corruptions(
    adapted: AdaptedClassifier, data: Dataset, names: Sequence[str], severities: Sequence[int]
) -> dict[str, dict[str, float]]:
    """Scores on corrupted images by corruption and severity; the last ones are their mean, if there are several.

    1 - mean accuracy is ImageNet-C's mean corruption error before each error is divided by AlexNet's, which only ImageNet has.

    Raises:
        ConfigError: there is no such corruption or severity.
        DataError: an image cannot be read.
    """
    found = {
        f"{name} {level}": _scores(
            logits_of(adapted, data.samples, change=corruption(name, level)), data
        )
        for name in names
        for level in severities
    }
    if len(found) > 1:
        rows = [*found.values()]
        found[MEAN] = {key: fmean(row[key] for row in rows) for key in rows[0]}
    return found


def _scores(logits: Tensor, data: Dataset) -> dict[str, float]:
    return score(logits.softmax(1).double().numpy(), data.labels).to_dict()


def _batches(
    adapted: AdaptedClassifier, samples: Sequence[Sample]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Preprocessed images and labels."""
    device = adapted.backbone.device
    transform = evaluate_transform(adapted.backbone.preprocessing)
    for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        with ThreadPoolExecutor() as pool:
            images = torch.stack(list(pool.map(lambda s: transform(load(s)), part)))
        yield images.to(device), torch.tensor([s.label for s in part], device=device)

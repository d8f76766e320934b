"""What the leak check sees of images, kept beside their features: of known images it need read none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch

from petiole.backbones.base import State
from petiole.data.checks.thumbnails import Thumbnails
from petiole.data.dataset import Dataset, Sample
from petiole.engine.feature_filling import fill
from petiole.engine.feature_store import FeatureCache, Key
from petiole.engine.share import WHOLE, Share
from petiole.files import text_digest

KEY = Key(
    fingerprint=text_digest("perceptual hash and grey values of 32 x 32 pixels, 1"),
    preprocessing="",
    cut=("hashes", "thumbnails", "valid"),
    dtype="uint8",
)
"""It depends on no backbone."""


def stored_form(seen: Thumbnails) -> State:
    """As they lie in the cache: values by role, one row an image."""
    signed = seen.hashes.view(np.int64)  # torch indexes no unsigned numbers
    values = {"hashes": signed, "thumbnails": seen.thumbnails, "valid": seen.valid}
    return {role: torch.from_numpy(value) for role, value in values.items()}


def store_thumbnails(
    cache: FeatureCache,
    samples: Iterable[Sample],
    *,
    share: Share = WHOLE,
    name: str = "images",
    quiet: bool = False,
) -> None:
    """Keep what the cache lacks, of the images of a share.

    Raises:
        DataError: an unreadable image.
    """
    by_id = {sample.id: sample for sample in samples if share.takes(sample.id)}

    def read(ids: Sequence[str]) -> State:
        return stored_form(Thumbnails.of(by_id[image] for image in ids))

    label = f"thumbnails of {name}"
    fill(cache, KEY, sorted(by_id), read, lambda state: state, label=label, quiet=quiet)


def stored_thumbnails(cache: FeatureCache, data: Dataset, *, quiet: bool = False) -> Thumbnails:
    """Those of a data set, stored where they are not yet.

    Raises:
        DataError: an unreadable image.
    """
    store_thumbnails(cache, data.samples, name=data.name, quiet=quiet)
    if not len(data):
        return Thumbnails.of(())
    found = cache.rows([KEY], data.ids).take(torch.arange(len(data)))
    values = {role: value.numpy() for role, value in found.items()}
    return Thumbnails(**{**values, "hashes": values["hashes"].view(np.uint64)})

"""Whether an adapter is scored on images that it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petiole.errors import DataError


def training_notes(adapter: Path, images: Sequence[str]) -> list[str]:
    """A note where images are among those that the adapter was trained on, as the run folder around it tells.

    An adapter that was moved out of its run's folder tells nothing, and images count as the same byte for byte.

    Args:
        adapter: its folder, or the run folder around it.
        images: SHA-256 (hex) of each image that is scored.
    """
    from petiole.data.splits import SPLIT, image_ids
    from petiole.engine.adapter import find

    file = find(adapter).parent / SPLIT
    if not file.is_file():
        return []
    try:
        trained = image_ids(file, "train")
    except DataError as error:
        return [f"Which images {adapter} was trained on is not known. {error}"]
    known = sum(image in trained for image in images)
    if not known:
        return []
    return [
        f"{known:,} of these {len(images):,} images are among those that {adapter} was trained on, so their scores say little of "
        "new ones. Score images that it has not seen."
    ]

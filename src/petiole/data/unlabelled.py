"""Images without labels as a data set."""

from __future__ import annotations

from pathlib import Path

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset
from petiole.data.inputs import as_images


def unlabelled(data: object, name: str, *, skip_bad: bool = False) -> Dataset:
    """A data set of one class; labels that the data has are passed over.

    Args:
        data: what ``as_images`` takes; a list of one path is that path.
        name: of the data set.
        skip_bad: leave unreadable images out, and count them.

    Raises:
        DataError: no images, or unreadable ones.
    """
    if isinstance(data, list | tuple) and len(data) == 1 and isinstance(data[0], str | Path):
        data = data[0]
    entries = [ImageFile(ref.path, image=ref.image) for ref in as_images(data)]
    return build(name, entries, None, skip_bad=skip_bad)

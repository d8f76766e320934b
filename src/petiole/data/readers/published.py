"""Public data sets by name: ``DATA/cifar10`` where ``DATA`` holds CIFAR-10 in torchvision's layout.

The last part of the path is a name of `petiole.data.readers.public` and no folder of its own. Images that
lie in one big file are unpacked to ``DATA/.petiole``, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset
from petiole.data.readers.base import ImageParts, image_reader
from petiole.errors import DataError


def recognised(path: Path) -> bool:
    """Whether a published data set of that name lies in the folder above, perhaps not all of it."""
    if path.exists() or not path.parent.is_dir():
        return False
    from petiole.data.readers.public import names  # imports torchvision, which takes a second

    return any(
        path.name in (one.name, *one.aliases)
        and any((path.parent / needed).exists() for needed in one.needs)
        for one in names().values()
    )


def open_parts(path: Path, has_test: bool = False, skip_bad: bool = False) -> ImageParts:
    """Open the published training and test part.

    Raises:
        DataError: it is incomplete or not the published one, or an image cannot be read.
    """
    opened = {
        part: build(f"{path.name}/{part}", entries, None, skip_bad=skip_bad)
        for part, entries in _files(path).items()
        if not (has_test and part == "test")
    }
    return ImageParts(opened["train"], opened.get("test"))


@image_reader(
    "published",
    layout="DATA/<name of a public data set>",
    recognises=recognised,
    parts=open_parts,
    rank=5,
)
def open_all(path: Path, classes: Sequence[str] | None = None, skip_bad: bool = False) -> Dataset:
    """Open training and test images as one dataset.

    Raises:
        DataError: as `open_parts`.
    """
    entries = [entry for part in _files(path).values() for entry in part]
    return build(path.name, entries, classes, skip_bad=skip_bad)


def _files(path: Path) -> dict[str, list[ImageFile]]:
    from petiole.data.readers.public.registry import files_of

    try:
        return files_of(path.name, path.parent, cache=path.parent / ".petiole")
    except PermissionError as error:
        raise DataError(
            f"{path.parent}: {path.name} cannot be unpacked there ({error.strerror}). Make the folder "
            "writable, or copy the data set to one that is."
        ) from error

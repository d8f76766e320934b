"""Data sets with a folder a class: Tiny-ImageNet, ImageNet-R."""

from __future__ import annotations

from pathlib import Path

from petiole.data.checks.images import ImageFile
from petiole.data.dataset import Dataset, Sample
from petiole.data.image import SUFFIXES
from petiole.data.readers.folder import class_folders, visible_files
from petiole.data.readers.public.registry import Parts, Place, known, lines_of, present
from petiole.data.splits import holdout
from petiole.errors import DataError
from petiole.files import sha256

TEST_FRACTION, SEED = 0.2, 0
"""Of ImageNet-R, which was published without a split."""

_TINY = "tiny-imagenet-200"
_R = "imagenet-r"


@known(
    "tiny-imagenet",
    classes=200,
    images=110_000,
    url="http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    needs=[f"{_TINY}/{f}" for f in ("wnids.txt", "train", "val")],
)
def tiny_imagenet(place: Place) -> Parts:
    """64-pixel ImageNet; the published test part has no labels, so ``val`` is the test part.

    ``val/`` is as published (``images/`` and ``val_annotations.txt``) or sorted into classes already.
    """
    place.need()
    folder = place.root / _TINY
    wnids = set(lines_of(folder / "wnids.txt"))
    val, listed = folder / "val", folder / "val" / "val_annotations.txt"
    as_published = (val / "images").is_dir() and listed.is_file()
    parts = {
        "train": _classes(folder / "train"),
        "test": _annotated(val / "images", listed) if as_published else _classes(val),
    }
    for name, entries in parts.items():
        if other := sorted({entry.label for entry in entries} ^ wnids):
            raise DataError(
                f"{folder}: its {name} images and wnids.txt name different classes, e.g. {other[0]}. "
                f"Unpack the archive again ({place.known.url})."
            )
    return parts


def _annotated(images: Path, listed: Path) -> list[ImageFile]:
    """Files and classes of ``val_annotations.txt``; the four further columns are a bounding box."""
    rows = [line.split("\t") for line in lines_of(listed)]
    if bad := [row for row in rows if len(row) < 2]:
        raise DataError(
            f"{listed}: not readable ({bad[0][0]!r} has no class). Unpack the archive again."
        )
    return present((images / row[0], row[1]) for row in rows)


@known(
    "imagenet-r",
    classes=200,
    images=30_000,
    url="https://people.eecs.berkeley.edu/~hendrycks/imagenet-r.tar",
    needs=[_R],
)
def imagenet_r(place: Place) -> Parts:
    """Renditions of 200 ImageNet classes.

    ``train/`` and ``test/`` are taken where they exist. Otherwise a fifth of each class is held back,
    by image content: the same images on every machine and for every seed.
    """
    place.need()
    folder = place.root / _R
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        return {part: _classes(folder / part) for part in ("train", "test")}
    entries = _classes(folder)
    classes = tuple(sorted({entry.label for entry in entries}))
    label = {name: i for i, name in enumerate(classes)}
    samples = tuple(Sample(entry.path, label[entry.label], sha256(entry.path)) for entry in entries)
    parts = holdout(Dataset(place.known.name, classes, samples), TEST_FRACTION, SEED)
    return {
        part: [ImageFile(sample.path, classes[sample.label]) for sample in data.samples]
        for part, data in zip(("train", "test"), parts, strict=True)
    }


def _classes(folder: Path) -> list[ImageFile]:
    """All images below a folder of class folders."""
    return [
        ImageFile(file, one.name)
        for one in class_folders(folder)
        for file in visible_files(one)
        if file.suffix.lower() in SUFFIXES
    ]

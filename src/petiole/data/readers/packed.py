"""What layouts share that pack many images into few files: labels, parts by name, and how they register."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset, Domain
from petiole.data.labels import class_names
from petiole.data.memory import MemoryImage
from petiole.data.readers.base import ImageParts, ImageReader, register
from petiole.errors import DataError

_PARTS = {
    "train": "train",
    "test": "test",
    "eval": "test",
    "val": "",
    "valid": "",
    "validation": "",
}


@dataclass(frozen=True)
class PackedImage:
    """One image inside a file.

    Attributes:
        path: what it is called: the file, and its place there.
        fetch: gives its encoded bytes.
        label: a name or a number; ``None`` where there is none.
    """

    path: Path
    fetch: Callable[[], object]
    label: object


@dataclass(frozen=True)
class Packed:
    """Images of one part, and the names of their labels' numbers, where they are stated."""

    images: Sequence[PackedImage]
    names: Sequence[str] | None = None


def part_named(text: str) -> str | None:
    """The part that a file's or folder's name begins or ends with; empty for validation, ``None`` for no part."""
    words = re.split(r"[-_.\s]", text.lower())
    return next((_PARTS[word] for word in words if word in _PARTS), None)


def by_part(files: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """Files by the part that their folder's or own name says; all train where none says one."""
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        inside = file.relative_to(root) if file.is_relative_to(root) else Path(file.name)
        named = [
            part
            for text in (*inside.parts[:-1], file.stem)
            if (part := part_named(text)) is not None
        ]
        found.setdefault(named[0] if named else "train", []).append(file)
    return found


@dataclass(frozen=True, kw_only=True)
class PackedReader(ImageReader):
    """A layout of this kind.

    Attributes:
        read: path -> part -> images, which are not opened yet.
    """

    read: Callable[[Path], Mapping[str, Packed]]


def packed_reader(
    name: str, *, layout: str, recognises: Callable[[Path], bool], rank: int
) -> Callable[[Callable[[Path], Mapping[str, Packed]]], Callable[[Path], Mapping[str, Packed]]]:
    """Register a function path -> part (``train``, ``test``, empty for unused) -> images; the rest is as of ``ImageReader``."""

    def add(read: Callable[[Path], Mapping[str, Packed]]) -> Callable[[Path], Mapping[str, Packed]]:
        register(
            PackedReader(
                name=name,
                layout=layout,
                recognises=recognises,
                rank=rank,
                read=read,
                open=partial(_open_all, read),
                parts=partial(_open_parts, read),
            )
        )
        return read

    return add


def _entries(packed: Packed, where: str) -> tuple[list[ImageFile], tuple[str, ...] | None]:
    labels = [image.label for image in packed.images]
    named, order, _ = class_names(labels, None, packed.names, where)
    return [
        ImageFile(image.path, label, image=MemoryImage(str(image.path), image.fetch))
        for image, label in zip(packed.images, named, strict=True)
    ], order


def _open_parts(
    read: Callable[[Path], Mapping[str, Packed]],
    path: Path,
    has_test: bool = False,
    skip_bad: bool = False,
) -> ImageParts:
    opened: dict[str, Dataset] = {}
    for part, packed in _used(read, path).items():
        if not (has_test and part == "test"):
            entries, order = _entries(packed, f"{path.name}/{part}")
            opened[part] = build(f"{path.stem}/{part}", entries, order, skip_bad=skip_bad)
    train = opened.get("train") or opened["test"]
    test = opened.get("test") if "train" in opened else None
    return ImageParts(train, test and test.aligned(train.classes))


def _open_all(
    read: Callable[[Path], Mapping[str, Packed]],
    path: Path,
    domain: Domain = "target",
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    parts = list(_used(read, path).values())
    whole = Packed([image for part in parts for image in part.images], parts[0].names)
    entries, order = _entries(whole, path.name)
    entries = [replace(entry, domain=domain) for entry in entries]
    return build(path.stem, entries, order if classes is None else classes, skip_bad=skip_bad)


def _used(read: Callable[[Path], Mapping[str, Packed]], path: Path) -> dict[str, Packed]:
    found = {part: packed for part, packed in read(path).items() if part and packed.images}
    if not found:
        raise DataError(f"{path}: holds no labelled images to train on or to score.")
    return found

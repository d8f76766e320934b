"""WebDataset tars: members ``KEY.jpg`` and ``KEY.cls`` (or ``KEY.json`` with ``label``), read in place.

set.tar                              one file
root/*.tar                           shards; train, test and val in their names say the part
root/{train,test}/*.tar              classnames.txt beside them names the numbers, a line each
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from petiole.data.image import MAX_BYTES, SUFFIXES
from petiole.data.readers.folder import class_folders
from petiole.data.readers.packed import Packed, PackedImage, by_part, packed_reader
from petiole.data.readers.public.registry import lines_of
from petiole.errors import DataError, boundary

NAMES = "classnames.txt"
_LABELS = ("cls", "label", "class")
_MOST_LABEL = 2**16  # bytes of a label's member


def _tars(path: Path) -> list[Path]:
    if path.suffix.lower() == ".tar" and path.is_file():
        return [path]
    parts = [path / name for name in ("train", "test", "val")]
    places = [place for place in (path, *parts) if place.is_dir()]
    if any(folder not in parts for place in places for folder in class_folders(place)):
        return []  # class folders, and the archive that they came from beside them
    return [file for place in places for file in sorted(place.glob("*.tar"))]


@packed_reader(
    "WebDataset",
    layout="*.tar of KEY.jpg and KEY.cls",
    recognises=lambda p: bool(_tars(p)),
    rank=19,  # before CoOp's ImageNet, which has a classnames.txt too
)
def read_tars(path: Path) -> Mapping[str, Packed]:
    """Index the tars; images are read when they are asked for.

    Raises:
        DataError: a file is no tar, an image has no label, or a member is too large.
    """
    root = path if path.is_dir() else path.parent
    file = root / NAMES
    names = lines_of(file) if file.is_file() else None
    return {
        part: Packed([image for tar in tars for image in _images(tar)], names)
        for part, tars in by_part(_tars(path), root).items()
    }


def _images(tar: Path) -> list[PackedImage]:
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, object] = {}
    with (
        boundary(tar, "Write it again, uncompressed.", what="not a readable tar file"),
        tarfile.open(tar, "r:") as archive,
    ):
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            key, _, kind = name.partition(".")
            key, kind = f"{folder}/{key}", kind.lower()
            if not member.isfile() or not name or name.startswith("."):
                continue
            if f".{kind}" in SUFFIXES:
                if member.size > MAX_BYTES:
                    raise DataError(
                        f"{tar}/{member.name}: has {member.size / 1e9:.1f} GB; scale it down."
                    )
                if key in pictures:
                    raise _twice(tar, key, "images", pictures[key][0], member.name)
                pictures[key] = member.name, member.offset_data, member.size
            elif kind in (*_LABELS, "json") and member.size <= _MOST_LABEL:
                content = archive.extractfile(member)
                assert content is not None  # a regular file
                label = _label(content.read().decode("utf-8"), kind)
                if label is not None and labels.setdefault(key, label) != label:
                    raise _twice(tar, key, "labels", labels[key], label)
    if lacking := [name for key, (name, _, _) in pictures.items() if labels.get(key) is None]:
        raise DataError(
            f"{tar}: {len(lacking)} of {len(pictures)} images have no label, e.g. {lacking[0]}. Add KEY.cls, or KEY.json "
            "with a field label."
        )
    return [
        PackedImage(tar / name, partial(_bytes, tar, offset, size), labels[key])
        for key, (name, offset, size) in pictures.items()
    ]


def _twice(tar: Path, key: str, what: str, one: object, other: object) -> DataError:
    return DataError(
        f"{tar}: {key.lstrip('/')} has two {what}, {one!r} and {other!r}, and only one can be right. Write the tar again."
    )


def _label(text: str, kind: str) -> object:
    value: object = text.strip()
    if kind == "json":
        row = json.loads(text)
        value = (
            next((row[name] for name in _LABELS[::-1] if name in row), None)
            if isinstance(row, dict)
            else None
        )
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _bytes(tar: Path, offset: int, size: int) -> bytes:
    with tar.open("rb") as file:
        file.seek(offset)
        return file.read(size)

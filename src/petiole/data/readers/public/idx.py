"""MNIST and the sets that were made in its form, four gzipped IDX files below ``<Set>/raw/``: MNIST, Fashion-MNIST, KMNIST.

An IDX file is a magic number (two zero bytes, 8 for bytes, the number of axes), the sizes as big-endian 32-bit numbers, and the
bytes (LeCun, "The MNIST database"). gzip's own checksum tells damage; torchvision's is not asked for, since the same images are
also handed on packed again, as by Debian.
"""

from __future__ import annotations

import gzip
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torchvision.datasets import KMNIST, MNIST, FashionMNIST  # type: ignore[import-untyped]

from petiole.data.readers.public.arrays import Labelled, unpacked
from petiole.data.readers.public.registry import Parts, Place, known, readable

_NAMES = {"train": "train", "test": "t10k"}
_BYTES = 8
"""Type of what an IDX file holds."""
_MOST = 100_000_000
"""Bytes that a file may state: twice those of the largest part."""


def _register(name: str, kind: type[MNIST]) -> None:
    folder = f"{kind.__name__}/raw"

    @known(
        name,
        classes=len(kind.classes),
        images=70_000,
        url=kind.mirrors[0],
        needs=[f"{folder}/{file}" for file, _ in kind.resources],
        fetch=lambda root: kind(str(root), download=True),
    )
    def idx(place: Place) -> Parts:
        return unpacked(place, lambda part: _images(place.root / folder, kind, part))


_register("mnist", MNIST)
_register("fashion-mnist", FashionMNIST)
_register("kmnist", KMNIST)


def _images(folder: Path, kind: type[MNIST], part: str) -> Labelled:
    pixels = read_idx(folder / f"{_NAMES[part]}-images-idx3-ubyte.gz", axes=3)
    labels = read_idx(folder / f"{_NAMES[part]}-labels-idx1-ubyte.gz", axes=1)
    with readable(folder / f"{_NAMES[part]}-labels-idx1-ubyte.gz"):
        names = [kind.classes[label].partition(" - ")[0].replace("/", "-") for label in labels]
        pairs = list(zip(pixels, names, strict=True))
    for image, name in pairs:
        yield np.repeat(image[:, :, None], 3, axis=2), name


def read_idx(file: Path, axes: int) -> NDArray[np.uint8]:
    """The bytes of a gzipped IDX file with so many axes.

    Raises:
        DataError: damaged, of another kind, or of another size than it states.
    """
    with readable(file), gzip.open(file) as stream:
        head = stream.read(4 + 4 * axes)
        if head[:4] != bytes((0, 0, _BYTES, axes)):
            raise ValueError(f"no IDX file of bytes with {axes} axes")
        sizes = np.frombuffer(head[4:], ">u4").tolist()
        if (count := prod(sizes)) > _MOST:
            raise ValueError(f"states {count:,} bytes")
        content = stream.read(count + 1)  # no more, whatever it unpacks to
        if len(content) != count:
            raise ValueError(f"not the {count:,} bytes that it states")
    return np.frombuffer(content, np.uint8).reshape(sizes)

"""Features in HDF5: a file an image (CLIP's grid), or a file a split (36 regions of a detector).

Both have a group by the image's name, as in the files of VL-T5 (Cho et al., ICML 2021):

    <folder>/<name>.h5  <name>/features (49, 2048)
    <split>.h5          <name>/features (36, 2048), boxes (36, 4) in pixels x1 y1 x2 y2, img_w, img_h
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petiole.data.features.base import (
    MOST_BYTES,
    FilesByName,
    RawFeatures,
    absent,
    checked,
    comma_listed,
    files_digest,
    too_large,
)
from petiole.errors import DataError, boundary

SLACK = 1e-3
"""How far outside the image, as a share of its size, a box may lie from rounding."""


class GridFiles(FilesByName):
    """Grid features, one HDF5 file an image."""

    kind, suffix = "grid", ".h5"

    def read(self, path: Path, name: str) -> RawFeatures:
        with _opened(path) as file:
            if name not in file:
                raise absent(name, f"{path} (it has no group of that name)")
            where = f"{path}, {name}"
            with boundary(where, "Extract it again."):
                return RawFeatures(
                    checked(_array(_group(file, path, name), "features", where), where)
                )


class RegionFiles:
    """Features and boxes of detected regions, one HDF5 file a split.

    Args:
        files: looked through in order.

    Raises:
        DataError: a file is missing.
    """

    def __init__(self, *files: Path) -> None:
        for path in files:
            if not path.is_file():
                raise DataError(f"{path}: no such file of features. Check the path.")
        self.files = files

    @cached_property
    def width(self) -> int:
        for path in self.files:
            with _opened(path) as file:
                for name in file:
                    return int(_group(file, path, name)["features"].shape[1])
        raise DataError(f"{comma_listed(self.files)}: holds no image. Extract features first.")

    @cached_property
    def digest(self) -> str:
        return files_digest("regions", self.files)

    def __call__(self, name: str) -> RawFeatures:
        for path in self.files:
            with _opened(path) as file:
                if name in file:
                    with boundary(f"{path}, {name}", "Extract it again."):
                        return _regions(_group(file, path, name), f"{path}, {name}")
        raise absent(name, comma_listed(self.files))


def _regions(group: Any, where: str) -> RawFeatures:
    tokens = checked(_array(group, "features", where), where)
    size = np.array(
        [_array(group, "img_w", where), _array(group, "img_h", where)] * 2, dtype=np.float64
    )
    boxes: NDArray[np.float64] = np.asarray(_array(group, "boxes", where), dtype=np.float64) / size
    if boxes.shape != (len(tokens), 4):
        raise DataError(f"{where}: boxes of shape {boxes.shape} for {len(tokens)} regions.")
    if not ((boxes >= -SLACK) & (boxes <= 1 + SLACK)).all():
        raise DataError(
            f"{where}: a box lies outside the image of {size[0]:g} x {size[1]:g} pixels. Store boxes "
            "as x1, y1, x2, y2 in pixels, and the image's size as img_w, img_h."
        )
    return RawFeatures(tokens, np.clip(boxes, 0, 1).astype(np.float32))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError:
        raise DataError(f"{path}: HDF5 needs h5py. Run `pip install 'petiole[vl]'`.") from None
    with (
        boundary(path, "Write it again.", what="not a readable HDF5 file"),
        h5py.File(path, "r") as file,
    ):
        yield file


def _group(file: Any, path: Path, name: str) -> Any:
    """The group of an image, which lies in this file itself.

    Raises:
        DataError: a link leads out of the file, which would read what its author chose, not its user.
    """
    from h5py import ExternalLink

    found, parts = file, name.strip("/").split("/")
    for part in parts:
        _own(found, part, f"{path}, {name}", ExternalLink)
        found = found[part]
    return found


def _array(group: Any, field: str, where: str) -> Any:
    """An array of a group, in its own file, once what it claims is seen to be bearable."""
    from h5py import ExternalLink

    _own(group, field, where, ExternalLink)
    stored = group[field]
    if stored.external or stored.is_virtual:
        raise DataError(f"{where}: {field} lies in another file. Store it in this one.")
    if (claimed := stored.size * stored.dtype.itemsize) > MOST_BYTES:
        raise too_large(f"{where}: {field} of shape {stored.shape}", claimed)
    return stored[()]


def _own(group: Any, name: str, where: str, external: type) -> None:
    if isinstance(group.get(name, getlink=True), external):
        raise DataError(f"{where}: {name} is a link to another file. Store it in this one.")

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
    FilesByName,
    RawFeatures,
    absent,
    checked,
    comma_listed,
    files_digest,
)
from petiole.errors import DataError

SLACK = 1e-3
"""How far outside the image, as a share of its size, a box may lie from rounding."""


class GridFiles(FilesByName):
    """Grid features, one HDF5 file an image."""

    kind, suffix = "grid", ".h5"

    def read(self, path: Path, name: str) -> RawFeatures:
        with _opened(path) as file:
            if name not in file:
                raise absent(name, f"{path} (it has no group of that name)")
            with _read(path, name):
                return RawFeatures(checked(file[name]["features"][()], f"{path}, {name}"))


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
                for group in file.values():
                    return int(group["features"].shape[1])
        raise DataError(f"{comma_listed(self.files)}: holds no image. Extract features first.")

    @cached_property
    def digest(self) -> str:
        return files_digest("regions", self.files)

    def __call__(self, name: str) -> RawFeatures:
        for path in self.files:
            with _opened(path) as file:
                if name in file:
                    with _read(path, name):
                        return _regions(file[name], f"{path}, {name}")
        raise absent(name, comma_listed(self.files))


def _regions(group: Any, where: str) -> RawFeatures:
    tokens = checked(group["features"][()], where)
    size = np.array([group["img_w"][()], group["img_h"][()]] * 2, dtype=np.float64)
    boxes: NDArray[np.float64] = np.asarray(group["boxes"][()], dtype=np.float64) / size
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
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: not a readable HDF5 file ({error}). Write it again.") from error
    with file:
        yield file


@contextmanager
def _read(path: Path, name: str) -> Iterator[None]:
    """A missing or damaged array is the file's fault, and says so."""
    try:
        yield
    except (KeyError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}, {name}: cannot be read ({error}). Extract it again.") from error

"""What an image is to the model: visual tokens by name, whatever they are stored in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from petiole.errors import DataError

MOST_BYTES = 2**28
"""Of one array of one image; CLIP's grids have 0.4 MB."""


class RawFeatures(NamedTuple):
    """One image, or one video.

    Attributes:
        tokens: float32 of shape (N, D): cells of a grid row by row, regions, or frames in time.
        boxes: float32 of shape (N, 4), x1, y1, x2, y2 of each region as shares of width and height in
            0..1; None for grids and frames.
    """

    tokens: NDArray[np.float32]
    boxes: NDArray[np.float32] | None = None


class FeatureSource(Protocol):
    """Visual tokens by name, and by name alone: the order of calls decides no value."""

    @property
    def width(self) -> int:
        """D of the tokens."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what decides the tokens; of files it takes names, sizes and times of change."""

    def __call__(self, name: str) -> RawFeatures:
        """Return the image's tokens.

        Raises:
            DataError: there is no such image, or what is stored for it cannot be used.
        """


class InMemory:
    """Features that are at hand.

    Args:
        visuals: by name; bare arrays are tokens without boxes.
    """

    def __init__(self, visuals: Mapping[str, RawFeatures | ArrayLike]) -> None:
        self._visuals = {
            name: v if isinstance(v, RawFeatures) else RawFeatures(checked(v, name))
            for name, v in visuals.items()
        }

    @cached_property
    def width(self) -> int:
        if not self._visuals:
            raise DataError("No features in memory. Give at least one image.")
        return int(next(iter(self._visuals.values())).tokens.shape[1])

    @cached_property
    def digest(self) -> str:
        total = hashlib.sha256()
        for name, visual in sorted(self._visuals.items()):
            for array in visual:
                shape = None if array is None else array.shape
                total.update(f"{name}|{shape}|".encode())
                total.update(b"" if array is None else np.ascontiguousarray(array).data)
        return total.hexdigest()

    def __call__(self, name: str) -> RawFeatures:
        if name not in self._visuals:
            raise absent(name, f"{len(self._visuals)} images in memory")
        return self._visuals[name]


class FilesByName:
    """Features with one file an image or video, ``<folder>/<name><suffix>``.

    Args:
        folders: looked through in order.

    Raises:
        DataError: a folder is missing.
    """

    kind: str
    suffix: str

    def __init__(self, *folders: Path) -> None:
        for folder in folders:
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder of features. Check the path.")
        self.folders = folders

    def read(self, path: Path, name: str) -> RawFeatures:
        """Return what a file holds.

        Raises:
            DataError: it cannot be used.
        """
        raise NotImplementedError

    @cached_property
    def width(self) -> int:
        found = (p for folder in self.folders for p in folder.glob(f"*{self.suffix}"))
        if (path := next(found, None)) is None:
            raise DataError(
                f"{comma_listed(self.folders)}: no {self.suffix} file. Extract features there first."
            )
        return int(self(path.stem).tokens.shape[1])

    @cached_property
    def digest(self) -> str:
        files = (p for folder in self.folders for p in sorted(folder.glob(f"*{self.suffix}")))
        return files_digest(self.kind, files)

    def __call__(self, name: str) -> RawFeatures:
        for folder in self.folders:
            path = folder / f"{name}{self.suffix}"
            if path.is_file():
                return self.read(path, name)
        raise absent(name, f"{comma_listed(self.folders)} (there is no {name}{self.suffix})")


def comma_listed(paths: Iterable[Path]) -> str:
    """Paths, for errors."""
    return ", ".join(map(str, paths))


def checked(tokens: ArrayLike, where: str) -> NDArray[np.float32]:
    """Return tokens as float32 of shape (N, D).

    Raises:
        DataError: another number of axes, no token, or values that are not finite.
    """
    array = np.asarray(tokens, dtype=np.float32)
    if array.ndim != 2 or not array.size:
        raise DataError(f"{where}: features of shape {array.shape}; (tokens, width) is needed.")
    if not np.isfinite(array).all():
        raise DataError(f"{where}: features hold NaN or infinity. Extract them again.")
    return array


def absent(name: str, where: str) -> DataError:
    """The error of an image that a source does not have."""
    return DataError(
        f"Image {name!r} has no features in {where}. Extract them, or leave its samples out."
    )


def files_digest(kind: str, files: Iterable[Path]) -> str:
    """SHA-256 (hex) over kind and the names, sizes and times of change of files.

    Not over their content, which may be 100 GB; and not over names and sizes alone, since features of
    other weights have the same size.
    """
    total = hashlib.sha256(kind.encode())
    for path in files:
        stat = path.stat()
        total.update(f"|{path.name}|{stat.st_size}|{stat.st_mtime_ns}".encode())
    return total.hexdigest()


def too_large(where: str, claimed: int) -> DataError:
    """The error of an array that claims more bytes than one image has."""
    return DataError(
        f"{where} claims {claimed / 1e9:.1f} GB; at most {MOST_BYTES / 1e9:.2f} are read for one image. Extract it again."
    )

"""Frames of a video, ``<folder>/<name>.npz`` with ``features`` of shape (frames, D): VALUE's layout."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from petiole.data.features.base import RawFeatures, absent, checked, files_digest
from petiole.errors import DataError


class FrameFiles:
    """Frame features, one file a video. Nothing is unpickled.

    Args:
        folder: of the files.

    Raises:
        DataError: the folder is missing.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder of features. Check the path.")
        self.folder = folder

    @cached_property
    def width(self) -> int:
        path = next(self.folder.glob("*.npz"), None)
        if path is None:
            raise DataError(f"{self.folder}: no .npz file. Extract features there first.")
        return int(self(path.stem).tokens.shape[1])

    @cached_property
    def digest(self) -> str:
        return files_digest("frames", sorted(self.folder.glob("*.npz")))

    def __call__(self, name: str) -> RawFeatures:
        path = self.folder / f"{name}.npz"
        if not path.is_file():
            raise absent(name, f"{self.folder} (there is no {path.name})")
        try:
            with np.load(path, allow_pickle=False) as arrays:
                features = arrays["features"]
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{path}: no array `features` that can be read ({error}). Extract it again."
            ) from error
        return RawFeatures(checked(features, str(path)))

"""Frames of a video, ``<folder>/<name>.npz`` with ``features`` of shape (frames, D): the layout of VALUE (Li et al., 2021)."""

from __future__ import annotations

from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from petiole.data.features.base import FilesByName, RawFeatures, checked
from petiole.errors import DataError


class FrameFiles(FilesByName):
    """Frame features, one file a video. Nothing is unpickled."""

    kind, suffix = "frames", ".npz"

    def read(self, path: Path, name: str) -> RawFeatures:
        try:
            # numpy leaves a file open that it opened and cannot read.
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                features = arrays["features"]
        except (OSError, ValueError, KeyError, BadZipFile) as error:
            raise DataError(
                f"{path}: no array `features` that can be read ({error}). Extract it again."
            ) from error
        return RawFeatures(checked(features, f"{path}, {name}"))

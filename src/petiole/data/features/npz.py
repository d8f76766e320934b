"""Frames of a video, ``<folder>/<name>.npz`` with ``features`` of shape (frames, D): the layout of VALUE (Li et al., 2021)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from petiole.data.features.base import FilesByName, RawFeatures, checked
from petiole.errors import boundary


class FrameFiles(FilesByName):
    """Frame features, one file a video. Nothing is unpickled."""

    kind, suffix = "frames", ".npz"

    def read(self, path: Path, name: str) -> RawFeatures:
        wrong = "no array `features` that can be read"
        with (
            boundary(path, "Extract it again.", what=wrong),
            np.load(path, allow_pickle=False) as arrays,
        ):
            features = arrays["features"]
        return RawFeatures(checked(features, f"{path}, {name}"))

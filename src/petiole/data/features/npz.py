"""Frames of a video, ``<folder>/<name>.npz`` with ``features`` of shape (frames, D): the layout of VALUE (Li et al., 2021)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from petiole.data.features.base import MOST_BYTES, FilesByName, RawFeatures, checked, too_large
from petiole.errors import boundary


class FrameFiles(FilesByName):
    """Frame features, one file a video. Nothing is unpickled."""

    kind, suffix = "frames", ".npz"

    def read(self, path: Path, name: str) -> RawFeatures:
        wrong = "no array `features` that can be read"
        # numpy leaves a file open that it opened and cannot read.
        with (
            boundary(path, "Extract it again.", what=wrong),
            path.open("rb") as stream,
            np.load(stream, allow_pickle=False) as arrays,
        ):
            if (claimed := arrays.zip.getinfo("features.npy").file_size) > MOST_BYTES:
                raise too_large(f"{path}, features", claimed)
            features = arrays["features"]
        return RawFeatures(checked(features, f"{path}, {name}"))

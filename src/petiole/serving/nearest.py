"""Training images of a run that look most alike to an image, by the frozen backbone."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petiole.backbones.base import Backbone
from petiole.data.dataset import Dataset
from petiole.data.image import load
from petiole.data.splits import SPLIT, read_split
from petiole.engine.adapter import find
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache
from petiole.errors import ConfigError

MOST, SHOWN, SIDE = 5000, 4, 96


class TrainingImages:
    """Vectors of the images that adapters were trained on, from the feature cache or computed at the first question.

    Args:
        cache: folder of the feature cache.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = FeatureCache(cache)
        self._known = lru_cache(maxsize=8)(self._read)

    def nearest(self, folder: Path, backbone: Backbone, image: Image.Image) -> list[dict[str, Any]]:
        """Labels, cosines of the frozen vectors, and thumbnails (JPEG in base64), the most alike first.

        Args:
            folder: of the adapter; its run folder names the images.
            backbone: of the adapter, frozen.
            image: that was asked about.

        Raises:
            ConfigError: the adapter has no run folder around it, or too many training images.
            DataError: an image is not there any more, or has changed.
        """
        data, vectors = self._known(find(folder), backbone)
        pixels = backbone.preprocess(image)[None].to(backbone.device)
        vector = backbone.lower(pixels, (backbone.vector,))[backbone.vector][0]
        asked = vector.float().cpu().numpy()
        alike = vectors @ (asked / np.linalg.norm(asked))
        return [
            {
                "label": data.classes[data.samples[row].label],
                "alike": float(alike[row]),
                "thumbnail": _thumbnail(data, row),
            }
            for row in np.argsort(-alike, kind="stable")[:SHOWN].tolist()
        ]

    def _read(self, folder: Path, backbone: Backbone) -> tuple[Dataset, NDArray[np.float32]]:
        file = folder.parent / SPLIT
        if not file.is_file():
            raise ConfigError(
                "This adapter has no run folder around it, so its training images are not known."
            )
        data = read_split(file).parts["train"]
        if len(data) > MOST:
            raise ConfigError(f"{len(data):,} training images are too many to look through here.")
        vectors = Features(backbone, self.cache, quiet=True).vectors(data)
        return data, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _thumbnail(data: Dataset, row: int) -> str:
    image = load(data.samples[row])
    image.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    image.save(content, "JPEG")
    return base64.b64encode(content.getvalue()).decode()

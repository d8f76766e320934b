"""Small image folders made on the spot."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

MakeFolder = Callable[..., Path]


def noise_image(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Return a function that writes ``count`` distinct images for each class below a folder."""

    def make(name: str, classes: str = "ab", count: int = 4, start: int = 0) -> Path:
        for c in classes:
            (tmp_path / name / c).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                noise_image(start + 1000 * ord(c) + i).save(tmp_path / name / c / f"{i}.png")
        return tmp_path / name

    return make

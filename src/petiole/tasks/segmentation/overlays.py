"""How masks are shown and stored: as palette PNGs, and laid over their images."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petiole.data.readers.masks import UNKNOWN
from petiole.files import replacing

OVERLAYS = "overlays"
SIDE = 160
"""Longer side of a panel, in pixels."""


def palette() -> NDArray[np.uint8]:
    """A colour for each class (256, 3): grey for the first, then hues a golden section apart; white for no class."""
    colours = [(0.35, 0.35, 0.35)]
    colours += [
        colorsys.hsv_to_rgb(0.618034 * i, 0.85, 1 - 0.35 * (i // 8 % 2)) for i in range(1, 256)
    ]
    table = np.round(255 * np.array(colours)).astype(np.uint8)
    table[UNKNOWN] = 255
    return table


def write_mask(path: Path, mask: NDArray[np.uint8]) -> None:
    """A PNG whose pixels are the numbers of classes and whose palette shows them."""
    image = Image.fromarray(mask)
    image.putpalette(palette().tobytes())
    _write(path, image, "PNG")


def write_overlay(
    path: Path, image: Image.Image, truth: NDArray[np.uint8], found: NDArray[np.uint8]
) -> None:
    """Three panels: the image, and under the colours of its true and of its predicted classes."""
    scale = SIDE / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    pixels = np.asarray(image.resize(size), dtype=np.float32)
    panels = [pixels]
    for mask in (truth, found):
        small = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
        panels.append(0.4 * pixels + 0.6 * palette()[small])
    _write(path, Image.fromarray(np.concatenate(panels, axis=1).astype(np.uint8)), "WEBP")


def _write(path: Path, image: Image.Image, form: str) -> None:
    content = io.BytesIO()
    image.save(content, form)
    with replacing(path) as staging:
        staging.write_bytes(content.getvalue())

"""Corruptions that keep labels, in the spirit of ImageNet-C (Hendrycks and Dietterich, ICLR 2019), through torchvision.

Strengths are shares of the image, so that they mean the same at every size.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image
from torchvision.transforms.v2 import functional as F  # type: ignore[import-untyped]

from petiole.errors import unknown

Change = Callable[[Image.Image], Image.Image]


def _blur(image: Image.Image) -> Image.Image:
    sigma = 0.015 * min(image.size)
    size = 2 * max(1, round(3 * sigma)) + 1
    changed: Image.Image = F.gaussian_blur(image, [size, size], [sigma, sigma])
    return changed


def _noise(image: Image.Image) -> Image.Image:
    """Gaussian, sd 0.1 of the range; the same for the same pixels."""
    pixels = np.asarray(image, dtype=np.float32)
    seed = int.from_bytes(pixels.tobytes()[:8], "little")
    noise = np.random.default_rng(seed).normal(0, 25.5, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def _jpeg(image: Image.Image) -> Image.Image:
    content = BytesIO()
    image.save(content, "JPEG", quality=10)
    return Image.open(content).convert("RGB")


def _brightness(factor: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        changed: Image.Image = F.adjust_brightness(image, factor)
        return changed

    return change


def _contrast(image: Image.Image) -> Image.Image:
    changed: Image.Image = F.adjust_contrast(image, 0.4)
    return changed


CORRUPTIONS: dict[str, Change] = {
    "blur": _blur,
    "noise": _noise,
    "jpeg": _jpeg,
    "dark": _brightness(0.5),
    "bright": _brightness(1.6),
    "contrast": _contrast,
}
"""Gaussian blur (sd 1.5 % of the shorter side), Gaussian noise (sd 10 %), JPEG of quality 10, brightness x 0.5 and
x 1.6, contrast x 0.4."""


def corruption(name: str) -> Change:
    """Return the change of an RGB image that is called so.

    Raises:
        ConfigError: unknown name; the nearest are listed.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    return CORRUPTIONS[name]

"""ImageNet-C's corruptions: stronger with severity, drawn from the pixels alone, and closed forms where there are any."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.stats import pearsonr

from petiole.data.corruptions import CORRUPTIONS, SIDE, corruption
from petiole.errors import ConfigError


def picture(size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A smooth ramp with a disk on it."""
    ramp = np.linspace(60, 180, size[0], dtype=np.uint8)[None, :, None]
    image = Image.fromarray(np.broadcast_to(ramp, (size[1], size[0], 3)).copy())
    ImageDraw.Draw(image).ellipse((60, 60, 150, 150), fill=(200, 40, 90))
    return image


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float) / 255


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_hardest_changes_more_than_the_mildest_and_repeats(name: str) -> None:
    image = picture()
    mild, hard = (corruption(name, level)(image) for level in (1, 5))
    assert mild.size == hard.size == image.size
    away = [np.abs(pixels(one) - pixels(image)).mean() for one in (mild, hard)]
    assert 0 < away[0] < away[1] or name in ("elastic_transform", "glass_blur")
    assert min(away) > 0
    assert pearsonr(pixels(mild).ravel(), pixels(image).ravel()).statistic > 0.5
    assert np.array_equal(pixels(corruption(name, 1)(image)), pixels(mild))


def test_values_are_those_of_the_definitions() -> None:
    image = picture()
    x = pixels(image)
    flat = pixels(corruption("contrast", 3)(image))
    np.testing.assert_allclose(flat, (x - x.mean((0, 1))) * 0.2 + x.mean((0, 1)), atol=0.5 / 255)
    bright = pixels(corruption("brightness", 2)(image)).max(-1)
    np.testing.assert_allclose(bright, (x.max(-1) + 0.2).clip(0, 1), atol=0.5 / 255)
    grey = Image.new("RGB", (SIDE, SIDE), (128, 128, 128))
    noise = pixels(corruption("gaussian_noise", 1)(grey)) - 128 / 255
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    shots = pixels(corruption("shot_noise", 1)(grey))
    assert shots.var() == pytest.approx(128 / 255 / 60, rel=0.03)
    hit = pixels(corruption("impulse_noise", 5)(grey))
    assert np.isin(hit, (0, 1)).mean() == pytest.approx(0.27, abs=0.01)
    point = Image.new("RGB", (SIDE, SIDE))
    point.putpixel((112, 112), (255, 255, 255))
    disk = (
        pixels(corruption("defocus_blur", 4)(Image.eval(point, lambda v: v)))[..., 0] > 0.25 / 255
    )
    assert 190 < disk.sum() < 260  # pi 8^2 = 201, softened by a pixel


def test_sizes_and_severities() -> None:
    assert corruption("fog", 1)(picture((300, 150))).size == (448, SIDE)
    assert corruption("zoom_blur", 5)(picture((300, 157))).size == (428, SIDE)
    with pytest.raises(ConfigError, match="1 to 5"):
        corruption("fog", 0)

"""ImageNet-C's corruptions: stronger with severity, drawn from the pixels alone, and closed forms where there are any.

``known_corruptions.json`` holds what each makes of a small picture at every severity, as it was when it was last looked into; after a change
that is meant: ``PETIOLE_SNAPSHOT=1 pytest tests/data/test_corruptions.py``.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from scipy.stats import pearsonr

from builders.known import digits
from builders.snapshot import kept_row, names_in
from petiole.data.corruptions import CORRUPTIONS, ON_IMAGES, ON_PIXELS, SIDE, _zoomed, corruption
from petiole.errors import ConfigError

KNOWN = Path(__file__).with_name("known_corruptions.json")


def picture(size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A smooth ramp with a disk on it."""
    ramp = np.linspace(60, 180, size[0], dtype=np.uint8)[None, :, None]
    image = Image.fromarray(np.broadcast_to(ramp, (size[1], size[0], 3)).copy())
    low, high = (round(share * min(size)) for share in (0.27, 0.67))
    ImageDraw.Draw(image).ellipse((low, low, high, high), fill=(200, 40, 90))
    return image


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=float) / 255


def changed(name: str, image: Image.Image, level: int) -> np.ndarray:
    """What a corruption makes of an image as it is, which need not have 224 pixels."""
    if name in ON_IMAGES:
        return pixels(ON_IMAGES[name](image, level))
    return ON_PIXELS[name](pixels(image), level, np.random.default_rng(0)).clip(0, 1)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_hardest_changes_more_than_the_mildest(name: str) -> None:
    image = (
        picture() if name == "elastic_transform" else picture((72, 64))
    )  # its shifts are for 224
    x = pixels(image)
    mild, hard = (changed(name, image, level) for level in (0, 4))
    assert mild.shape == hard.shape == x.shape
    away = [np.abs(one - x).mean() for one in (mild, hard)]
    assert 0 < away[0] < away[1] or name in ("elastic_transform", "glass_blur")
    assert min(away) > 0
    assert pearsonr(mild.ravel(), x.ravel()).statistic > 0.5


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
    for side in range(20, 60):
        x = np.zeros((side, 2 * side - 7, 3))
        assert all(_zoomed(x, f).shape == x.shape for f in (1.01, 1.31, 2.5))
    x = np.abs(np.arange(33) - 16.0)[:, None] * np.ones(33)
    large = _zoomed(x, 5.0)  # 7 rows of its middle, 35 then: as many are cut at both ends
    np.testing.assert_allclose(large, large[::-1], atol=1e-9)
    np.testing.assert_allclose(_zoomed(x.T, 5.0), large.T, atol=1e-9)
    with pytest.raises(ConfigError, match="1 to 5"):
        corruption("fog", 0)


def small() -> Image.Image:
    """Smooth in one half and noise in the other, no square, and no multiple of a power of two."""
    noise = np.random.default_rng(3).integers(0, 256, (37, 45, 3), dtype=np.uint8)
    noise[:, :20] = np.arange(37, dtype=np.uint8)[:, None, None] * np.array([2, 3, 5], np.uint8)
    return Image.fromarray(noise)


@pytest.mark.parametrize("name", ON_PIXELS)
def test_pixels_are_those_that_were_looked_into(name: str) -> None:
    x = pixels(small())
    now = []
    for level in range(5):
        draw = np.random.default_rng(level)
        found = ON_PIXELS[name](x.copy(), level, draw)
        now.append([*digits(torch.from_numpy(found)), round(draw.random(), 6)])
    np.testing.assert_allclose(now, kept_row(KNOWN, name, now), rtol=1e-4, atol=1e-6)


def test_no_row_is_of_a_corruption_that_is_gone() -> None:
    assert names_in(KNOWN) == set(ON_PIXELS)


def test_images_are_saved_at_the_qualities_and_shrunk_to_the_shares_of_the_authors() -> None:
    image = small()
    for level, (quality, share) in enumerate(
        zip((25, 18, 15, 10, 7), (0.6, 0.5, 0.4, 0.3, 0.25), strict=True)
    ):
        content = BytesIO()
        image.save(content, "JPEG", quality=quality)
        assert ON_IMAGES["jpeg_compression"](image, level) == Image.open(content).convert("RGB")
        low = image.resize((int(45 * share), int(37 * share)), Image.Resampling.BOX)
        assert ON_IMAGES["pixelate"](image, level) == low.resize((45, 37), Image.Resampling.BOX)
    line = Image.new("RGB", (9, 1), (7, 8, 9))
    assert ON_IMAGES["pixelate"](line, 4) == line


def test_a_change_is_given_the_resized_image_its_level_and_draws_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its draws are those of the name, the severity and the pixels; values beyond 0 and 1 are cut, the others rounded to the nearest of 256."""
    seen = {}

    def fake(x: np.ndarray, level: int, draw: np.random.Generator) -> np.ndarray:
        seen[level] = x, draw.random()
        return x + 0.499 / 255 - (level == 0) * 0.7

    monkeypatch.setitem(ON_PIXELS, "fog", fake)
    image = small()
    for severity in (1, 5):
        out = corruption("fog", severity)(image)
        x, _ = seen[severity - 1]
        assert out.size == (272, 224) == (x.shape[1], x.shape[0])
        large = np.asarray(image.resize((272, 224), Image.Resampling.BICUBIC))
        assert np.array_equal(x, large / 255)
        down = 0.7 * 255 * (severity == 1)
        assert np.array_equal(np.asarray(out), np.round((large - down + 0.499).clip(0, 255)))
    assert {level: round(drawn, 6) for level, (_, drawn) in seen.items()} == {
        0: 0.601953,
        4: 0.073566,
    }

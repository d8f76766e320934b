"""The fifteen corruptions of ImageNet-C, five severities each (Hendrycks & Dietterich, ICLR 2019, section 3).

An image is first resized so that its shorter side has 224 pixels, for which the published constants are, and what is drawn depends on
its pixels alone. Written from the definitions; the constants are those of the authors' code (github.com/hendrycks/robustness, Apache 2.0). Two
differ: the authors lay photographs of frost over the image, here frost is drawn; and motion is blurred by our own filter instead of
ImageMagick's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petiole.errors import ConfigError, unknown

Change = Callable[[Image.Image], Image.Image]
Pixels = NDArray[np.float64]
"""(height, width, 3) on the scale 0 to 1."""
Draws = np.random.Generator

SIDE = 224
SEVERITIES = (1, 2, 3, 4, 5)


def _gaussian_noise(x: Pixels, level: int, draw: Draws) -> Pixels:
    return x + draw.normal(0, (0.08, 0.12, 0.18, 0.26, 0.38)[level], x.shape)


def _shot_noise(x: Pixels, level: int, draw: Draws) -> Pixels:
    photons = (60, 25, 12, 5, 3)[level]
    return draw.poisson(x * photons) / photons


def _impulse_noise(x: Pixels, level: int, draw: Draws) -> Pixels:
    hit = draw.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[level]
    return np.where(hit, (draw.random(x.shape) < 0.5).astype(float), x)


def _defocus_blur(x: Pixels, level: int, draw: Draws) -> Pixels:  # noqa: ARG001 - nothing is drawn
    from scipy.ndimage import convolve, gaussian_filter

    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[level]
    reach = np.arange(-max(8, radius), max(8, radius) + 1)
    disk = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(float)
    kernel = gaussian_filter(disk / disk.sum(), soft, radius=1 if radius <= 8 else 2)
    return _by_channel(x, lambda c: convolve(c, kernel, mode="mirror"))


def _glass_blur(x: Pixels, level: int, draw: Draws) -> Pixels:
    sigma, reach, rounds = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[level]
    height, width = x.shape[:2]
    source = np.arange(height * width).tolist()
    for _ in range(rounds):
        moves = draw.integers(-reach, reach, (height, width, 2)).tolist()
        for row in range(height - reach - 1, reach, -1):
            for column in range(width - reach - 1, reach, -1):
                dx, dy = moves[row][column]
                one, two = row * width + column, (row + dy) * width + column + dx
                source[one], source[two] = source[two], source[one]
    shuffled = _smooth(x, sigma).reshape(-1, 3)[source].reshape(x.shape)
    return _smooth(shuffled, sigma)


def _motion_blur(x: Pixels, level: int, draw: Draws) -> Pixels:
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[level]
    return _moved(x, radius, sigma, draw.uniform(-45, 45))


def _zoom_blur(x: Pixels, level: int, draw: Draws) -> Pixels:  # noqa: ARG001 - nothing is drawn
    stop, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[level]
    factors = np.arange(1, stop, step)
    zoomed = sum(_zoomed(x, float(f)) for f in factors)
    blurred: Pixels = (x + zoomed) / (len(factors) + 1)
    return blurred


def _snow(x: Pixels, level: int, draw: Draws) -> Pixels:
    mean, spread, zoom, floor, radius, sigma, share = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[level]
    flakes = _zoomed(draw.normal(mean, spread, x.shape[:2]), zoom)
    flakes = np.where(flakes < floor, 0, flakes).clip(0, 1)
    layer = _moved(flakes[..., None], int(radius), sigma, draw.uniform(-135, -45)).clip(0, 1)
    grey = x @ np.array([0.299, 0.587, 0.114])
    pale = share * x + (1 - share) * np.maximum(x, grey[..., None] * 1.5 + 0.5)
    snowed: Pixels = pale + layer + np.rot90(layer, 2)
    return snowed


def _frost(x: Pixels, level: int, draw: Draws) -> Pixels:
    """Crystals: ridges of a rough plasma, bright and bluish."""
    keep, add = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[level]
    rough = _plasma(x.shape[:2], 1.6, draw)
    ridges = 1 - np.abs(2 * rough - 1)
    frozen: Pixels = keep * x + add * (ridges**2)[..., None] * np.array([0.85, 0.93, 1.0])
    return frozen


def _fog(x: Pixels, level: int, draw: Draws) -> Pixels:
    thick, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[level]
    top = x.max()
    fogged: Pixels = (
        (x + thick * _plasma(x.shape[:2], decay, draw)[..., None]) * top / (top + thick)
    )
    return fogged


def _brightness(x: Pixels, level: int, draw: Draws) -> Pixels:  # noqa: ARG001 - nothing is drawn
    """The value of HSV, hue and saturation kept: every channel is scaled alike."""
    value = x.max(-1, keepdims=True)
    raised = (value + (0.1, 0.2, 0.3, 0.4, 0.5)[level]).clip(0, 1)
    bright: Pixels = np.where(value > 0, x * raised / np.maximum(value, 1e-12), raised)
    return bright


def _contrast(x: Pixels, level: int, draw: Draws) -> Pixels:  # noqa: ARG001 - nothing is drawn
    mean = x.mean((0, 1))
    flat: Pixels = (x - mean) * (0.4, 0.3, 0.2, 0.1, 0.05)[level] + mean
    return flat


def _elastic_transform(x: Pixels, level: int, draw: Draws) -> Pixels:
    """A random affine map of three points, then displacements smoothed by a Gaussian."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    strengths = (
        (2, 0.7, 0.1),
        (2, 0.08, 0.2),
        (0.05, 0.01, 0.02),
        (0.07, 0.01, 0.02),
        (0.12, 0.01, 0.02),
    )
    size, sigma, affine = (244 * number for number in strengths[level])
    shape = x.shape[:2]
    centre, square = np.array(shape) // 2, min(shape) // 3
    corners = np.array([[1, 1], [1, -1], [-1, -1]]) * square + centre
    there = corners + draw.uniform(-affine, affine, (3, 2))
    back = np.linalg.solve(np.c_[there, np.ones(3)], corners.astype(float))
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1).astype(float)
    drift = np.stack(
        [
            gaussian_filter(draw.uniform(-1, 1, shape), sigma, mode="reflect", truncate=3) * size
            for _ in range(2)
        ],
        axis=-1,
    )
    moved = grid + drift
    at = np.concatenate([moved, np.ones((*shape, 1))], axis=-1) @ back
    places = np.moveaxis(at, -1, 0)
    return _by_channel(x, lambda c: map_coordinates(c, places, order=1, mode="reflect"))


def _pixelate(image: Image.Image, level: int) -> Image.Image:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[level]
    width, height = (max(1, int(side * share)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BOX).resize(
        image.size, Image.Resampling.BOX
    )


def _jpeg_compression(image: Image.Image, level: int) -> Image.Image:
    content = BytesIO()
    image.save(content, "JPEG", quality=(25, 18, 15, 10, 7)[level])
    return Image.open(content).convert("RGB")


ON_IMAGES: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
ON_PIXELS: dict[str, Callable[[Pixels, int, Draws], Pixels]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
}
CORRUPTIONS: tuple[str, ...] = (*ON_PIXELS, *ON_IMAGES)
"""Names, as ImageNet-C's folders have them."""


def corruption(name: str, severity: int = 3) -> Change:
    """Return the change of an RGB image that is called so, at a severity of 1 to 5.

    Raises:
        ConfigError: unknown name or severity.
    """
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS)
    if severity not in SEVERITIES:
        raise ConfigError(f"Severities are 1 to 5, not {severity}.")

    def change(image: Image.Image) -> Image.Image:
        factor = SIDE / min(image.size)
        width, height = (max(SIDE, round(side * factor)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        if name in ON_IMAGES:
            return ON_IMAGES[name](image, severity - 1)
        x = np.asarray(image, dtype=np.float64) / 255
        seed = hashlib.sha256(f"{name}:{severity}:".encode() + image.tobytes()).digest()
        draw = np.random.default_rng(int.from_bytes(seed))
        changed = ON_PIXELS[name](x, severity - 1, draw).clip(0, 1)
        return Image.fromarray(np.round(255 * changed).astype(np.uint8))

    return change


def _by_channel(x: Pixels, change: Callable[[Pixels], Pixels]) -> Pixels:
    return np.stack([change(x[..., i]) for i in range(x.shape[-1])], axis=-1)


def _smooth(x: Pixels, sigma: float) -> Pixels:
    from scipy.ndimage import gaussian_filter

    smooth: Pixels = gaussian_filter(x, (sigma, sigma, 0))
    return smooth


def _zoomed(x: Pixels, factor: float) -> Pixels:
    """The middle of an image, magnified to its size."""
    from scipy.ndimage import zoom

    inside = [int(np.ceil(side / factor)) for side in x.shape[:2]]
    top, left = ((side - part) // 2 for side, part in zip(x.shape, inside, strict=False))
    part = x[top : top + inside[0], left : left + inside[1]]
    large = zoom(part, (factor, factor, 1)[: x.ndim], order=1)
    spare = [(have - want) // 2 for have, want in zip(large.shape[:2], x.shape, strict=False)]
    whole: Pixels = large[spare[0] : spare[0] + x.shape[0], spare[1] : spare[1] + x.shape[1]]
    return whole


def _moved(x: Pixels, radius: int, sigma: float, angle: float) -> Pixels:
    """Motion: a mean over shifts along a line, whose weights fall like half a Gaussian."""
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    turned = np.deg2rad(angle)
    out = np.zeros_like(x)
    for step, weight in enumerate(weights / weights.sum()):
        dy, dx = round(step * np.sin(turned)), round(step * np.cos(turned))
        rows = (np.arange(x.shape[0]) - dy).clip(0, x.shape[0] - 1)
        columns = (np.arange(x.shape[1]) - dx).clip(0, x.shape[1] - 1)
        out += weight * x[rows[:, None], columns]
    return out


def _plasma(shape: Sequence[int], decay: float, draw: Draws) -> Pixels:
    """Diamond-square noise on [0, 1], (height, width): the wibble is divided by ``decay`` at each halving."""
    size = 1 << int(np.ceil(np.log2(max(shape))))
    field, step, wibble = np.zeros((size, size)), size, 100.0

    def drawn(mean: Pixels) -> Pixels:
        noise: Pixels = mean / 4 + wibble * draw.uniform(-wibble, wibble, mean.shape)
        return noise

    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        total = corners + np.roll(corners, -1, 0)
        field[half::step, half::step] = drawn(total + np.roll(total, -1, 1))
        middle = field[half::step, half::step]
        across, along = middle + np.roll(middle, 1, 0), corners + np.roll(corners, -1, 1)
        field[::step, half::step] = drawn(across + along)
        across, along = middle + np.roll(middle, 1, 1), corners + np.roll(corners, -1, 0)
        field[half::step, ::step] = drawn(across + along)
        step, wibble = half, wibble / decay
    field -= field.min()
    part: Pixels = (field / field.max())[: shape[0], : shape[1]]
    return part

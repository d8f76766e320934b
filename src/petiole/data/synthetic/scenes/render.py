"""How scenes and objects look: PIL and numpy, anti-aliased, a pure function of them and a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from petiole.data.synthetic.scenes.scene import (
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    Composition,
    Scene,
    SceneObject,
)

Floats = NDArray[np.floating]
Points = list[tuple[float, float]]
Place = tuple[float, float, float]
"""Centre and radius, as shares of the side."""
SIDE, FINE = 64, 2
"""Pixels of a picture, and how much finer it is drawn."""


def render(scene: Scene, seed: int) -> Image.Image:
    """An RGB picture of 64 x 64."""
    rng = np.random.default_rng([seed, 7])
    picture = _background(scene.style, rng)
    ink = _ink(scene.kind, rng)
    for place in _places(scene, rng):
        picture, _ = _painted(picture, scene.kind, ink, place, scene.style, rng)
    return _finished(picture, scene.style, rng)


def render_objects(objects: Sequence[SceneObject], style: str, seed: int) -> Image.Image:
    """An RGB picture of 64 x 64 of objects in their places.

    An object of radius 0 is not seen. The rest is as it would be with it, so that pictures of one seed and so many
    objects make a video.
    """
    return render_with_mask(objects, style, seed)[0]


def render_with_mask(
    objects: Sequence[SceneObject], style: str, seed: int
) -> tuple[Image.Image, NDArray[np.uint8]]:
    """The picture of ``render_objects``, and for each of its pixels the number of the object there, counted from 1; 0 for none."""
    rng = np.random.default_rng([seed, 8])
    picture = _background(style, rng)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for number, each in enumerate(objects, start=1):
        ink = _ink(each.kind, rng)
        place = each.x, each.y, each.radius
        picture, coverage = _painted(picture, each.kind, ink, place, style, rng)
        covered = coverage.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3)) >= 0.5
        if each.radius:
            mask[covered] = number
    return _finished(picture, style, rng), mask


def _ink(kind: Composition, rng: np.random.Generator) -> Floats:
    ink = np.array(list(COLOURS.values())[kind.colour], dtype=np.float32)
    return np.clip(ink + rng.normal(0, 12, 3), 0, 255).astype(np.float32)


def _painted(
    picture: Floats,
    kind: Composition,
    ink: Floats,
    place: Place,
    style: str,
    rng: np.random.Generator,
) -> tuple[Floats, Floats]:
    """The picture with one object more, and how much of each pixel that covers."""
    side = len(picture)
    x, y, radius = (share * side for share in place)
    turn = rng.uniform(-0.35, 0.35)
    mask = _mask(SHAPES[kind.shape], x, y, radius, turn, side)
    share = _texture(TEXTURES[kind.texture], mask, radius, rng)
    if not radius:
        return picture, mask
    if style == "sketch":
        share = np.maximum(_outline(mask, 2), 0.35 * share)
        alpha = (share * mask)[..., None]
        painted = np.broadcast_to(ink, picture.shape)
    else:
        other = ink * 0.35 + 0.65 * 255 if kind.texture < 5 else picture
        painted = share[..., None] * ink + (1 - share[..., None]) * other
        alpha = mask[..., None]
    return picture * (1 - alpha) + painted * alpha, mask


def _finished(picture: Floats, style: str, rng: np.random.Generator) -> Image.Image:
    """Made small and put in style."""
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return _styled(image.resize((SIDE, SIDE), Image.Resampling.BOX), style, rng)


def _places(scene: Scene, rng: np.random.Generator) -> list[Place]:
    """Centres and radii as shares of the side, far enough from each other."""
    radius = SIZES[scene.size] * (1.0 if scene.count == 1 else 0.62) * rng.uniform(0.9, 1.1)
    if scene.count == 1:
        low, high = radius + 0.03, 0.97 - radius
        return [(rng.uniform(low, high), rng.uniform(low, high), radius)]
    quarters = rng.permutation([(0.26, 0.26), (0.74, 0.26), (0.26, 0.74), (0.74, 0.74)])
    shift = rng.uniform(-0.06, 0.06, (4, 2))
    centres = (quarters + shift)[: scene.count].tolist()
    return [(float(x), float(y), radius) for x, y in centres]


def _background(style: str, rng: np.random.Generator) -> Floats:
    side = SIDE * FINE
    if style == "sketch":
        return np.full((side, side, 3), 250, dtype=np.float32)
    base = rng.uniform(200, 245) + rng.normal(0, 6, 3)
    picture = np.broadcast_to(base, (side, side, 3)).astype(np.float32).copy()
    slope = rng.normal(0, 22, 2)
    ramp = np.linspace(-1, 1, side, dtype=np.float32)
    picture += (slope[0] * ramp[:, None] + slope[1] * ramp[None, :])[..., None].astype(np.float32)
    if style == "busy":
        coarse = Image.fromarray(rng.integers(90, 256, (9, 9, 3), dtype=np.uint8))
        field = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32)
        picture = 0.35 * picture + 0.65 * field
        for _ in range(7):
            image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
            line = [tuple(rng.uniform(0, side, 2).tolist()) for _ in range(2)]
            shade = tuple(rng.integers(60, 230, 3).tolist())
            ImageDraw.Draw(image).line(line, fill=shade, width=FINE)
            picture = np.asarray(image, dtype=np.float32)
    return picture


def _mask(shape: str, x: float, y: float, r: float, turn: float, side: int) -> Floats:
    """Coverage in [0, 1], (side, side)."""
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    if shape in ("circle", "ring", "moon"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        inner = {"ring": (x, y, 0.52 * r), "moon": (x + 0.5 * r, y - 0.25 * r, 0.85 * r)}.get(shape)
        if inner:
            a, b, q = inner
            draw.ellipse((a - q, b - q, a + q, b + q), fill=0)
    else:
        c, s = cos(turn), sin(turn)
        points = [(x + r * (c * u - s * v), y + r * (s * u + c * v)) for u, v in OUTLINES[shape]()]
        draw.polygon(points, fill=255)
    return np.asarray(image, dtype=np.float32) / 255


def _outline(mask: Floats, width: int) -> Floats:
    image = Image.fromarray((255 * mask).astype(np.uint8))
    inner = np.asarray(image.filter(ImageFilter.MinFilter(2 * width + 1)), dtype=np.float32) / 255
    edge: Floats = mask - inner
    return edge


def _texture(name: str, mask: Floats, radius: float, rng: np.random.Generator) -> Floats:
    """How much of the ink is at each pixel of an object, (side, side)."""
    side = len(mask)
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    period = max(6.0, radius * rng.uniform(0.42, 0.55))
    turn = rng.uniform(0, pi)
    u, v = x * cos(turn) + y * sin(turn), y * cos(turn) - x * sin(turn)
    a, b = u / period * 2 * pi, v / period * 2 * pi
    if name == "striped":
        share = np.sin(a) > 0
    elif name == "dotted":
        share = np.cos(a) + np.cos(b) < 0.7
    elif name == "checked":
        share = (np.sin(a) > 0) ^ (np.sin(b) > 0)
    elif name == "wavy":
        share = np.sin(a + 1.6 * np.sin(0.7 * b)) > 0
    elif name == "hollow":
        return _outline(mask, max(2, int(0.22 * radius)))
    else:
        return np.ones_like(mask)
    return np.asarray(share, dtype=np.float32)


def _styled(image: Image.Image, style: str, rng: np.random.Generator) -> Image.Image:
    if style == "blurred":
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(1.0, 1.6))))
    if style == "pixelated":
        small = image.resize((SIDE // 3, SIDE // 3), Image.Resampling.BOX)
        return small.resize(image.size, Image.Resampling.NEAREST)
    values: Floats = np.asarray(image, dtype=np.float32)
    if style == "dark":
        values = values * rng.uniform(0.25, 0.4)
    elif style == "tinted":
        values = values * rng.uniform(0.55, 1.0, 3) + rng.uniform(0, 40, 3)
    grain = {"noisy": 38.0, "busy": 6.0}.get(style, 3.0)
    values = values + rng.normal(0, grain, values.shape)
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def _regular(corners: int, inner: float = 0.0) -> Points:
    """Corners of a regular polygon, or of a star with that inner radius, one corner up."""
    count = 2 * corners if inner else corners
    radii = [inner if inner and i % 2 else 1.0 for i in range(count)]
    return [
        (r * sin(2 * pi * i / count), -r * cos(2 * pi * i / count)) for i, r in enumerate(radii)
    ]


def _cross() -> Points:
    w = 0.34
    arm = [(-w, -1), (w, -1), (w, -w), (1, -w), (1, w), (w, w), (w, 1), (-w, 1), (-w, w), (-1, w)]
    return [*arm, (-1, -w), (-w, -w)]


def _heart() -> Points:
    angles = np.linspace(0, 2 * pi, 40, endpoint=False)
    x = 16 * np.sin(angles) ** 3
    y = 13 * np.cos(angles) - 5 * np.cos(2 * angles) - 2 * np.cos(3 * angles) - np.cos(4 * angles)
    return [(float(u) / 16, -float(v) / 15) for u, v in zip(x, y, strict=True)]


def _drop() -> Points:
    arc = np.linspace(-0.15 * pi, 1.15 * pi, 30)
    return [(0.0, -1.0), *((0.68 * cos(a), 0.32 + 0.68 * sin(a)) for a in arc.tolist())]


OUTLINES: dict[str, Callable[[], Points]] = {
    "square": lambda: [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": lambda: _regular(3),
    "star": lambda: _regular(5, 0.42),
    "cross": _cross,
    "heart": _heart,
    "arrow": lambda: [
        *((0.0, -1.0), (0.85, -0.1), (0.35, -0.1)),
        *((0.35, 1.0), (-0.35, 1.0), (-0.35, -0.1), (-0.85, -0.1)),
    ],
    "hexagon": lambda: _regular(6),
    "drop": _drop,
    "house": lambda: [
        (0.0, -1.0),
        (0.95, -0.1),
        (0.75, -0.1),
        (0.75, 0.9),
        (-0.75, 0.9),
        (-0.75, -0.1),
        (-0.95, -0.1),
    ],
}

"""Masks of shapes: signed distances d(x, y) of their outlines, negative inside, in pixels.

Coverage of a pixel is clip(1/2 - d, 0, 1), that of a line of width w along the outline clip((w + 1)/2 - |d|, 0, 1).
"""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

import numpy as np
from numpy.typing import NDArray

from petiole.data.synthetic.boards.objects import NOVEL, SHAPES

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
SIZE, CELL = 48, 16
"""Pixels of a picture's side and of a cell's."""
RADII = (5.0, 6.2, 7.4)
"""In pixels, by size."""

BLUR = (0.06, 0.24, 0.4, 0.24, 0.06)
"""Of one axis."""


def polygon(x: Doubles, y: Doubles, corners: list[tuple[float, float]]) -> Doubles:
    """Signed distance of (x, y) to a polygon without crossings: to its nearest edge, negative if inside (even-odd)."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        share = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex**2 + ey**2), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - share * ex, y - ay - share * ey))
        if ey:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return np.where(inside, -nearest, nearest)


def _ring(x: Doubles, y: Doubles) -> Doubles:
    distance: Doubles = np.abs(np.hypot(x, y) - 0.73) - 0.22
    return distance


def _moon(x: Doubles, y: Doubles) -> Doubles:
    distance: Doubles = np.maximum(np.hypot(x, y) - 1, 0.82 - np.hypot(x - 0.52, y))
    return distance


def _star() -> list[tuple[float, float]]:
    radii = [1.1 if i % 2 == 0 else 0.44 for i in range(10)]
    return [(r * sin(pi * i / 5), -r * cos(pi * i / 5)) for i, r in enumerate(radii)]


def _cross() -> list[tuple[float, float]]:
    arm = [(-0.3, -1.0), (0.3, -1.0), (0.3, -0.3)]
    turns = ((1, 0), (0, 1), (-1, 0), (0, -1))
    return [(c * x - s * y, s * x + c * y) for c, s in turns for x, y in arm]


def _heart() -> list[tuple[float, float]]:
    angles = [2 * pi * i / 40 for i in range(40)]
    return [
        (
            sin(a) ** 3,
            -(13 * cos(a) - 5 * cos(2 * a) - 2 * cos(3 * a) - cos(4 * a)) / 15 - 0.1,
        )
        for a in angles
    ]


OUTLINES: dict[str, Callable[[Doubles, Doubles], Doubles]] = {
    "circle": lambda x, y: np.hypot(x, y) - 0.92,
    "square": lambda x, y: polygon(x, y, [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)]),
    "triangle": lambda x, y: polygon(x, y, [(0.0, -0.95), (1.0, 0.8), (-1.0, 0.8)]),
    "cross": lambda x, y: polygon(x, y, _cross()),
    "ring": _ring,
    "diamond": lambda x, y: polygon(x, y, [(0.0, -1.05), (0.72, 0.0), (0.0, 1.05), (-0.72, 0.0)]),
    "star": lambda x, y: polygon(x, y, _star()),
    "bar": lambda x, y: polygon(x, y, [(-1.0, -0.3), (1.0, -0.3), (1.0, 0.3), (-1.0, 0.3)]),
    "heart": lambda x, y: polygon(x, y, _heart()),
    "moon": _moon,
}
"""Signed distances at radius 1."""


def _distances() -> Doubles:
    """Of every shape and size at the pixels of a cell, (shapes, sizes, CELL, CELL)."""
    y, x = np.mgrid[0:CELL, 0:CELL] - (CELL - 1) / 2
    return np.array(
        [[r * OUTLINES[name](x / r, y / r) for r in RADII] for name in (*SHAPES, *NOVEL)]
    )


def filled(distance: Doubles) -> Floats:
    """Coverage in [0, 1]."""
    return np.clip(0.5 - distance, 0, 1).astype(np.float32)


def lined(distance: Doubles, width: float) -> Floats:
    """Coverage of a line that keeps inside the outline."""
    return np.clip((width + 1) / 2 - np.abs(distance + width / 2), 0, 1).astype(np.float32)


def blurred(masks: Floats) -> Floats:
    """Masks (..., CELL, CELL) spread by BLUR along both axes; what leaves the cell is lost."""
    for axis in (-2, -1):
        masks = np.apply_along_axis(np.convolve, axis, masks, BLUR, mode="same")
    return masks.astype(np.float32)


DISTANCES = _distances()
FILLED = filled(DISTANCES)
BLURRED = blurred(FILLED)
LINED = lined(DISTANCES, 1.0)
HALO = filled(DISTANCES - 1.2)
"""A lesion's dark margin."""

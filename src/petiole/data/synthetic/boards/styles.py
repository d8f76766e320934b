"""How synthetic boards look in each domain: a batch at a time, pixel by pixel the same as one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from petiole.data.synthetic.boards.objects import CELLS, COLOURS, NOVEL, SHAPES, SIZES, Board
from petiole.data.synthetic.boards.shapes import (
    BLURRED,
    CELL,
    FILLED,
    HALO,
    LINED,
    SIZE,
    Floats,
    filled,
    polygon,
)

INK = np.array(
    [
        *([0.93, 0.12, 0.12], [0.12, 0.78, 0.18], [0.20, 0.30, 1.00], [0.95, 0.90, 0.12]),
        *([0.10, 0.88, 0.92], [0.93, 0.20, 0.88], [1.00, 0.52, 0.05], [0.62, 0.62, 0.62]),
    ],
    dtype=np.float32,
)
"""Red, green and blue of COLOURS, in [0, 1]."""
FALSE = (3, 0, 7, 4, 1, 6, 5, 2)
"""Whose ink each of COLOURS gets in the domain false, before all is inverted: no word keeps a colour."""
LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)
MASKS = {"sketch": LINED, "xray": BLURRED}
"""FILLED where not given."""
NOISE = {"sketch": 0.02, "xray": 0.06}
"""Standard deviation of a pixel; 0.04 where not given."""
_SHAPE = {name: i for i, name in enumerate((*SHAPES, *NOVEL))}
_COLOUR = {name: i for i, name in enumerate(COLOURS)}
_SIZE = {name: i for i, name in enumerate(SIZES)}
_CELL = {name: i for i, name in enumerate(CELLS)}


class BoardStyle(NamedTuple):
    """What chance decides about one picture.

    Attributes:
        board: what is seen.
        paper: colour behind the objects, (3,); of a leaf, of what it lies on.
        tint: of the inks, (objects, 3).
        leaf: colour, (3,).
        turn: which of LEAVES.
    """

    board: Board
    paper: Floats
    tint: Floats
    leaf: Floats
    turn: int


def draw_style(domain: str, board: Board, rng: np.random.Generator) -> BoardStyle:
    """Colours around those that the words mean."""
    low, high = {"sketch": (0.95, 1.0), "leaf": (0.55, 0.8)}.get(domain, (0.02, 0.2))
    luck = rng.random(7, dtype=np.float32)
    paper = (low + (high - low) * luck[:3]).astype(np.float32)
    leaf = np.array([0.1, 0.36, 0.1], dtype=np.float32) + 0.16 * luck[3:6]
    tint = 0.03 * rng.standard_normal((len(board.objects), 3), dtype=np.float32)
    return BoardStyle(board, paper, tint, leaf, int(luck[6] * len(LEAVES)))


def render(domain: str, styles: Sequence[BoardStyle], noise: Floats) -> NDArray[np.uint8]:
    """Pictures of a domain.

    Args:
        domain: one of DOMAINS.
        styles: one for each picture.
        noise: standard normal, (pictures, SIZE, SIZE, 3); overwritten.

    Returns:
        (pictures, SIZE, SIZE, 3).
    """
    canvas = np.empty((len(styles), SIZE, SIZE, 3), dtype=np.float32)
    paper = np.array([style.paper for style in styles])
    canvas[:] = _seen(domain, paper)[:, None, None]
    if domain == "leaf":
        _grow(canvas, styles)
    _paint(canvas, domain, styles)
    noise *= np.float32(NOISE.get(domain, 0.04))
    canvas += noise
    np.clip(canvas, 0, 1, out=canvas)
    canvas *= 255
    canvas += 0.5
    return canvas.astype(np.uint8)


def _paint(canvas: Floats, domain: str, styles: Sequence[BoardStyle]) -> None:
    """All objects of all pictures, each in its cell."""
    objects = [(i, each) for i, style in enumerate(styles) for each in style.board.objects]
    picture = np.array([i for i, _ in objects])
    row, column = np.divmod(np.array([_CELL[each.cell] for _, each in objects]), 3)
    which = (
        np.array([_SHAPE[each.shape] for _, each in objects]),
        np.array([_SIZE[each.size] for _, each in objects]),
    )
    colour = np.array([_COLOUR[each.colour] for _, each in objects])
    ink = INK[np.array(FALSE)[colour] if domain == "false" else colour]
    ink = _seen(domain, ink + np.concatenate([style.tint for style in styles]))
    cells = canvas.reshape(len(styles), 3, CELL, 3, CELL, 3)
    beneath = cells[picture, row, :, column]
    if domain == "leaf":
        beneath *= 1 - 0.55 * HALO[which][..., None]
        ink = 0.85 * ink
    elif domain == "sketch":
        ink = 0.85 * ink
    alpha = MASKS.get(domain, FILLED)[which][..., None]
    cells[picture, row, :, column] = beneath + alpha * (ink[:, None, None] - beneath)


def _seen(domain: str, colours: Floats) -> Floats:
    """Colours (..., 3) as the domain shows them: inverted, or with little colour and contrast on a bright floor."""
    if domain == "false":
        return 1 - colours
    if domain == "xray":
        grey = colours[..., :1] * LUMA[0] + colours[..., 1:2] * LUMA[1] + colours[..., 2:] * LUMA[2]
        faint: Floats = 0.2 * colours + 0.3 * grey + np.float32(0.45)
        return faint
    return colours


def _grow(canvas: Floats, styles: Sequence[BoardStyle]) -> None:
    """A leaf in each picture."""
    turns = np.array([style.turn for style in styles])
    blade, veins = (part[turns][..., None] for part in (LEAVES[:, 0], LEAVES[:, 1]))
    green = np.array([style.leaf - style.paper for style in styles])[:, None, None]
    canvas += blade * green
    canvas += 0.09 * veins


def _leaves() -> Floats:
    """Blade and veins in four directions, (4, 2, SIZE, SIZE)."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] - (SIZE - 1) / 2
    along = np.linspace(0, 1, 31)
    width = 20.5 * np.sin(np.pi * along**0.9) ** 0.6
    upper = list(zip((46 * along - 23).tolist(), width.tolist(), strict=True))
    blade = filled(polygon(x, y, upper + [(a, -b) for a, b in reversed(upper[1:-1])]))
    ribs = (np.abs((x - np.abs(y)) % 9 - 4) < 0.5) | (np.abs(y) < 0.8)
    both = np.stack([blade, blade * ribs.astype(np.float32)])
    return np.stack([np.rot90(both, turn, axes=(1, 2)) for turn in range(4)])


LEAVES = _leaves()

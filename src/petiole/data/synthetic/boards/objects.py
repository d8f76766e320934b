"""What there is on a synthetic board: objects with a shape, a colour, a size and a cell."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DOMAINS = ("base", "sketch", "false", "xray", "leaf", "tail", "novel")
SHAPES = ("circle", "square", "triangle", "cross", "ring", "diamond", "star", "bar")
NOVEL = ("heart", "moon")
"""Shapes of the domain novel; pictures of the others do not have them."""
COLOURS = ("red", "green", "blue", "yellow", "cyan", "magenta", "orange", "gray")
SIZES = ("small", "medium", "large")
CELLS = (
    *("top left", "top", "top right"),
    *("left", "middle", "right"),
    *("bottom left", "bottom", "bottom right"),
)
"""Row by row."""
TAIL = frozenset((SHAPES[i], COLOURS[(i + 3) % len(COLOURS)]) for i in range(len(SHAPES)))
"""Pairs of shape and colour that are rare but in the domain tail, which has no others; each shape and colour in one."""
RARITY = 50
"""How many times rarer they are than other pairs."""
LEAFY = (1, 3, 4, 5, 7)
"""Cells that a leaf covers."""
LESIONS = ("red", "yellow", "orange")


@dataclass(frozen=True)
class BoardObject:
    """One of SHAPES or NOVEL, COLOURS, SIZES and CELLS."""

    shape: str
    colour: str
    size: str
    cell: str


@dataclass(frozen=True)
class Board:
    """One to three objects in the order of their cells; shapes and colours differ, but for a leaf's lesions in shape."""

    objects: tuple[BoardObject, ...]


def draw_board(domain: str, rng: np.random.Generator) -> Board:
    """A board as the domain has them.

    Args:
        domain: one of DOMAINS.
        rng: consumed.
    """
    count = 1 + int(rng.integers(3))
    if domain == "leaf":
        shapes = [SHAPES[int(rng.integers(len(SHAPES)))]] * count
        colours = [LESIONS[i] for i in rng.permutation(len(LESIONS))[:count]]
        cells = sorted(LEAFY[i] for i in rng.permutation(len(LEAFY))[:count])
    else:
        shapes, colours = _pairs(domain, count, rng)
        cells = sorted(rng.permutation(len(CELLS))[:count].tolist())
    sizes = rng.integers(len(SIZES), size=count)
    return Board(
        tuple(
            BoardObject(shape, colour, SIZES[size], CELLS[cell])
            for shape, colour, size, cell in zip(shapes, colours, sizes, cells, strict=True)
        )
    )


def _pairs(domain: str, count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Different shapes and different colours; a board with k rare pairs is RARITY^k times rarer than one without."""
    while True:
        shapes = [SHAPES[i] for i in rng.permutation(len(SHAPES))[:count]]
        if domain == "tail":
            of = dict(TAIL)
            return shapes, [of[shape] for shape in shapes]
        colours = [COLOURS[i] for i in rng.permutation(len(COLOURS))[:count]]
        if domain == "novel":
            shapes[int(rng.integers(count))] = NOVEL[int(rng.integers(len(NOVEL)))]
        rare = len(TAIL.intersection(zip(shapes, colours, strict=True)))
        if rng.random() * RARITY**rare < 1:
            return shapes, colours

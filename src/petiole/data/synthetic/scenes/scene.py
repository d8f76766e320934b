"""What there is in a synthetic scene."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np

SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "heart",
    "moon",
    "ring",
    "arrow",
    "hexagon",
    "drop",
    "house",
)
COLOURS = {
    "red": (214, 40, 40),
    "orange": (245, 130, 30),
    "yellow": (240, 205, 30),
    "green": (50, 150, 60),
    "cyan": (40, 190, 200),
    "blue": (40, 80, 200),
    "purple": (130, 60, 170),
    "pink": (240, 130, 180),
    "brown": (125, 80, 45),
    "grey": (130, 130, 130),
}
TEXTURES = ("plain", "striped", "dotted", "checked", "wavy", "hollow")
SIZES = {"small": 0.17, "large": 0.27}
"""Radius of a lone object as a share of the picture's side."""

SEEN = ("clear", "busy", "sketch", "blurred")
UNSEEN = ("dark", "pixelated", "tinted", "noisy")
STYLES = (*SEEN, *UNSEEN)
"""Domains. Pre-training sees the first four only."""

MOST = 4


@dataclass(frozen=True)
class Composition:
    """What kind of object: indices into SHAPES, COLOURS and TEXTURES."""

    shape: int
    colour: int
    texture: int


@dataclass(frozen=True)
class Scene:
    """One to four objects of one kind.

    Attributes:
        kind: of all of them.
        count: how many.
        size: ``small`` or ``large``.
        style: one of STYLES.
    """

    kind: Composition
    count: int
    size: str
    style: str


@dataclass(frozen=True)
class SceneObject:
    """One object in its place; x, y and radius are shares of the picture's side, y points down."""

    kind: Composition
    x: float
    y: float
    radius: float


def held_out(kind: Composition) -> bool:
    """Whether a composition is kept from pre-training: 104 of 720.

    A fixed rule, (shape + 3 colour + 5 texture) mod 7 = 0, so that every shape, colour and texture is
    seen in other company.
    """
    return (kind.shape + 3 * kind.colour + 5 * kind.texture) % 7 == 0


@cache
def compositions(*, held: bool | None = None) -> tuple[Composition, ...]:
    """All kinds, in order; only those held out, or only the others."""
    everything = product(range(len(SHAPES)), range(len(COLOURS)), range(len(TEXTURES)))
    kinds = (Composition(*indices) for indices in everything)
    return tuple(kind for kind in kinds if held is None or held_out(kind) == held)


def draw_kind(rng: np.random.Generator, fits: Callable[[Composition], bool]) -> Composition:
    """A kind that pre-training may have seen and that fits, each as often as any other."""
    kinds = compositions(held=False)
    while True:
        kind = kinds[rng.integers(len(kinds))]
        if fits(kind):
            return kind


def draw_scene(
    rng: np.random.Generator, kinds: tuple[Composition, ...], styles: tuple[str, ...]
) -> Scene:
    """A scene of one of the kinds, one object as often as several."""
    count = 1 if rng.random() < 0.5 else int(rng.integers(2, MOST + 1))
    return Scene(
        kind=kinds[rng.integers(len(kinds))],
        count=count,
        size=str(rng.choice(list(SIZES))),
        style=str(rng.choice(styles)),
    )

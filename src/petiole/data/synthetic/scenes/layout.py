"""What there is in a picture of questions: one or two groups of objects, beside or above each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from petiole.data.synthetic.scenes.scene import MOST, Composition, SceneObject, draw_kind

Fits = Callable[[Composition], bool]
FEW = 3
"""Objects in one of two groups at most, so that they stay large enough to be told apart."""
BESIDE, UPRIGHT = ("left of", "right of"), ("above", "below")
"""How the first group lies to the second, and the second to the first."""


@dataclass(frozen=True)
class Group:
    """So many objects of one kind."""

    kind: Composition
    count: int


@dataclass(frozen=True)
class View:
    """A picture without its style.

    Attributes:
        groups: one or two; the left or the upper one first.
        beside: whether two groups lie left and right of each other; a lone one is then a column, else a row.
    """

    groups: tuple[Group, ...]
    beside: bool = True

    @property
    def relations(self) -> tuple[str, str]:
        """How the first lies to the second, and the second to the first."""
        return BESIDE if self.beside else UPRIGHT

    def relation(self, group: Group) -> str:
        """How one of two groups lies to the other."""
        return self.relations[self.groups.index(group)]

    def other(self, group: Group) -> Group:
        """The other of two groups."""
        return self.groups[1 - self.groups.index(group)]


def draw_group(rng: np.random.Generator, fits: Fits, most: int = FEW) -> Group:
    """A group of a kind that fits, all counts as often."""
    return Group(draw_kind(rng, fits), int(rng.integers(1, most + 1)))


def draw_pair(rng: np.random.Generator, group: Group, fits: Fits) -> View:
    """A group and another of a kind that fits, in either order and direction."""
    pair = (group, draw_group(rng, fits))
    return View(pair if rng.random() < 0.5 else pair[::-1], beside=bool(rng.random() < 0.5))


def alone(rng: np.random.Generator, group: Group) -> View:
    """A group by itself, a row or a column."""
    return View((group,), beside=bool(rng.random() < 0.5))


def draw_view(rng: np.random.Generator, group: Group) -> View:
    """A view with this group, half of the time beside one of another shape."""
    if group.count > FEW or rng.random() < 0.5:
        return alone(rng, group)
    return draw_pair(rng, group, lambda kind: kind.shape != group.kind.shape)


def draw_any(rng: np.random.Generator, fits: Fits = lambda _: True) -> View:
    """A view with at least one group of a kind that fits."""
    return draw_view(rng, draw_group(rng, fits, MOST))


def placed_objects(view: View, rng: np.random.Generator) -> list[SceneObject]:
    """Where the objects of a view are; every group is a row along the border between the two."""
    objects: list[SceneObject] = []
    lone = len(view.groups) == 1
    for i, group in enumerate(view.groups):
        largest = 0.22 if lone else 0.18
        radius = min(largest, (0.25, 0.15, 0.13, 0.105)[group.count - 1]) * rng.uniform(0.9, 1.1)
        middle = (
            0.5 + rng.uniform(-0.2, 0.2) if lone else (0.26, 0.74)[i] + rng.uniform(-0.02, 0.02)
        )
        step = 0.94 / group.count
        slack = max(0.0, 0.45 * (step - 2.1 * radius))
        for j in range(group.count):
            along = 0.03 + step * (j + 0.5) + rng.uniform(-slack, slack)
            across = float(np.clip(middle + rng.uniform(-0.03, 0.03), radius, 1 - radius))
            x, y = (across, along) if view.beside else (along, across)
            objects.append(SceneObject(group.kind, x, y, radius))
    return objects

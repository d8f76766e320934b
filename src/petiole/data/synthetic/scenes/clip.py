"""What happens in a clip of eight frames: objects that move, change their colour, or come one after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from petiole.data.synthetic.scenes.scene import Composition, SceneObject, draw_kind

LENGTH = 8
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


@dataclass(frozen=True)
class Actor:
    """One object of a clip.

    Attributes:
        kind: what it is at first.
        becomes: its colour in the end, an index into COLOURS.
        move: one of MOVES, or empty for an object at rest.
        enters: the first frame that shows it.
    """

    kind: Composition
    becomes: int
    move: str = ""
    enters: int = 0

    @property
    def changes(self) -> bool:
        """Whether its colour does not stay."""
        return self.becomes != self.kind.colour


@dataclass(frozen=True)
class SceneClip:
    """One object that moves, or two at rest of which the second comes later."""

    actors: tuple[Actor, ...]


def draw_mover(rng: np.random.Generator) -> SceneClip:
    """An object that moves; every second one changes its colour on the way."""
    kind = draw_kind(rng, lambda _: True)
    change = rng.random() < 0.5
    other = draw_kind(
        rng,
        lambda k: (k.shape, k.texture) == (kind.shape, kind.texture) and k.colour != kind.colour,
    )
    colour = other.colour if change else kind.colour
    return SceneClip((Actor(kind, colour, str(rng.choice(list(MOVES)))),))


def draw_sequence(rng: np.random.Generator) -> SceneClip:
    """Two objects of different shapes, one after the other."""
    first = draw_kind(rng, lambda _: True)
    second = draw_kind(rng, lambda kind: kind.shape != first.shape)
    enters = int(rng.integers(3, 6))
    return SceneClip((Actor(first, first.colour), Actor(second, second.colour, enters=enters)))


def draw_clip(rng: np.random.Generator) -> SceneClip:
    """Either of the two."""
    return draw_mover(rng) if rng.random() < 0.5 else draw_sequence(rng)


def frames_of(clip: SceneClip, rng: np.random.Generator) -> list[tuple[SceneObject, ...]]:
    """The objects of every frame; an object that is not there yet has radius 0."""
    starts = _starts(clip, rng)
    return [
        tuple(_at(actor, start, frame) for actor, start in zip(clip.actors, starts, strict=True))
        for frame in range(LENGTH)
    ]


def _starts(clip: SceneClip, rng: np.random.Generator) -> list[SceneObject]:
    radius = float(rng.uniform(0.15, 0.18))
    if len(clip.actors) == 1:
        x, y = rng.uniform(0.45, 0.55, 2)
        return [SceneObject(clip.actors[0].kind, float(x), float(y), radius)]
    along, across = rng.permutation([0.26, 0.74]), rng.uniform(0.3, 0.7, 2)
    swap = rng.random() < 0.5
    spots = [(b, a) if swap else (a, b) for a, b in zip(along, across, strict=True)]
    return [
        SceneObject(actor.kind, float(x), float(y), radius)
        for actor, (x, y) in zip(clip.actors, spots, strict=True)
    ]


def _at(actor: Actor, middle: SceneObject, frame: int) -> SceneObject:
    dx, dy = MOVES.get(actor.move, (0, 0))
    way = 0.52 * (frame / (LENGTH - 1) - 0.5)
    colour = actor.becomes if frame >= LENGTH // 2 else actor.kind.colour
    return SceneObject(
        replace(actor.kind, colour=colour),
        middle.x + way * dx,
        middle.y + way * dy,
        middle.radius if frame >= actor.enters else 0.0,
    )

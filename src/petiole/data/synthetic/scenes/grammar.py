"""What is said about a scene: captions by a small grammar, and names of classes."""

from __future__ import annotations

import numpy as np

from petiole.data.synthetic.scenes.scene import COLOURS, SHAPES, TEXTURES, Composition, Scene

NUMBERS = ("one", "two", "three", "four")
PLURALS = {"cross": "crosses"}
FRAMES = {
    "clear": ("a photo of {}.", "a picture of {}.", "{}.", "an image with {}."),
    "busy": ("a busy photo of {}.", "{} in a busy place.", "a photo of {} with clutter."),
    "sketch": ("a sketch of {}.", "a drawing of {}.", "{} drawn with lines."),
    "blurred": ("a blurred photo of {}.", "{} out of focus."),
}
"""Sentences around a thing, by style; unseen styles have none of their own."""

PHRASE = "itap of the bad low many good this that there are is"
"""Words that templates of others use and no caption here does; they stay untrained."""


def class_name(kind: Composition) -> str:
    """``striped red star``."""
    return " ".join((TEXTURES[kind.texture], list(COLOURS)[kind.colour], SHAPES[kind.shape]))


def plural(shape: str) -> str:
    """Several of a shape."""
    return PLURALS.get(shape, shape + "s")


def thing(scene: Scene, rng: np.random.Generator) -> str:
    """The things of a scene with article or number; parts that go without saying are often left out."""
    return phrase(scene.kind, scene.count, rng, size=scene.size)


def phrase(kind: Composition, count: int, rng: np.random.Generator, *, size: str = "") -> str:
    """So many things of a kind with article or number, some parts left out."""
    words = [list(COLOURS)[kind.colour]] if rng.random() < 0.85 else []
    if rng.random() < (0.85 if kind.texture else 0.5):
        words.insert(0, TEXTURES[kind.texture])
    if size and rng.random() < 0.4:
        words.insert(0, size)
    shape = SHAPES[kind.shape]
    if count == 1:
        return " ".join(("a", *words, shape))
    number = NUMBERS[count - 1] if rng.random() < 0.8 else "some"
    return " ".join((number, *words, plural(shape)))


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """A sentence about a scene: always its shape, mostly its colour and texture, never another's."""
    frames = FRAMES.get(scene.style, FRAMES["clear"])
    return frames[rng.integers(len(frames))].format(thing(scene, rng))


def words() -> tuple[str, ...]:
    """Every word of captions and class names, and some that others' templates use, in order."""
    frames = " ".join(frame.format("") for kind in FRAMES.values() for frame in kind)
    known = [
        *frames.replace(".", " . ").split(),
        *NUMBERS,
        "some",
        "small",
        "large",
        "a",
        "the",
        "type",
    ]
    known += [*COLOURS, *TEXTURES, *SHAPES, *map(plural, SHAPES), *PHRASE.split()]
    return tuple(sorted(set(known)))

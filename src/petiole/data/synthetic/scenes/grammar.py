"""Sentences by a small grammar: captions, which leave things out, descriptions, which do not, and names of classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from petiole.data.synthetic.scenes.clip import Actor, SceneClip
from petiole.data.synthetic.scenes.layout import Group, View
from petiole.data.synthetic.scenes.scene import COLOURS, SHAPES, TEXTURES, Composition, Scene

NUMBERS = ("one", "two", "three", "four")
PLURALS = {"cross": "crosses"}
FRAMES = {
    "clear": ("a photo of {}.", "a picture of {}.", "{}.", "an image with {}."),
    "busy": ("a busy photo of {}.", "{} in a busy place.", "a photo of {} with clutter."),
    "sketch": ("a sketch of {}.", "a drawing of {}.", "{} drawn with lines."),
    "blurred": ("a blurred photo of {}.", "{} out of focus."),
}
"""Sentences around an object, by style; unseen styles have none of their own."""

PHRASE = "itap of the bad low many good this that there are is"
"""Words that templates of others use and no caption here does; they stay untrained."""

CAPTIONS = 5
"""Captions of a picture, all different, as in COCO."""
Words = Callable[[Group], str]
JOINS = {
    True: ("{a} left of {b}", "{b} right of {a}", "{a} on the left and {b} on the right"),
    False: ("{a} above {b}", "{b} below {a}", "{a} at the top and {b} at the bottom"),
}
"""Sentences about two groups, by ``View.beside``."""
LOOSE = ("{a} and {b}", "{b} and {a}", "{b} next to {a}")
"""The same without saying where they are."""


def class_name(kind: Composition) -> str:
    """``striped red star``."""
    return " ".join((TEXTURES[kind.texture], list(COLOURS)[kind.colour], SHAPES[kind.shape]))


def plural(shape: str) -> str:
    """Several of a shape."""
    return PLURALS.get(shape, shape + "s")


def objects_phrase(scene: Scene, rng: np.random.Generator) -> str:
    """The objects of a scene with article or number; parts that go without saying are often left out."""
    return phrase(scene.kind, scene.count, rng, size=scene.size)


def phrase(kind: Composition, count: int, rng: np.random.Generator, *, size: str = "") -> str:
    """So many objects of a kind with article or number, some parts left out."""
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
    return frame(scene.style, rng).format(objects_phrase(scene, rng))


def frame(style: str, rng: np.random.Generator) -> str:
    """A sentence of a style with {} for the objects."""
    frames = FRAMES.get(style, FRAMES["clear"])
    return frames[rng.integers(len(frames))]


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


def description(shown: View | SceneClip, rng: np.random.Generator) -> str:
    """A sentence that leaves nothing out: who has read it can answer all questions about the picture or clip."""
    if isinstance(shown, SceneClip):
        return _clip_sentence(shown, lambda actor: f"a {class_name(actor.kind)}", every=True)
    return _joined(shown, _complete, JOINS[shown.beside], rng) + "."


def captions(shown: View | SceneClip, style: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Five different sentences, each of which may leave out parts."""
    found: dict[str, None] = {}
    while len(found) < CAPTIONS:
        found[_caption(shown, style, rng)] = None
    return tuple(found)


def _caption(shown: View | SceneClip, style: str, rng: np.random.Generator) -> str:
    if isinstance(shown, SceneClip):
        return _clip_sentence(
            shown, lambda a: phrase(a.kind, 1, rng), every=bool(rng.random() < 0.5)
        )
    around = frame(style, rng)
    joins = JOINS[shown.beside] + LOOSE[: 1 + int(rng.integers(len(LOOSE)))]
    return around.format(_joined(shown, lambda g: phrase(g.kind, g.count, rng), joins, rng))


def _joined(view: View, words: Words, joins: tuple[str, ...], rng: np.random.Generator) -> str:
    if len(view.groups) == 1:
        return words(view.groups[0])
    a, b = map(words, view.groups)
    return joins[rng.integers(len(joins))].format(a=a, b=b)


def _complete(group: Group) -> str:
    """``two striped red stars``."""
    name, shape = class_name(group.kind), SHAPES[group.kind.shape]
    if group.count > 1:
        name = name.removesuffix(shape) + plural(shape)
    return f"{NUMBERS[group.count - 1]} {name}"


def _clip_sentence(clip: SceneClip, words: Callable[[Actor], str], *, every: bool) -> str:
    first, *later = clip.actors
    if later:
        verb = "comes" if every else "appears"
        return f"first {words(first)} {verb}, then {words(later[0])}."
    text = f"{words(first)} moves {first.move}"
    if first.changes and every:
        return f"{text} and turns {list(COLOURS)[first.becomes]}."
    if every:
        return f"{text} and stays {list(COLOURS)[first.kind.colour]}."
    return text + "."

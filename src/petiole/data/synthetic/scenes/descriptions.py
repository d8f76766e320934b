"""What is said about views and clips: captions that leave things out, and accounts that do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from petiole.data.synthetic.scenes.clip import Actor, SceneClip
from petiole.data.synthetic.scenes.grammar import FRAMES, NUMBERS, class_name, phrase, plural
from petiole.data.synthetic.scenes.layout import Group, View
from petiole.data.synthetic.scenes.scene import COLOURS, SHAPES

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


def account(shown: View | SceneClip, rng: np.random.Generator) -> str:
    """A sentence that tells everything: who has read it can answer all questions about the picture or clip."""
    if isinstance(shown, SceneClip):
        return _happening(shown, lambda actor: f"a {class_name(actor.kind)}", every=True)
    return _joined(shown, _whole, JOINS[shown.beside], rng) + "."


def captions(shown: View | SceneClip, style: str, rng: np.random.Generator) -> tuple[str, ...]:
    """Five different sentences, each of which may leave out parts."""
    found: dict[str, None] = {}
    while len(found) < CAPTIONS:
        found[_caption(shown, style, rng)] = None
    return tuple(found)


def _caption(shown: View | SceneClip, style: str, rng: np.random.Generator) -> str:
    if isinstance(shown, SceneClip):
        return _happening(shown, lambda a: phrase(a.kind, 1, rng), every=bool(rng.random() < 0.5))
    frames = FRAMES.get(style, FRAMES["clear"])
    frame = frames[rng.integers(len(frames))]
    joins = JOINS[shown.beside] + LOOSE[: 1 + int(rng.integers(len(LOOSE)))]
    return frame.format(_joined(shown, lambda g: phrase(g.kind, g.count, rng), joins, rng))


def _joined(view: View, words: Words, joins: tuple[str, ...], rng: np.random.Generator) -> str:
    if len(view.groups) == 1:
        return words(view.groups[0])
    a, b = map(words, view.groups)
    return joins[rng.integers(len(joins))].format(a=a, b=b)


def _whole(group: Group) -> str:
    """``two striped red stars``."""
    name, shape = class_name(group.kind), SHAPES[group.kind.shape]
    if group.count > 1:
        name = name.removesuffix(shape) + plural(shape)
    return f"{NUMBERS[group.count - 1]} {name}"


def _happening(clip: SceneClip, words: Callable[[Actor], str], *, every: bool) -> str:
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

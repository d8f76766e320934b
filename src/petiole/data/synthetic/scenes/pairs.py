"""Sentences about two pictures that are true or false, as in NLVR2.

Every sentence comes with a pair of which it is true and a pair of which it is false, so that it alone says
nothing, and consistency over its group means something.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from petiole.data.synthetic.scenes.annotation import Annotation
from petiole.data.synthetic.scenes.grammar import plural
from petiole.data.synthetic.scenes.layout import BESIDE, UPRIGHT, Fits, View, draw_any
from petiole.data.synthetic.scenes.scene import COLOURS, SHAPES, TEXTURES, Composition

Holds = Callable[[View, View], bool]
Sentence = tuple[str, Holds, Fits]
"""What is said, when it holds, and the kinds that it is about."""
SIDES = ("left", "right")


def nlvr(rng: np.random.Generator) -> tuple[Annotation, Annotation]:
    """A sentence with a pair of which it is true, and with one of which it is not."""
    text, holds, about = SENTENCES[rng.integers(len(SENTENCES))](rng)
    true, false = (
        Annotation(text, (str(truth).lower(),), _pair(rng, holds, about, truth))
        for truth in (True, False)
    )
    return true, false


def _pair(rng: np.random.Generator, holds: Holds, about: Fits, truth: bool) -> tuple[View, View]:
    """Views drawn until they fit; each is about the sentence's objects three times out of five."""
    while True:
        one, two = (draw_any(rng, about if rng.random() < 0.6 else _all) for _ in SIDES)
        if holds(one, two) == truth:
            return one, two


def _all(_: Composition) -> bool:
    return True


def _number(view: View, fits: Fits) -> int:
    return sum(group.count for group in view.groups if fits(group.kind))


def _property(rng: np.random.Generator) -> tuple[str, Fits]:
    """Words for some kinds of objects, in the plural."""
    part = rng.integers(3)
    if part == 0:
        shape = int(rng.integers(len(SHAPES)))
        return plural(SHAPES[shape]), lambda kind: kind.shape == shape
    if part == 1:
        colour = int(rng.integers(len(COLOURS)))
        return f"{list(COLOURS)[colour]} things", lambda kind: kind.colour == colour
    texture = int(rng.integers(len(TEXTURES)))
    return f"{TEXTURES[texture]} things", lambda kind: kind.texture == texture


def _both(rng: np.random.Generator) -> Sentence:
    words, fits = _property(rng)
    text = f"there are {words} in both pictures."
    return text, lambda *pair: all(_number(view, fits) for view in pair), fits


def _one(rng: np.random.Generator) -> Sentence:
    words, fits = _property(rng)
    text = f"only one of the pictures has {words}."
    return text, lambda *pair: sum(_number(view, fits) > 0 for view in pair) == 1, fits


def _none(rng: np.random.Generator) -> Sentence:
    words, fits = _property(rng)
    text = f"there are no {words} in the pictures."
    return text, lambda *pair: not any(_number(view, fits) for view in pair), fits


def _side(rng: np.random.Generator) -> Sentence:
    side = int(rng.integers(len(SIDES)))
    words, fits = _property(rng)
    text = f"the {SIDES[side]} picture has {words}."
    return text, lambda *pair: _number(pair[side], fits) > 0, fits


def _total(rng: np.random.Generator) -> Sentence:
    words, fits = _property(rng)
    number = int(rng.integers(2, 6))
    text = f"there are {number} {words} in all."
    return text, lambda *pair: sum(_number(view, fits) for view in pair) == number, fits


def _more(rng: np.random.Generator) -> Sentence:
    side = int(rng.integers(len(SIDES)))
    text = f"the {SIDES[side]} picture has more things than the {SIDES[1 - side]} one."
    return text, lambda *pair: _number(pair[side], _all) > _number(pair[1 - side], _all), _all


def _relation(rng: np.random.Generator) -> Sentence:
    first, second = (int(i) for i in rng.permutation(len(SHAPES))[:2])
    relation = str(rng.choice((*BESIDE, *UPRIGHT)))

    def there(view: View) -> bool:
        shapes = [group.kind.shape for group in view.groups]
        for i, j in ((0, 1), (1, 0)):
            if len(shapes) == 2 and (shapes[i], shapes[j]) == (first, second):
                return view.relations[i] == relation
        return False

    text = f"in one picture there are {plural(SHAPES[first])} {relation} {plural(SHAPES[second])}."
    return text, lambda *pair: any(map(there, pair)), lambda kind: kind.shape in (first, second)


SENTENCES = (_both, _one, _none, _side, _total, _more, _relation)

"""One question, sentence or caption, before it is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from petiole.data.synthetic.scenes.clip import SceneClip
from petiole.data.synthetic.scenes.layout import View

HUMANS = 10
SYNONYMS = {
    "purple": "violet",
    "grey": "gray",
    "cyan": "light blue",
    "plain": "solid",
    "striped": "stripes",
    "dotted": "dots",
    "checked": "checkered",
    "wavy": "waves",
    "circle": "disc",
    "cross": "plus",
    "moon": "crescent",
    "drop": "tear",
    "1": "one",
    "2": "two",
    "3": "three",
    "4": "four",
}
"""What some people say instead."""


@dataclass(frozen=True)
class Annotation:
    """A question, sentence or wish with what it is about.

    Attributes:
        text: without any prefix; empty for captions.
        references: what counts as right: the answer, ten human answers, or five captions.
        shown: one view, two, or one clip.
    """

    text: str
    references: tuple[str, ...]
    shown: tuple[View | SceneClip, ...]


def human_answers(answer: str, choices: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Ten human answers: on average 8 say ``answer``, 1.2 a synonym where there is one, the others guess.

    Six say ``answer`` in any case, so that it alone is the majority's and surely wholly right.
    """
    answers = [answer] * 6
    for luck in rng.random(HUMANS - len(answers)):
        if luck < 0.5:
            answers.append(answer)
        elif luck < 0.8:
            answers.append(SYNONYMS.get(answer, answer))
        else:
            answers.append(choices[int(rng.integers(len(choices)))])
    return tuple(str(word) for word in rng.permutation(answers))

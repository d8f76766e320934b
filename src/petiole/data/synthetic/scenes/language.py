"""Synthetic scenes without pictures: what a small language model can learn about it from text alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from petiole.data.synthetic.scenes.annotation import SYNONYMS
from petiole.data.synthetic.scenes.clip import draw_clip
from petiole.data.synthetic.scenes.grammar import NUMBERS, captions, description, plural, words
from petiole.data.synthetic.scenes.layout import draw_any
from petiole.data.synthetic.scenes.samples import QUESTIONS, descriptions
from petiole.data.synthetic.scenes.scene import COLOURS, SEEN, SHAPES, TEXTURES

OTHER_WORDS = """
, : ? [ ] 5 a0 a1 a2 a3 above all and appears at below both bottom choices colour comes do does down false first
happens has have how it last left more move moves next no on only or pattern pictures q right same shape stays than
then thing things to top true turns up way what which yes
"""
"""Words and signs of questions, captions and descriptions that ``words()`` lacks, for it is petiole/tiny-clip's vocabulary."""


class ReadingText(NamedTuple):
    """A text that holds the answer to a question.

    Attributes:
        task: one of QUESTIONS.
        context: a description of a picture, two, or a clip.
        question: the text of the sample.
        answer: the one that most people give.
    """

    task: str
    context: str
    question: str
    answer: str


def statements(rng: np.random.Generator) -> Iterator[str]:
    """Sentences about pictures and clips without end: every second one leaves nothing out, the others do."""
    while True:
        shown = draw_any(rng) if rng.random() < 0.7 else draw_clip(rng)
        yield description(shown, rng)
        yield captions(shown, str(rng.choice(SEEN)), rng)[0]


def readings(rng: np.random.Generator) -> Iterator[ReadingText]:
    """Questions with all that their answers need, without end, every task as often."""
    named = [name for name, task in QUESTIONS.items() if not task.captions]
    while True:
        name = named[rng.integers(len(named))]
        samples = QUESTIONS[name].draw(rng)
        annotation = samples[rng.integers(len(samples))]
        answer = Counter(annotation.references).most_common(1)[0][0]
        yield ReadingText(name, descriptions(annotation, rng), annotation.text, answer)


def language_words() -> tuple[str, ...]:
    """Every word and sign of all texts about synthetic scenes, ``words()`` and the prefixes of its tasks, in order.

    Texts are taken apart into runs of small letters and digits, and single signs.
    """
    known = [
        *words(),
        *OTHER_WORDS.split(),
        *NUMBERS,
        *COLOURS,
        *TEXTURES,
        *SHAPES,
        *map(plural, SHAPES),
    ]
    known += " ".join((*SYNONYMS, *SYNONYMS.values())).split()
    known += [task.scored for task in QUESTIONS.values()]
    return tuple(sorted(set(known)))

"""Questions about clips with four choices, put as TVQA and How2QA put them.

[Q] which way does the star move? [Choices] a0: up. a1: left. a2: down. a3: right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from petiole.data.readers.video import video_text
from petiole.data.synthetic.scenes.annotation import Annotation
from petiole.data.synthetic.scenes.clip import MOVES, SceneClip, draw_mover, draw_sequence
from petiole.data.synthetic.scenes.scene import COLOURS, SHAPES


def video_qa(rng: np.random.Generator) -> tuple[Annotation]:
    """A question whose answer is one of a0 to a3."""
    text, right, wrong, clip = FAMILIES[rng.integers(len(FAMILIES))](rng)
    order = [str(choice) for choice in rng.permutation([right, *wrong])]
    choices = " ".join(f"a{i}: {choice}." for i, choice in enumerate(order))
    question = video_text({"Q": text, "Choices": choices}, "safe")
    return (Annotation(question, (f"a{order.index(right)}",), (clip,)),)


Choice = tuple[str, str, Sequence[str], SceneClip]
"""A question, its answer, three wrong ones, and the clip."""


def _order(rng: np.random.Generator) -> Choice:
    """The wrong choices are the other object and two that are not there."""
    clip = draw_sequence(rng)
    names = [SHAPES[actor.kind.shape] for actor in clip.actors]
    which = int(rng.integers(2))
    away = rng.permutation([shape for shape in SHAPES if shape not in names])[:2]
    text = f"what comes {('first', 'last')[which]}?"
    return text, names[which], [names[1 - which], *away], clip


def _way(rng: np.random.Generator) -> Choice:
    clip = draw_mover(rng)
    actor = clip.actors[0]
    text = f"which way does the {SHAPES[actor.kind.shape]} move?"
    return text, actor.move, [move for move in MOVES if move != actor.move], clip


def _change(rng: np.random.Generator) -> Choice:
    """The choices are two colours to stay and the same two to turn to."""
    clip = draw_mover(rng)
    actor = clip.actors[0]
    colours = list(COLOURS)
    used = (actor.kind.colour, actor.becomes)
    other = (
        used[1] if actor.changes else rng.choice([i for i in range(len(colours)) if i != used[0]])
    )
    pair = (colours[used[0]], colours[other])
    choices = [f"it {verb} {colour}" for verb in ("stays", "turns") for colour in pair]
    right = f"it turns {pair[1]}" if actor.changes else f"it stays {pair[0]}"
    text = f"what happens to the colour of the {SHAPES[actor.kind.shape]}?"
    return text, right, [choice for choice in choices if choice != right], clip


FAMILIES = (_order, _way, _change)

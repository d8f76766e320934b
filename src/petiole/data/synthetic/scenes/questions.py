"""Questions about one picture: single ones as in VQA, and ones of two steps as in GQA.

Every family draws the answer first, evenly, and then a view that it fits, so that a question says little about its
answer: the most frequent answer to questions of the same form is right for 19 % of VQA's (8 % without the question)
and for 37 % of GQA's (21 %), where more of them are answered by yes or no.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from petiole.data.synthetic.scenes.annotation import Annotation, human_answers
from petiole.data.synthetic.scenes.grammar import plural
from petiole.data.synthetic.scenes.layout import (
    FEW,
    Group,
    View,
    alone,
    draw_any,
    draw_group,
    draw_pair,
    draw_view,
)
from petiole.data.synthetic.scenes.scene import COLOURS, MOST, SHAPES, TEXTURES, Composition

PARTS = {"colour": tuple(COLOURS), "shape": SHAPES, "texture": TEXTURES}
NOUNS = {"colour": "colour", "shape": "shape", "texture": "pattern"}
Family = Callable[[np.random.Generator], tuple[str, str, View]]
"""To a question, its answer, and a view that shows it."""


def value(kind: Composition, part: str) -> str:
    """The word for one part of a kind."""
    index: int = getattr(kind, part)
    return PARTS[part][index]


def noun(kind: Composition, count: int) -> str:
    """``star`` or ``stars``."""
    shape = SHAPES[kind.shape]
    return shape if count == 1 else plural(shape)


def named(group: Group) -> str:
    """``red stars``: enough to tell a group from another of a different colour or shape."""
    return f"{value(group.kind, 'colour')} {noun(group.kind, group.count)}"


def vqa(rng: np.random.Generator) -> tuple[Annotation]:
    """A question with ten human answers."""
    text, answer, view = SINGLE[rng.integers(len(SINGLE))](rng)
    similar = next((words for words in _WORDS if answer in words), (answer,))
    return (Annotation(text, human_answers(answer, similar, rng), (view,)),)


def gqa(rng: np.random.Generator) -> tuple[Annotation]:
    """A question that needs two steps, with one answer."""
    text, answer, view = DOUBLE[rng.integers(len(DOUBLE))](rng)
    return (Annotation(text, (answer,), (view,)),)


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _shown(rng: np.random.Generator) -> tuple[Group, View]:
    view = draw_any(rng)
    return view.groups[rng.integers(len(view.groups))], view


def _two(rng: np.random.Generator) -> tuple[Group, Group, View]:
    """A group, another that does not look the same in colour and shape, and a view of both."""
    group = draw_group(rng, lambda _: True)
    view = draw_pair(rng, group, lambda kind: _look(kind) != _look(group.kind))
    return group, view.other(group), view


def _look(kind: Composition) -> tuple[int, int]:
    return kind.shape, kind.colour


def _colour(rng: np.random.Generator) -> tuple[str, str, View]:
    group, view = _shown(rng)
    text = f"what colour {_are(group.count)} the {noun(group.kind, group.count)}?"
    return text, value(group.kind, "colour"), view


def _pattern(rng: np.random.Generator) -> tuple[str, str, View]:
    group, view = _shown(rng)
    verb = "has" if group.count == 1 else "have"
    text = f"what pattern {verb} the {noun(group.kind, group.count)}?"
    return text, value(group.kind, "texture"), view


def _shape(rng: np.random.Generator) -> tuple[str, str, View]:
    group = draw_group(rng, lambda _: True, MOST)
    view = draw_view(rng, group)
    if any(group.kind.colour == other.kind.colour for other in view.groups if other != group):
        view = alone(rng, group)
    thing = "thing" if group.count == 1 else "things"
    text = f"what {_are(group.count)} the {value(group.kind, 'colour')} {thing}?"
    return text, value(group.kind, "shape"), view


def _number(rng: np.random.Generator) -> tuple[str, str, View]:
    group = draw_group(rng, lambda _: True, MOST)
    text = f"how many {noun(group.kind, 2)} are there?"
    return text, str(group.count), draw_view(rng, group)


def _exists(rng: np.random.Generator) -> tuple[str, str, View]:
    """An object that is not there has the shape of one and the colour of the other, if there are two."""
    group, view = _shown(rng)
    kind = group.kind
    there = rng.random() < 0.5
    colour = value(kind, "colour")
    if not there:
        away = [c for i, c in enumerate(COLOURS) if i != kind.colour]
        others = [value(g.kind, "colour") for g in view.groups if g.kind.colour != kind.colour]
        colour = str(rng.choice(others or away))
    shape = noun(kind, group.count)
    text = f"is there a {colour} {shape}?" if group.count == 1 else f"are there {colour} {shape}?"
    return text, "yes" if there else "no", view


def _where(rng: np.random.Generator) -> tuple[str, str, View]:
    group = draw_group(rng, lambda _: True)
    view = draw_pair(rng, group, lambda kind: kind.shape != group.kind.shape)
    other = view.other(group)
    text = f"what is {view.relation(other)} the {noun(group.kind, group.count)}?"
    return text, value(other.kind, "shape"), view


def _query(part: str) -> Family:
    def ask(rng: np.random.Generator) -> tuple[str, str, View]:
        group, other, view = _two(rng)
        thing = "thing" if other.count == 1 else "things"
        end = f"the {thing} {view.relation(other)} the {named(group)}?"
        verbs = ("is", "are") if part != "texture" else ("has", "have")
        return f"what {NOUNS[part]} {verbs[other.count > 1]} {end}", value(other.kind, part), view

    return ask


def _beyond(rng: np.random.Generator) -> tuple[str, str, View]:
    group, other, view = _two(rng)
    text = f"how many things are {view.relation(other)} the {named(group)}?"
    return text, str(other.count), view


def _choose(rng: np.random.Generator) -> tuple[str, str, View]:
    group, other, view = _two(rng)
    words = [relation.removesuffix(" of") for relation in view.relations]
    answer = view.relation(group)
    text = f"{_are(group.count)} the {named(group)} {words[0]} or {view.relations[1]} the {named(other)}?"
    return text, answer.removesuffix(" of"), view


def _verify(rng: np.random.Generator) -> tuple[str, str, View]:
    """What is wrong, if something is: half of the time the place, half of the time the colour."""
    group, other, view = _two(rng)
    relation, named_group = view.relation(group), group
    luck = rng.random()
    if luck < 0.25:
        relation = view.relation(other)
    elif luck < 0.5:
        colours = [i for i in range(len(COLOURS)) if i != group.kind.colour]
        kind = Composition(group.kind.shape, int(rng.choice(colours)), group.kind.texture)
        named_group = Group(kind, group.count)
    start = "is there a" if group.count == 1 else "are there"
    text = f"{start} {named(named_group)} {relation} the {named(other)}?"
    return text, "no" if luck < 0.5 else "yes", view


def _same(rng: np.random.Generator) -> tuple[str, str, View]:
    part = ("colour", "texture")[rng.integers(2)]
    group = draw_group(rng, lambda _: True)
    equal = rng.random() < 0.5

    def fits(kind: Composition) -> bool:
        same = getattr(kind, part) == getattr(group.kind, part)
        return bool(kind.shape != group.kind.shape and same == equal)

    view = draw_pair(rng, group, fits)
    one, two = (noun(g.kind, g.count) for g in view.groups)
    return (
        f"do the {one} and the {two} have the same {NOUNS[part]}?",
        "yes" if equal else "no",
        view,
    )


def _more(rng: np.random.Generator) -> tuple[str, str, View]:
    more, less = sorted(rng.permutation(FEW)[:2] + 1, reverse=True)
    first = draw_group(rng, lambda _: True)
    kinds = draw_pair(rng, first, lambda kind: kind.shape != first.kind.shape)
    a, b = (Group(group.kind, int(n)) for group, n in zip(kinds.groups, (more, less), strict=True))
    yes = bool(rng.random() < 0.5)
    compared = (a, b) if yes else (b, a)
    text = "are there more {} than {}?".format(*(noun(group.kind, 2) for group in compared))
    pair = (a, b) if rng.random() < 0.5 else (b, a)
    return text, "yes" if yes else "no", View(pair, kinds.beside)


SINGLE: tuple[Family, ...] = (_colour, _pattern, _shape, _number, _exists, _where)
DOUBLE: tuple[Family, ...] = (
    *map(_query, PARTS),
    _beyond,
    _choose,
    _verify,
    _same,
    _more,
)
_WORDS = (*PARTS.values(), tuple(map(str, range(1, MOST + 1))), ("yes", "no"))

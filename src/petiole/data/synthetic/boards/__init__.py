"""Synthetic boards: pictures of 48 x 48 pixels, questions that are answered with reasons, and domains that look otherwise.

    objects      what there is: one to three objects of different shapes and colours in the cells of a 3 x 3 board
    annotations  captions, facts, questions, answers with ``because`` and, after ``briefly``, without
    shapes       signed distances of the outlines, and masks made of them
    styles       how the domains look: base, sketch, false, xray, leaf, tail, novel
    samples      ``draw(domain, part, index, seed)``, ``batch``, and ``write``: a domain as JSON Lines with pictures

What a model of the base domain learns is to explain; what a domain teaches is to see: its questions never say
``briefly``, and its answers are short all the same. Everything is a pure function of seeds.
"""

from petiole.data.synthetic.boards.annotations import (
    BoardQuestion,
    caption,
    clauses,
    facts,
    questions,
    text_only_sentences,
    words,
)
from petiole.data.synthetic.boards.objects import (
    CELLS,
    COLOURS,
    DOMAINS,
    NOVEL,
    SHAPES,
    SIZES,
    TAIL,
    Board,
    BoardObject,
    draw_board,
)
from petiole.data.synthetic.boards.samples import BoardSample, batch, draw, write
from petiole.data.synthetic.boards.shapes import SIZE

__all__ = [
    "CELLS",
    "COLOURS",
    "DOMAINS",
    "NOVEL",
    "SHAPES",
    "SIZE",
    "SIZES",
    "TAIL",
    "Board",
    "BoardObject",
    "BoardQuestion",
    "BoardSample",
    "batch",
    "caption",
    "clauses",
    "draw",
    "draw_board",
    "facts",
    "questions",
    "text_only_sentences",
    "words",
    "write",
]

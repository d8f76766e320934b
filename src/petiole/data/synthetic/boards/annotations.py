"""What is said about a synthetic board: captions, facts, and questions with answers and reasons."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from petiole.data.synthetic.boards.objects import (
    COLOURS,
    NOVEL,
    SHAPES,
    Board,
    BoardObject,
    draw_board,
)

NUMBERS = ("one", "two", "three")
KINDS = {"shape": 0.24, "color": 0.2, "count": 0.12, "where": 0.2, "at": 0.14, "describe": 0.1}
"""How often each kind of question is asked in the base domain."""
OMITTED: dict[str, tuple[str, ...]] = {"base": (), "novel": ("describe", "count")}
"""Kinds that a domain does not ask; the others have short answers only, and do not ask to describe."""
BRIEFLY = 0.3
"""How often it is asked briefly there."""
FRAME = (
    *("what", "shape", "is", "the", "thing", "?", "color", "how", "many", "things", "where"),
    *("at", "describe", ".", "briefly", ",", "because", "there", "a", "an", "and", "it"),
    *("top", "bottom", "left", "right", "middle"),
)


@dataclass(frozen=True)
class BoardQuestion:
    """A question and its one right answer.

    Attributes:
        kind: one of KINDS.
        text: the question, words and punctuation apart.
        answer: the short answer; of ``describe .``, the caption.
        because: the reason, facts joined by ``and`` and a full stop; empty where none is given.
        briefly: whether the question says so.
    """

    kind: str
    text: str
    answer: str
    because: str
    briefly: bool

    @property
    def target(self) -> str:
        """What a model learns to say."""
        if self.briefly or not self.because:
            return self.answer
        return f"{self.answer} because {self.because}"


def words() -> tuple[str, ...]:
    """All words and marks that are ever said, in a fixed order."""
    return (*FRAME, *NUMBERS, *COLOURS, *SHAPES, *NOVEL)


def caption(board: Board) -> str:
    """All objects with their places, in the order of cells: ``a red circle at top left and a bar ... .``."""
    return " and ".join(f"{_a(_name(t))} at {t.cell}" for t in board.objects) + " ."


def facts(board: Board) -> tuple[str, ...]:
    """All true statements that a reason can be made of, four for each object, without full stops."""
    return tuple(
        fact for t in board.objects for fact in (_is_shape(t), _is_colour(t), _exists(t), _is_at(t))
    )


def clauses(because: str) -> tuple[str, ...]:
    """The statements of a reason, as ``facts`` has them: split at ``and``, without the full stop."""
    return tuple(because.removesuffix(".").strip().split(" and "))


def questions(board: Board, rng: np.random.Generator, count: int) -> list[BoardQuestion]:
    """Different questions about one board, as the base domain asks them.

    Args:
        board: of one to three objects.
        rng: consumed.
        count: of questions; there are no more than 8, 10 or 14 about one, two or three objects.
    """
    possible = [(kind, who) for kind in KINDS for who in _whom(board, kind)]
    weights = np.array([KINDS[kind] / len(_whom(board, kind)) for kind, _ in possible])
    count = min(count, len(possible))
    chosen = rng.choice(len(possible), count, replace=False, p=weights / weights.sum())
    brief = (rng.random(count) < BRIEFLY).tolist()
    return [_question(board, *possible[i], briefly=b) for i, b in zip(chosen, brief, strict=True)]


def ask(board: Board, domain: str, rng: np.random.Generator) -> BoardQuestion:
    """One question as the domain asks it: in all but base with a short answer and no word about that."""
    if domain == "leaf":
        return BoardQuestion("shape", "what shape is it ?", board.objects[0].shape, "", False)
    kinds = [kind for kind in KINDS if kind not in OMITTED.get(domain, ("describe",))]
    chances = np.cumsum([KINDS[kind] for kind in kinds])
    kind = kinds[int(np.searchsorted(chances, rng.random() * chances[-1], side="right"))]
    whom = _whom(board, kind)
    if domain == "novel":
        whom = [who for who in whom if board.objects[who].shape in NOVEL]
    who = whom[int(rng.integers(len(whom)))]
    if domain == "base":
        return _question(board, kind, who, briefly=bool(rng.random() < BRIEFLY))
    question = _question(board, kind, who, briefly=False)
    return BoardQuestion(kind, question.text, question.answer, "", False)


def text_only_sentences(rng: np.random.Generator) -> tuple[str, ...]:
    """What is said of a board with a shape of NOVEL: its caption and its facts, for language without pictures."""
    board = draw_board("novel", rng)
    return (caption(board), *(f"{fact} ." for fact in facts(board)))


IT = -1
"""Stands for the only object, called ``it``."""


def _whom(board: Board, kind: str) -> list[int]:
    """About which objects, by number, a question of this kind can be asked; 0 if it is about the board."""
    if kind in ("count", "describe"):
        return [0]
    alone = [IT] if len(board.objects) == 1 and kind in ("shape", "color") else []
    return [*range(len(board.objects)), *alone]


def _question(board: Board, kind: str, who: int, *, briefly: bool) -> BoardQuestion:
    one = board.objects[who]
    if kind == "describe":
        return BoardQuestion(kind, "describe .", caption(board), "", False)
    if kind == "shape":
        what = "it" if who == IT else f"the {one.colour} thing"
        text, answer, because = f"what shape is {what} ?", one.shape, _is_shape(one)
    elif kind == "color":
        what = "it" if who == IT else f"the {one.shape}"
        text, answer, because = f"what color is {what} ?", one.colour, _is_colour(one)
    elif kind == "count":
        text, answer = "how many things ?", NUMBERS[len(board.objects) - 1]
        because = " and ".join(_exists(t) for t in board.objects)
    elif kind == "where":
        text, answer, because = f"where is the {_name(one)} ?", one.cell, _is_at(one)
    else:
        text, answer, because = f"what is at {one.cell} ?", _name(one), _is_at(one)
    return BoardQuestion(
        kind, f"briefly , {text}" if briefly else text, answer, f"{because} .", briefly
    )


def _name(one: BoardObject) -> str:
    return f"{one.colour} {one.shape}"


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _is_shape(one: BoardObject) -> str:
    return f"the {one.colour} thing at {one.cell} is {_a(one.shape)}"


def _is_colour(one: BoardObject) -> str:
    return f"the {one.shape} at {one.cell} is {one.colour}"


def _exists(one: BoardObject) -> str:
    return f"there is {_a(_name(one))}"


def _is_at(one: BoardObject) -> str:
    return f"the {_name(one)} is at {one.cell}"

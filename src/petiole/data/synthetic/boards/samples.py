"""Samples of the board: ``draw`` one, or a ``batch`` of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from petiole.data.synthetic.boards.annotations import BoardQuestion, ask, caption, facts
from petiole.data.synthetic.boards.objects import DOMAINS, Board, draw_board
from petiole.data.synthetic.boards.shapes import SIZE
from petiole.data.synthetic.boards.styles import draw_style, render
from petiole.errors import ConfigError, unknown

PARTS = ("train", "val", "test")


@dataclass(frozen=True, eq=False)
class BoardSample:
    """One sample.

    Attributes:
        board: what is in the picture.
        image: (48, 48, 3).
        asked: a question about it.
        caption: all there is; of a leaf, no more than the shape of its lesions.
        label: equal for samples that mean the same: the caption, or a leaf's shape word.
        facts: all true statements that a reason can be made of.
    """

    board: Board
    image: NDArray[np.uint8]
    asked: BoardQuestion
    caption: str
    label: str
    facts: tuple[str, ...]


def draw(domain: str, part: str, index: int, seed: int = 0) -> BoardSample:
    """One sample, a pure function of the arguments.

    Args:
        domain: one of DOMAINS.
        part: ``train``, ``val`` or ``test``; they share nothing but chance.
        index: from 0, without end.
        seed: of the data set.

    Raises:
        ConfigError: an unknown domain or part, or a negative index or seed.
    """
    return batch(domain, part, [index], seed)[0]


def batch(domain: str, part: str, indices: Sequence[int], seed: int = 0) -> list[BoardSample]:
    """Samples bit for bit as ``draw`` gives them, their pictures drawn together.

    Raises:
        ConfigError: as ``draw``.
    """
    if domain not in DOMAINS:
        raise unknown("domain of the board", domain, DOMAINS)
    if part not in PARTS:
        raise unknown("part of a data set", part, PARTS)
    if seed < 0 or any(index < 0 for index in indices):
        raise ConfigError(f"Indices {list(indices)} and seed {seed} of drawn samples start at 0.")
    if not len(indices):
        return []
    key = [seed, DOMAINS.index(domain), PARTS.index(part)]
    noise = np.empty((len(indices), SIZE, SIZE, 3), dtype=np.float32)
    asked, looks = [], []
    for field, index in zip(noise, indices, strict=True):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*key, int(index)])))
        board = draw_board(domain, rng)
        asked.append(ask(board, domain, rng))
        looks.append(draw_style(domain, board, rng))
        rng.standard_normal(dtype=np.float32, out=field)
    images = render(domain, looks, noise)
    return [
        _drawn(domain, look.board, image, question)
        for look, image, question in zip(looks, images, asked, strict=True)
    ]


def _drawn(
    domain: str, board: Board, image: NDArray[np.uint8], asked: BoardQuestion
) -> BoardSample:
    told = f"a {board.things[0].shape} ." if domain == "leaf" else caption(board)
    label = board.things[0].shape if domain == "leaf" else told
    return BoardSample(board, image, asked, told, label, facts(board))

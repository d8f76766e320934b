"""Samples of synthetic boards: ``draw`` one, a ``batch`` of them at once, or ``write`` a folder of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from petiole.data.synthetic.boards.annotations import BoardQuestion, ask, caption, facts
from petiole.data.synthetic.boards.objects import DOMAINS, Board, draw_board
from petiole.data.synthetic.boards.shapes import SIZE
from petiole.data.synthetic.boards.styles import draw_style, render
from petiole.data.synthetic.drawn import Advance, DrawnSample, stream, write_samples
from petiole.data.text_dataset import PARTS
from petiole.data.text_sample import TextSample
from petiole.errors import unknown


@dataclass(frozen=True, eq=False)
class BoardSample(DrawnSample):
    """One sample.

    Its caption says everything, but of a leaf no more than the shape of its lesions; samples of
    one label mean the same: the label is the caption, or a leaf's shape word; its facts are all true statements
    that a reason can be made of.

    Attributes:
        board: what is in the picture.
        image: (48, 48, 3).
        question: about the board.
    """

    board: Board
    image: NDArray[np.uint8]
    question: BoardQuestion

    @property
    def pictures(self) -> tuple[Image.Image, ...]:
        """The image, 48 x 48 pixels."""
        return (Image.fromarray(self.image),)


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
        raise unknown("domain of synthetic boards", domain, DOMAINS)
    key = stream(seed, DOMAINS, domain, part, indices)
    if not len(indices):
        return []
    noise = np.empty((len(indices), SIZE, SIZE, 3), dtype=np.float32)
    questions, styles = [], []
    for field, index in zip(noise, indices, strict=True):
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([*key, int(index)])))
        board = draw_board(domain, rng)
        questions.append(ask(board, domain, rng))
        styles.append(draw_style(domain, board, rng))
        rng.standard_normal(dtype=np.float32, out=field)
    images = render(domain, styles, noise)
    return [
        _sample(domain, f"{part}-{index}", style.board, image, question)
        for index, style, image, question in zip(indices, styles, images, questions, strict=True)
    ]


def _sample(
    domain: str, key: str, board: Board, image: NDArray[np.uint8], question: BoardQuestion
) -> BoardSample:
    shape = board.objects[0].shape
    text = f"a {shape} ." if domain == "leaf" else caption(board)
    sample = TextSample(
        key,
        question.text,
        (f"images/{key}.png",),
        {question.target: 1.0},
        (question.target,),
        caption=text,
        label=shape if domain == "leaf" else text,
        facts=facts(board),
    )
    return BoardSample(sample, board, image, question)


def write(
    folder: Path,
    domain: str,
    train: int = 2000,
    val: int = 500,
    test: int = 1000,
    seed: int = 0,
    advance: Advance = lambda _: None,
) -> Path:
    """Write a domain as JSON Lines with images/, see `petiole.data.synthetic.drawn.write_samples`.

    The answer is what is to be learned: in the base domain with its reason unless the question says briefly, in
    the others short.

    Args:
        folder: must not exist yet.
        domain: one of DOMAINS.
        train, val, test: samples of each part.
        seed: as of ``draw``, which gives the same samples.
        advance: called with the samples written since.

    Returns:
        The folder, which appears only when it is complete.

    Raises:
        ConfigError: an unknown domain.
        DataError: the folder exists.
    """
    if domain not in DOMAINS:
        raise unknown("domain of synthetic boards", domain, DOMAINS)
    counts = dict(zip(PARTS, (train, val, test), strict=True))

    def drawn(part: str, indices: Sequence[int]) -> list[BoardSample]:
        return batch(domain, part, indices, seed)

    return write_samples(Path(folder), "question", counts, drawn, advance=advance)

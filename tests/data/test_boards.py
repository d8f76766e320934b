"""The board: one right answer to each question, reasons that are facts, and pictures that show what is said."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from petiole.cli import main
from petiole.data.synthetic.boards import (
    CELLS,
    COLOURS,
    DOMAINS,
    NOVEL,
    SHAPES,
    SIZE,
    SIZES,
    TAIL,
    Board,
    BoardObject,
    batch,
    caption,
    clauses,
    draw,
    draw_board,
    facts,
    questions,
    text_only_sentences,
    words,
    write,
)
from petiole.data.synthetic.boards.shapes import polygon
from petiole.data.synthetic.boards.styles import FALSE, INK
from petiole.data.text_dataset import PARTS
from petiole.errors import ConfigError, DataError

SEEDS = st.integers(0, 2**31 - 1)
TWO = Board(
    (
        BoardObject("circle", "red", "small", "top left"),
        BoardObject("square", "orange", "large", "middle"),
    )
)


def right_answers(board: Board, question: str) -> set[str]:
    """What is right by a naive reading of the question, over all things."""
    question, things = question.removeprefix("briefly , "), board.objects
    if question == "describe .":
        return {caption(board)}
    if question == "how many things ?":
        return {("one", "two", "three")[len(things) - 1]}
    if found := re.fullmatch(r"what shape is (?:it|the (\w+) thing) \?", question):
        return {t.shape for t in things if found[1] in (None, t.colour)}
    if found := re.fullmatch(r"what color is (?:it|the (\w+)) \?", question):
        return {t.colour for t in things if found[1] in (None, t.shape)}
    if found := re.fullmatch(r"where is the (\w+) (\w+) \?", question):
        return {t.cell for t in things if found.groups() == (t.colour, t.shape)}
    found = re.fullmatch(r"what is at ([\w ]+) \?", question)
    assert found, question
    return {f"{t.colour} {t.shape}" for t in things if t.cell == found[1]}


def test_what_is_said_of_two_things() -> None:
    assert caption(TWO) == "a red circle at top left and an orange square at middle ."
    assert facts(TWO)[:4] == (
        "the red thing at top left is a circle",
        "the circle at top left is red",
        "there is a red circle",
        "the red circle is at top left",
    )
    rng = np.random.default_rng(0)
    asked = {a.text: a.target for _ in range(30) for a in questions(TWO, rng, 10)}
    assert len(asked) == 10 + 9  # all but describe with and without briefly
    red = "what shape is the red thing ?"
    assert asked[red] == "circle because the red thing at top left is a circle ."
    assert asked[f"briefly , {red}"] == "circle"
    assert asked["what color is the circle ?"] == "red because the circle at top left is red ."
    reason = "there is a red circle and there is an orange square ."
    assert asked["how many things ?"] == f"two because {reason}"
    at = "top left because the red circle is at top left ."
    assert asked["where is the red circle ?"] == at
    assert asked["what is at top left ?"] == at.replace("top left", "red circle", 1)
    assert asked["describe ."] == caption(TWO)


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.sampled_from(["base", "tail", "novel"]))
def test_each_question_has_one_right_answer_and_its_reason_is_true(seed: int, domain: str) -> None:
    rng = np.random.default_rng(seed)
    board = draw_board(domain, rng)
    asked = questions(board, rng, 99)
    assert len({a.text for a in asked}) == len(asked) == {1: 8, 2: 10, 3: 14}[len(board.objects)]
    for a in asked:
        assert right_answers(board, a.text) == {a.answer}
        if a.because:
            assert set(clauses(a.because)) <= set(facts(board))
            assert a.target.startswith(a.answer)
            assert ("because" in a.target) != a.briefly
        assert set(f"{a.text} {a.target}".split()) <= set(words())


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(DOMAINS), st.integers(0, 10_000), st.integers(0, 50))
def test_domains_ask_what_has_one_answer_and_only_base_explains(
    domain: str, index: int, seed: int
) -> None:
    drawn = draw(domain, "val", index, seed)
    board, asked = drawn.board, drawn.question
    assert right_answers(board, asked.text) == {asked.answer}
    spoken = f"{asked.text} {asked.target} {drawn.sample.caption} {drawn.sample.label} {' '.join(drawn.sample.facts)}"
    assert set(spoken.split()) <= set(words())
    cells = [CELLS.index(t.cell) for t in board.objects]
    assert cells == sorted(set(cells))
    assert len({t.colour for t in board.objects}) == len(cells)
    assert len({t.shape for t in board.objects}) == (1 if domain == "leaf" else len(cells))
    if domain != "base":
        assert not asked.briefly
        assert not asked.because
        assert asked.kind != "describe"
    if domain == "novel":
        new = [t for t in board.objects if t.shape in NOVEL]
        assert len(new) == 1
        assert right_answers(Board((new[0],)), asked.text) == {asked.answer}
    else:
        assert not set(spoken.split()) & set(NOVEL)
    if domain == "tail":
        assert all((t.shape, t.colour) in TAIL for t in board.objects)
    assert drawn.sample.label == (
        board.objects[0].shape if domain == "leaf" else drawn.sample.caption
    )


@pytest.mark.parametrize("domain", DOMAINS)
def test_a_batch_is_bit_for_bit_what_is_drawn_one_by_one(domain: str) -> None:
    indices = [5, 0, 17, 3, 900, 4, 5]
    together = batch(domain, "test", indices, 2)
    for index, drawn in zip(indices, together, strict=True):
        alone = draw(domain, "test", index, 2)
        assert drawn.image.shape == (SIZE, SIZE, 3)
        assert drawn.image.dtype == np.uint8
        np.testing.assert_array_equal(drawn.image, alone.image)
        assert (drawn.board, drawn.question, drawn.sample.facts) == (
            alone.board,
            alone.question,
            alone.sample.facts,
        )


def test_parts_seeds_and_domains_share_no_picture() -> None:
    keys = [(d, p, s) for d in DOMAINS for p in PARTS for s in (0, 1)]
    pictures = [x.image.tobytes() for d, p, s in keys for x in batch(d, p, range(10), s)]
    assert len(set(pictures)) == len(pictures)


def test_rare_pairs_are_rare_in_base() -> None:
    assert {s for s, _ in TAIL} == set(SHAPES)
    assert {c for _, c in TAIL} == set(COLOURS)
    rng = np.random.default_rng(3)
    things = [t for _ in range(6000) for t in draw_board("base", rng).objects]
    seen = Counter((t.shape, t.colour) for t in things)
    rare = np.mean([seen[pair] for pair in TAIL])
    usual = np.mean([seen[(s, c)] for s in SHAPES for c in COLOURS if (s, c) not in TAIL])
    assert 30 < usual / rare < 85
    assert min(seen[(s, c)] for s in SHAPES for c in COLOURS if (s, c) not in TAIL) > 0.7 * usual


def test_the_base_picture_shows_each_thing_in_its_cell_and_colour() -> None:
    for drawn in batch("base", "train", range(60)):
        cells = drawn.image.reshape(3, 16, 3, 16, 3).swapaxes(1, 2).reshape(9, 256, 3) / 255.0
        filled = {t.cell: t for t in drawn.board.objects}
        for name, pixels in zip(CELLS, cells, strict=True):
            bright = pixels[pixels.max(1) > 0.5]
            if name not in filled:
                assert not len(bright)
                continue
            assert len(bright) >= 12
            nearest = np.square(np.median(bright, 0) - INK).sum(1).argmin()
            assert COLOURS[nearest] == filled[name].colour


def test_no_word_keeps_its_colour_in_false() -> None:
    assert sorted(FALSE) == list(range(len(COLOURS)))
    shown = 1 - INK[list(FALSE)]
    apart = np.sqrt(np.square(shown[:, None] - INK).sum(-1))
    assert (np.diag(apart) > 0.4).all()
    assert (apart.argmin(1) != np.arange(len(COLOURS))).all()
    between = np.sqrt(np.square(shown[:, None] - shown).sum(-1))
    assert between[~np.eye(len(COLOURS), dtype=bool)].min() > 0.3


def test_sketches_are_lines_on_white_and_xrays_have_little_colour() -> None:
    base, sketch, xray = (
        np.stack([d.image for d in batch(domain, "val", range(40))]) / 255.0
        for domain in ("base", "sketch", "xray")
    )
    assert np.median(sketch) > 0.94
    assert np.median(base) < 0.2
    assert 0.4 < np.median(xray) < 0.6
    inked = (np.abs(sketch - np.median(sketch, (1, 2), keepdims=True)).max(-1) > 0.2).mean()
    filled = (base.max(-1) > 0.5).mean()
    assert 0.2 < inked / filled < 0.9


def test_polygon_distance_is_that_of_a_box() -> None:
    x, y = np.random.default_rng(0).uniform(-3, 3, (2, 500))
    got = polygon(x, y, [(-1.0, -0.5), (1.0, -0.5), (1.0, 0.5), (-1.0, 0.5)])
    qx, qy = np.abs(x) - 1, np.abs(y) - 0.5
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    np.testing.assert_allclose(got, outside + np.minimum(np.maximum(qx, qy), 0), atol=1e-12)


def test_novel_words_are_said_in_text_alone() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        told = text_only_sentences(rng)
        assert any(shape in told[0].split() for shape in NOVEL)
        assert all(s.endswith(" .") and set(s.split()) <= set(words()) for s in told)
    assert len(set(words())) == len(words()) < 61
    assert {"briefly", "because", *NOVEL} <= set(words())
    assert not set(SIZES) & set(words())


def test_written_folders(tmp_path: Path) -> None:
    steps: list[int] = []
    folder = write(tmp_path / "a", "base", 130, 3, 4, seed=1, advance=steps.append)
    assert sum(steps) == 137
    assert json.loads((folder / "task.json").read_text()) == {"task": "question"}
    for part, count in zip(PARTS, (130, 3, 4), strict=True):
        lines = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text().splitlines()]
        assert len(lines) == count
        for index, line in enumerate(lines[-3:], count - 3):
            drawn = draw("base", part, index, 1)
            assert line == {
                "id": f"{part}-{index}",
                "image": f"images/{part}-{index}.png",
                "question": drawn.question.text,
                "answer": drawn.question.target,
                "caption": drawn.sample.caption,
                "label": drawn.sample.label,
                "facts": list(drawn.sample.facts),
            }
            np.testing.assert_array_equal(
                np.asarray(Image.open(folder / line["image"])), drawn.image
            )
    with pytest.raises(DataError, match="exists already"):
        write(folder, "base", 1, 1, 1)
    with pytest.raises(ConfigError, match="sketch"):
        write(tmp_path / "b", "sketc", 1, 1, 1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a"]


def test_the_verb_writes_a_domain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "synthesize",
        str(tmp_path / "s"),
        "--task",
        "board",
        "--style",
        "sketch",
        "--train",
        "5",
    ]
    with pytest.raises(SystemExit, match=r"^0$"):
        main([*command, "--test", "4", "--quiet", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert said["style"] == "sketch"
    assert said["samples"] == said["images"] == 11
    assert len(list((tmp_path / "s" / "images").iterdir())) == 11


def test_what_is_refused() -> None:
    with pytest.raises(ConfigError, match="xray"):
        draw("xrays", "train", 0)
    with pytest.raises(ConfigError, match="part of a data set"):
        draw("base", "dev", 0)
    with pytest.raises(ConfigError, match="-1"):
        batch("base", "train", [0, -1])
    assert batch("base", "train", []) == []

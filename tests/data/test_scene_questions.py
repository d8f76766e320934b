"""Questions, captions and clips of the generated world: balanced, seen, written and read again."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import combinations, islice, pairwise
from math import hypot
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.cli import main
from petiole.data.readers.jsonl import open_plain
from petiole.data.synthetic.scenes import (
    COLOURS,
    QUESTIONS,
    SHAPES,
    STYLES,
    TEXTURES,
    SceneSample,
    draw,
    held_out,
    language_words,
    readings,
    statements,
    words,
    write_questions,
)
from petiole.data.synthetic.scenes.clip import (
    LENGTH,
    MOVES,
    SceneClip,
    draw_mover,
    draw_sequence,
    frames_of,
)
from petiole.data.synthetic.scenes.language import OTHER_WORDS
from petiole.data.synthetic.scenes.layout import View, draw_any, placed_objects
from petiole.data.synthetic.scenes.render import render_objects
from petiole.data.synthetic.scenes.scene import SEEN
from petiole.errors import ConfigError, DataError

TASKS = st.sampled_from(list(QUESTIONS))
INDICES = st.integers(0, 10**6)


def answer(drawn: SceneSample) -> str:
    return Counter(drawn.sample.references).most_common(1)[0][0]


def guesses(task: str, *, form: bool) -> float:
    """Per cent that are right by the most frequent answer of training: in all, or to questions of the same form."""
    kinds = {*COLOURS, *SHAPES, *TEXTURES, *(s + "s" for s in SHAPES), "crosses"}

    def key(drawn: SceneSample) -> str:
        named = (("_" if word in kinds else word) for word in re.findall(r"\w+", drawn.sample.text))
        return " ".join(named) if form else ""

    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for index in range(2500):
        drawn = draw(task, "train", index)
        seen[key(drawn)][answer(drawn)] += 1
    asked = [draw(task, "test", index) for index in range(1500)]
    right = [seen[key(d)].most_common(1)[0][0] == answer(d) for d in asked]
    return 100 * sum(right) / len(right)


@pytest.mark.parametrize(
    ("task", "majority", "by_form"),
    [("vqa", 8, 19), ("gqa", 21, 37), ("video-qa", 25, 25)],
)
def test_who_sees_nothing_guesses_badly(task: str, majority: float, by_form: float) -> None:
    assert guesses(task, form=False) == pytest.approx(majority, abs=2.5)
    assert guesses(task, form=True) == pytest.approx(by_form, abs=2.5)


def test_a_sentence_about_two_pictures_comes_true_and_false() -> None:
    groups: dict[str, list[SceneSample]] = defaultdict(list)
    for index in range(400):
        drawn = draw("nlvr", "val", index)
        groups[drawn.sample.group].append(drawn)
    for pair in groups.values():
        assert len({drawn.sample.text for drawn in pair}) == 1
        assert sorted(answer(drawn) for drawn in pair) == ["false", "true"]


@given(task=TASKS, index=INDICES, style=st.sampled_from(("", *STYLES)))
@settings(max_examples=150, deadline=None)
def test_a_sample_is_a_function_of_its_place_and_shows_nothing_held_out(
    task: str, index: int, style: str
) -> None:
    drawn = draw(task, "train", index, style=style)
    assert drawn == draw(task, "train", index, style=style)
    assert drawn.style == style or (not style and drawn.style in SEEN)
    for shown in drawn.shown:
        kinds = (
            [thing.kind for frame in frames_of(shown, np.random.default_rng(0)) for thing in frame]
            if isinstance(shown, SceneClip)
            else [group.kind for group in shown.groups]
        )
        assert not any(map(held_out, kinds))
    others = [draw(task, "val", index, style=style), draw(task, "train", index, 1, style=style)]
    assert all(drawn.seed != other.seed for other in others)


@pytest.mark.parametrize("task", QUESTIONS)
def test_what_is_asked_does_not_depend_on_the_style(task: str) -> None:
    pictures = set()
    for style in STYLES:
        drawn = draw(task, "test", 3, style=style)
        known = QUESTIONS[task]
        assert (drawn.shown, drawn.sample.text) == (
            draw(task, "test", 3).shown,
            draw(task, "test", 3).sample.text,
        )
        assert len(drawn.pictures) == known.pictures
        assert {picture.size for picture in drawn.pictures} == {(64, 64)}
        pictures.add(drawn.pictures[0].tobytes())
        assert (
            drawn.pictures[0].tobytes() == draw(task, "test", 3, style=style).pictures[0].tobytes()
        )
    assert len(pictures) == len(STYLES)


@given(seed=st.integers(0, 2**31 - 1))
@settings(max_examples=200, deadline=None)
def test_things_are_whole_apart_and_where_the_view_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    view = draw_any(rng)
    things = placed_objects(view, rng)
    assert len(things) == sum(group.count for group in view.groups)
    for thing in things:
        assert thing.x >= thing.radius
        assert thing.x + thing.radius <= 1
        assert thing.y >= thing.radius
        assert thing.y + thing.radius <= 1
    for a, b in combinations(things, 2):
        assert hypot(a.x - b.x, a.y - b.y) > 1.7 * max(a.radius, b.radius)
    if len(view.groups) == 2:
        first, second = things[: view.groups[0].count], things[view.groups[0].count :]
        axis = "x" if view.beside else "y"
        assert max(getattr(t, axis) for t in first) < min(getattr(t, axis) for t in second)


def centre(mask: np.ndarray) -> tuple[float, float]:
    y, x = np.nonzero(mask)
    return float(x.mean()), float(y.mean())


@pytest.mark.parametrize("seed", range(12))
def test_a_thing_moves_as_is_told_before_a_background_that_stays(seed: int) -> None:
    rng = np.random.default_rng(seed)
    clip = draw_mover(rng)
    frames = frames_of(clip, rng)
    assert len(frames) == LENGTH
    empty = [type(t)(t.kind, t.x, t.y, 0.0) for t in frames[0]]
    nothing = np.asarray(render_objects(empty, "clear", seed), dtype=float)
    masks = [
        np.abs(np.asarray(render_objects(things, "clear", seed), dtype=float) - nothing).max(-1)
        > 12
        for things in frames
    ]
    assert all(0.01 < mask.mean() < 0.15 for mask in masks)
    (x0, y0), (x1, y1) = centre(masks[0]), centre(masks[-1])
    dx, dy = MOVES[clip.actors[0].move]
    assert (x1 - x0) * dx + (y1 - y0) * dy > 20
    assert abs((x1 - x0) * dy) + abs((y1 - y0) * dx) < 6
    colours = [things[0].kind.colour for things in frames]
    assert colours[0] == clip.actors[0].kind.colour
    assert colours[-1] == clip.actors[0].becomes
    assert (len(set(colours)) == 2) == clip.actors[0].changes


def test_the_second_thing_comes_later() -> None:
    clip = draw_sequence(np.random.default_rng(0))
    frames = frames_of(clip, np.random.default_rng(0))
    seen = [[thing.radius > 0 for thing in things] for things in frames]
    assert seen[0] == [True, False]
    assert seen[-1] == [True, True]
    pictures = [np.asarray(render_objects(things, "clear", 0), dtype=float) for things in frames]
    changed = [bool(np.abs(b - a).max() > 12) for a, b in pairwise(pictures)]
    assert changed.count(True) == 1
    assert changed.index(True) == clip.actors[1].enters - 1


def parts(text: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower()))


def test_all_words_of_all_texts_are_known_and_none_is_idle() -> None:
    said: set[str] = set()
    for task in QUESTIONS:
        for index in range(500):
            drawn = draw(task, "train", index)
            said |= parts(" ".join((drawn.sample.text, drawn.context, *drawn.sample.references)))
    rng = np.random.default_rng(0)
    said |= parts(" ".join(islice(statements(rng), 500)))
    said |= parts(" ".join(" ".join(reading[1:]) for reading in islice(readings(rng), 500)))
    assert said <= set(language_words())
    assert set(OTHER_WORDS.split()) <= said
    assert not set(OTHER_WORDS.split()) & set(words())
    assert list(language_words()) == sorted(set(language_words()))


@given(index=INDICES, task=st.sampled_from(["caption", "video-caption"]))
@settings(max_examples=100, deadline=None)
def test_five_captions_differ_and_name_nothing_that_is_not_there(index: int, task: str) -> None:
    drawn = draw(task, "train", index)
    assert len(set(drawn.sample.references)) == 5
    assert dict(drawn.sample.targets) == dict.fromkeys(drawn.sample.references, 1.0)
    there = parts(drawn.context)
    for caption in drawn.sample.references:
        for kinds in (COLOURS, TEXTURES):
            assert parts(caption) & set(kinds) <= there
        assert any(shape in caption for shape in SHAPES)
        if isinstance(drawn.shown[0], View) and len(drawn.shown[0].groups) == 1:
            assert not parts(caption) & {"left", "right", "above", "below"}


def written(folder: Path, task: str, **options: object) -> Path:
    return write_questions(folder / task, task, train=4, test=2, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", QUESTIONS)
def test_a_written_folder_is_read_as_what_was_drawn(task: str, tmp_path: Path) -> None:
    data = open_plain(written(tmp_path, task, style="noisy", seed=5))
    assert data.task == QUESTIONS[task].scored
    for part, count in (("train", 4), ("val", 2), ("test", 2)):
        drawn = [draw(task, part, index, 5, style="noisy") for index in range(count)]
        if part == "train" and QUESTIONS[task].captions:
            assert [s.references for s in data[part][::5]] == [d.sample.references for d in drawn]
            assert len(data[part]) == 5 * count
        else:
            assert list(data[part]) == [d.sample for d in drawn]
    missing = [name for name in data.images if not (data.root / name).exists()]
    assert not missing
    clips = list((data.root / "clips").glob("*"))
    assert all(len(list(clip.glob("*.png"))) == LENGTH for clip in clips)


def test_a_folder_that_fails_leaves_nothing_and_none_is_overwritten(tmp_path: Path) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        written(tmp_path, "vqa", advance=stop)
    assert not list(tmp_path.iterdir())
    written(tmp_path, "vqa")
    with pytest.raises(DataError, match="exists already"):
        written(tmp_path, "vqa")


def test_what_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="vqa"):
        draw("vqaa", "train", 0)
    with pytest.raises(ConfigError, match="val"):
        draw("vqa", "valid", 0)
    with pytest.raises(ConfigError, match="start at 0"):
        draw("vqa", "val", -1)
    with pytest.raises(ConfigError, match="tinted"):
        written(tmp_path, "vqa", style="tintet")
    assert not list(tmp_path.iterdir())


def test_the_command_writes_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pairs"
    command = ["synthesize", str(out), "--task", "nlvr", "--train", "4", "--test", "2", "--json"]
    with pytest.raises(SystemExit) as done:
        main([*command, "--quiet"])
    assert not done.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["classes"], result["samples"], result["images"]) == (0, 8, 16)
    assert len(list((out / "images").iterdir())) == 16
    assert [len(open_plain(out)[part]) for part in ("train", "val", "test")] == [4, 2, 2]
    with pytest.raises(SystemExit) as wrong:
        main(["synthesize", str(tmp_path / "x"), "--task", "video"])
    assert wrong.value.code == 1
    assert "video-qa" in capsys.readouterr().err

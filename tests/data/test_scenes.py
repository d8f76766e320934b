"""The generated world: what it keeps from pre-training, what it says, and that it looks the same everywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.cli import main
from petiole.data.sources import open_shift
from petiole.data.synthetic.scenes import (
    COLOURS,
    SHAPES,
    STYLES,
    TASKS,
    TEXTURES,
    Composition,
    Scene,
    caption,
    class_name,
    compositions,
    draw_scene,
    held_out,
    render,
    words,
    write_task,
)
from petiole.data.synthetic.scenes.scene import MOST, SEEN, UNSEEN
from petiole.data.synthetic.scenes.tasks import KINDS
from petiole.errors import ConfigError, DataError

SEEDS = st.integers(0, 2**31 - 1)


def test_a_seventh_of_the_compositions_is_held_out_and_every_part_is_still_seen() -> None:
    seen, held = compositions(held=False), compositions(held=True)
    assert (len(seen), len(held)) == (616, 104)
    assert len(compositions()) == len(SHAPES) * len(COLOURS) * len(TEXTURES)
    for part, count in (("shape", 12), ("colour", 10), ("texture", 6)):
        assert {getattr(kind, part) for kind in seen} == set(range(count))


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_pre_training_never_sees_what_is_held_out(seed: int) -> None:
    scene = draw_scene(np.random.default_rng(seed), compositions(held=False), SEEN)
    assert not held_out(scene.kind)
    assert scene.style in SEEN
    assert scene.style not in UNSEEN
    assert 1 <= scene.count <= MOST


@given(seed=SEEDS)
@settings(max_examples=200, deadline=None)
def test_a_caption_tells_what_is_there_in_known_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = draw_scene(rng, compositions(), STYLES)
    text = caption(scene, rng)
    said = text.replace(".", " .").split()
    assert set(said) <= set(words())
    assert {*COLOURS} & {*said} <= {list(COLOURS)[scene.kind.colour]}
    assert {*TEXTURES} & {*said} <= {TEXTURES[scene.kind.texture]}
    shape = SHAPES[scene.kind.shape]
    assert (shape in said) == (scene.count == 1)
    assert scene.count == 1 or {shape + "s", shape + "es"} & set(said)


def test_names_of_classes_are_distinct_and_known() -> None:
    names = [class_name(kind) for kind in compositions()]
    assert len(set(names)) == len(names)
    for task in TASKS.values():
        assert len(set(task.classes)) == len(task.classes)
        known = {word for name in task.classes for word in name.split()} <= set(words())
        assert known == (task is not TASKS["species"])
    assert all(map(held_out, KINDS))
    assert len(TASKS["compositions"].classes) == 40


MEANS = {
    "clear": (208.7, 161.2, 148.4),
    "busy": (188.6, 177.7, 169.7),
    "sketch": (249.8, 246.7, 235.8),
    "blurred": (208.5, 222.1, 210.5),
    "dark": (79.1, 86.6, 85.9),
    "pixelated": (211.3, 204.3, 218.5),
    "tinted": (169.1, 115.2, 126.8),
    "noisy": (222.0, 195.3, 199.9),
}
"""Mean colour of one picture of each style; pixels that change would change the packaged model's numbers."""


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_is_a_function_of_scene_and_seed(style: str) -> None:
    i = STYLES.index(style)
    scene = Scene(Composition(i, i, i % 6), 1 + i % 4, "large", style)
    picture = render(scene, i)
    assert picture.size == (64, 64)
    assert picture.tobytes() == render(scene, i).tobytes()
    assert picture.tobytes() != render(scene, i + 1).tobytes()
    mean = np.asarray(picture, dtype=float).mean(axis=(0, 1))
    np.testing.assert_allclose(mean, MEANS[style], atol=0.5)


def test_counts_count() -> None:
    task = TASKS["counts"]
    for label, title in enumerate(task.classes):
        scene = task.draw(label, np.random.default_rng(label))
        assert ("one", "two", "three", "four")[scene.count - 1] == title.split()[0]
        assert SHAPES[scene.kind.shape] in title


def test_the_command_writes_class_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "world"
    command = ["synthesize", str(out), "--task", "colours", "--train", "3", "--test", "2", "--json"]
    with pytest.raises(SystemExit) as done:
        main([*command, "--quiet"])
    assert not done.value.code
    result = json.loads(capsys.readouterr().out)
    assert (result["classes"], result["images"], result["style"]) == (10, 50, "clear")
    shift = open_shift(out)
    assert set(shift.classes) == set(COLOURS)
    assert (len(shift.train), len(shift.test)) == (30, 20)
    assert not {*shift.train.ids} & {*shift.test.ids}
    with pytest.raises(SystemExit) as again:
        main([*command, "--quiet"])
    assert again.value.code == 1
    assert "exists already" in capsys.readouterr().err


def test_unknown_tasks_and_styles_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compositions"):
        write_task(tmp_path / "a", "composition")
    with pytest.raises(ConfigError, match="tinted"):
        write_task(tmp_path / "a", "shapes", style="tintet")
    assert not list(tmp_path.iterdir())
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="exists already"):
        write_task(tmp_path / "b", "shapes")

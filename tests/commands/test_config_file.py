"""``--config``: options from a file; the file that repeats a run; shell completion."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import petiole
from builders.cli import say
from builders.images import write_images
from petiole.commands.config_file import write_config
from petiole.commands.verb import verb
from petiole.engine.record import read_record
from petiole.files import read_tensors


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PETIOLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos", 6, 0, classes=("ash", "birch"), side=40)
    return tmp_path


def test_a_run_keeps_the_file_that_repeats_it(place: Path) -> None:
    petiole.fit(
        "photos",
        method="cls-residual-lora",
        settings={"steps": 3, "views": 0},
        backbone="petiole/tiny-vit",
        calibration_folds=0,
        shots=2,
        split_seed=1,
        out="a",
        seed=3,
    )
    told = tomllib.loads((place / "a" / "config.toml").read_text())
    assert told == {
        "data": "photos",
        "method": "cls-residual-lora",
        "settings": {"steps": 3, "views": 0},
        "seed": 3,
        "calibration_folds": 0,
        "backbone": "petiole/tiny-vit",
        "shots": 2,
        "split_seed": 1,
    }
    assert say("fit", "--config", "a/config.toml", "--out", "b").code == 0
    first, second = (read_record(place / name) for name in "ab")
    assert second.scores == first.scores
    adapters = [read_tensors(place / name / "adapter" / "adapter.safetensors")[0] for name in "ab"]
    assert all((adapters[0][key] == value).all() for key, value in adapters[1].items())
    again = tomllib.loads((place / "b" / "config.toml").read_text())
    assert again | {key: told[key] for key in ("data", "settings", "backbone")} == told

    done = say("fit", "--config=a/config.toml", "--seed", "4", "--set", "steps=2", "--out", "c")
    assert done.code == 0, done.err
    other = read_record(place / "c").request
    assert (other.seed, other.settings["steps"], other.data.shots) == (4, 2, 2)


def test_a_run_of_a_comparison_has_the_file_that_repeats_it_alone(place: Path) -> None:
    petiole.compare(
        "photos",
        methods=["ridge"],
        backbone="petiole/tiny-vit",
        split_seeds=2,
        shots=2,
        test_fraction=0.5,
        out="c",
    )
    run = place / "c" / "runs" / "ridge"
    files = sorted(run.rglob("config.toml"))
    assert len(files) == 2
    assert say("fit", "--config", files[1], "--out", "again").code == 0
    alone, inside = (read_record(folder) for folder in (place / "again", files[1].parent))
    assert alone.request.digest == inside.request.digest
    assert alone.scores == inside.scores


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("sed = 1", r"Unknown key in .*run\.toml for petiole fit 'sed'\. Did you mean seed"),
        ("split-seed = 1", r"Unknown key .*'split-seed'\. Did you mean split_seed"),
        ("seed = ", r"run\.toml: cannot be read .*Correct it"),
        ("[model]\nbackbone = 'x'", r"Unknown key .*'model'"),
    ],
)
def test_what_a_file_cannot_say_is_an_error(place: Path, content: str, message: str) -> None:
    (place / "run.toml").write_text(content)
    done = say("fit", "photos", "--config", place / "run.toml")
    assert done.code == 1
    assert re.search(message, done.err), done.err
    assert "no such file" in say("fit", "--config", place / "none.toml").err
    assert "names no file" in say("fit", "--config").err


def test_files_give_every_kind_of_option(place: Path) -> None:
    lines = ["adapter = 'none'", "out = 'x'", "format = 'onnx'", "preprocess = true"]
    (place / "export.toml").write_text("\n".join(lines))
    assert "No adapter at none" in say("export", "--config", "export.toml").err
    (place / "plan.toml").write_text("quiet = 'maybe'")
    assert say("fit", "photos", "--config", "plan.toml").code != 0


def test_what_has_no_form_is_said(tmp_path: Path) -> None:
    write_config(tmp_path, "fit", {"data": object(), "seed": 1, "out": "x", "shots": None})
    text = (tmp_path / "config.toml").read_text()
    assert tomllib.loads(text) == {"seed": 1}
    for name in ("data", "shots"):
        assert f"# {name} was given in Python" in text


def test_only_a_result_with_a_folder_leaves_a_file(tmp_path: Path) -> None:
    @verb
    def made(data: str, *, out: Path | None = None, resume: bool = False, rank: int = 4) -> Any:
        asked = SimpleNamespace(data=data, resume=resume, rank=rank)
        return SimpleNamespace(folder=out) if out else asked

    made("photos", rank=4, resume=True)
    made("photos", rank=8, out=tmp_path)
    assert tomllib.loads((tmp_path / "config.toml").read_text()) == {"data": "photos", "rank": 8}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str) -> None:
    done = say("completion", shell)
    assert done.code == 0
    for word in ("few-shot", "checkpoint-seconds", "serve"):
        assert word in done.out
    if program := shutil.which(shell):
        checked: Any = subprocess.run([program, "-n"], input=done.out, text=True)
        assert checked.returncode == 0

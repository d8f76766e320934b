"""``petiole transfer`` end to end on small images: one command, interrupted, resumed, extended."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

import petiole
from builders import images
from builders import public_sets as fake
from builders.tables import rows_of
from petiole.cli import main
from petiole.commands.options import ModelOptions
from petiole.engine import run as engine
from petiole.protocols import jobs as protocol_jobs

QUICK = ["--set", "steps=2", "--set", "views=0", "--set", "iterations=3"]
Say = Callable[..., tuple[int, str, str]]


def write_images(root: Path, seed: int, per_class: int = 6) -> Path:
    """Two classes, one of them with a name that markup could take for its own."""
    return images.write_images(root, per_class, seed, classes=("ash", "birch [b]"), side=40)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with leaves/ (split here) and stones/ (with train/, validation/ and test/)."""
    root = tmp_path_factory.mktemp("transfer [x]")
    write_images(root / "leaves", 0)
    for seed, (part, per_class) in enumerate((("train", 5), ("validation", 4), ("test", 2)), 1):
        write_images(root / "stones" / part, seed, per_class)
    return root


@pytest.fixture(autouse=True)
def _alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of one's own, and no network."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setenv("PETIOLE_CACHE", str(place / "cache"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Runs ``petiole transfer`` in this process: exit code, stdout, stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as done:
            main(["transfer", *map(str, arguments), "--backbones", "petiole/tiny-vit", *QUICK])
        out, err = capsys.readouterr()
        return int(done.value.code or 0), out, err

    return run


def records(out: Path) -> dict[Path, int]:
    """Every finished run below a folder, with the time of its record."""
    return {f.parent.relative_to(out): f.stat().st_mtime_ns for f in out.rglob("record.json")}


def test_interrupted_resumed_extended_and_finished(
    place: Path, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = place / "runs" / "one"
    command = [place / "leaves", place / "stones", "--methods", "head-only", "adaptertune"]
    options = ["--seeds", "2", "--out", out]
    done: list[Path] = []

    def interrupted(job: engine.RunSpec) -> object:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(job.folder)
        return engine.run(job)

    with monkeypatch.context() as patch:
        patch.setattr(protocol_jobs, "run", interrupted)
        code, _, err = say(*command, *options)
    assert code == 130
    assert "2 cells of 2 methods, 2 seeds" in err
    assert "Repeat the command with --resume" in err
    first = records(out)
    assert len(first) == 3
    assert not (out / "table.md").exists()

    code, _, err = say(*command, *options)
    assert code == 1
    assert "already holds a transfer. Add --resume" in err
    assert records(out) == first

    code, text, err = say(*command, *options, "--resume")
    assert code == 0, err
    second = records(out)
    assert len(second) == 8
    assert first.items() <= second.items(), "finished runs are kept"
    assert "AdapterTune against Head only" in text
    assert "over 2 pairs of data set and backbone" in " ".join(text.split())
    assert f"table    {out / 'table.md'}" in text.splitlines()

    write_images(place / "later" / "shells", 9)
    shells = ["shells=" + str(place / "later" / "shells"), "--methods", "head-only", "adaptertune"]
    code, _, err = say(*shells, *options, "--resume")
    assert code == 0, err
    assert "1 cell of 2 methods" in err
    third = records(out)
    assert len(third) == 12
    assert second.items() <= third.items()

    code, text, err = say(*command, *options, "--resume", "--json")
    assert code == 0
    assert err.count("finished") == 2
    assert records(out) == third
    said = json.loads(text)
    assert [(row["data"], row["name"]) for row in said["rows"]] == [
        (data, name)
        for data in ("leaves", "stones", "shells")
        for name in ("head-only", "adaptertune")
    ]
    assert said == json.loads((out / "table.json").read_text()) | {"folder": str(out)}
    images = {row["data"]: row["images"] for row in said["rows"]}
    assert images == {"leaves": 6, "stones": 4, "shells": 6}, "stones/test is taken as it is"
    request = json.loads(next((out / "stones").rglob("request.json")).read_text())
    assert request["data"]["samples"] == {"train": 10, "test": 4}, "validation/ is not used"

    rows = rows_of(out / "table.csv")
    assert len(rows) == 6
    for row in rows:
        for name in ("trainable", "inference", "stored_bytes", "flops_forward", "peak_memory_mb"):
            assert float(row[name]) > 0
        assert (float(row["flops_training"]) > 0) == (row["name"] == "adaptertune")


def test_it_is_a_function_and_its_cells_have_pages(place: Path) -> None:
    out = place / "runs" / "two"
    done = petiole.transfer(
        [str(place / "leaves")],
        backbones=["petiole/tiny-vit"],
        methods=["linear-probe", "class-means"],
        settings={"steps": 1, "views": 0},
        seeds=1,
        out=out,
        model=ModelOptions(quiet=True),
    )
    assert [one.row.name for one in done.summary.rows] == ["linear-probe", "class-means"]
    assert done.summary.reference == "linear-probe"
    page = petiole.report(out / "leaves" / "tiny-vit").report
    assert "leaves on tiny-vit" in page.read_text()


def test_a_known_set_is_found_by_name_and_may_go_once_it_is_finished(
    say: Say, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root, out = tmp_path / "data", tmp_path / "out"
    fake.shrunk("oxford-iiit-pets", root, fake.pets(root), monkeypatch)
    options = ["--methods", "head-only", "adaptertune", "--seeds", "1", "--data-root", root]
    code, _, err = say("pets", *options, "--out", out)
    assert code == 0, err
    assert "| oxford-iiit-pets | tiny-vit | AdapterTune |" in (out / "table.md").read_text()
    places = rows_of(out / "oxford-iiit-pets" / "images.csv")
    assert {row["split"] for row in places} == {"train", "test"}
    assert len(records(out)) == 2
    moved = out.rename(tmp_path / "moved")
    shutil.rmtree(root)
    code, _, err = say("pets", *options, "--out", moved, "--resume")
    assert code == 0, err
    assert "finished" in err


def test_what_is_refused(place: Path, say: Say, tmp_path: Path) -> None:
    (tmp_path / "a" / "leaves").mkdir(parents=True)
    (tmp_path / "svhn").mkdir()
    for arguments, message in (
        (["pests"], "Unknown data set or folder 'pests'. Did you mean pets"),
        ([place / "leaves", tmp_path / "a" / "leaves"], "Two data sets are called leaves"),
        (["pets", "oxford-iiit-pets"], "Two data sets are called oxford-iiit-pets"),
        ([tmp_path / "svhn"], "svhn is the name of a published data set"),
        ([f"cifar10={place / 'leaves'}"], "cifar10 is the name of a published data set"),
        ([f"a/b={place / 'leaves'}"], "cannot name a folder"),
        (["cifar10", "--data-root", tmp_path], "the data set cifar10 is not there"),
        (["imagenet-r", "--data-root", tmp_path], "it has no downloader"),
        ([place / "leaves", "--seeds", "0"], "seeds must be at least 1, not 0."),
        ([place / "leaves", "--weights", "x"], "--weights fits one backbone"),
    ):
        code, _, err = say(*arguments, "--out", tmp_path / "out")
        assert code == 1
        assert message in err, err
        assert not (tmp_path / "out").exists(), "a refused command leaves no trace"

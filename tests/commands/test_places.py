"""Addresses on the command line: a fit with everything in a store, what it asks for, and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import petiole
from builders.cli import say
from petiole.commands.places import Places
from petiole.engine.record import read_record

pytest.importorskip("obstore", reason="object stores need petiole[stores]")
TERMS = ("--method", "ridge", "--shots", "3", "--image-size", "32", "--quiet")


@pytest.fixture
def bucket(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with photos, on a machine that fetched nothing yet."""
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "machine"))
    monkeypatch.setattr("petiole.report.page.write_page", lambda folder: folder / "report.html")
    shutil.copytree(photos, tmp_path / "bucket" / "photos")
    return f"file://{tmp_path}/bucket"


def test_a_fit_with_everything_in_a_store(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photos: Path
) -> None:
    def fit(out: str, *more: str) -> str:
        cache = f"{bucket}/cache"
        said = say(
            "fit",
            f"{bucket}/photos",
            "--out",
            f"{bucket}/{out}",
            "--cache-dir",
            cache,
            *TERMS,
            *more,
        )
        assert said.code == 0, said.err
        return said.err

    err = fit("run")
    assert "published file://" in err
    assert " images" in err
    local = petiole.fit(
        photos, method="ridge", shots=3, image_size=32, out=tmp_path / "local", quiet=True
    )
    first = (
        tmp_path / "machine" / "outgoing" / "file" / "_" / bucket.removeprefix("file:///") / "run"
    )
    assert read_record(first).scores == read_record(local.folder).scores
    assert f'cache_dir = "{bucket}/cache"' in (first / "config.toml").read_text()

    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "second machine"))
    fit("run2")
    fetched = [file for file in (tmp_path / "second machine/objects").rglob("*") if file.is_file()]
    assert not fetched, "what the leak check needs lies beside the features"
    assert (
        "already holds what a command wrote"
        in say("fit", f"{bucket}/photos", "--out", f"{bucket}/run", *TERMS).err
    )
    assert say("fit", f"{bucket}/photos", "--out", f"{bucket}/run", "--resume", *TERMS).code == 0

    said = say(
        "predict", f"{bucket}/run/adapter", f"{bucket}/photos", "--csv", f"{bucket}/labels.csv"
    )
    assert said.code == 0, said.err
    assert f"{bucket}/photos/ash/0.png" in (tmp_path / "bucket" / "labels.csv").read_text()
    assert say("inspect", f"{bucket}/run").code == 0
    (tmp_path / "bucket/photos/ash/0.png").write_bytes(b"no image")
    refused = say("eval", f"{bucket}/run", f"{bucket}/photos")
    assert refused.code == 1
    assert f"{bucket}/photos/ash/0.png: not an image" in refused.err


def test_what_has_no_place_in_a_store_is_refused(bucket: str) -> None:
    assert "in a store. Give a local folder" in say("synthesize", f"{bucket}/new").err
    assert "nothing lies there" in say("fit", f"{bucket}/none", *TERMS).err
    assert "names no bucket" in say("fit", "s3://", *TERMS).err


def test_only_addresses_are_touched() -> None:
    given = {"data": ["photos", 3], "settings": ["rank=4"], "out": None, "seed": 0}
    assert Places("fit", given).local() == given

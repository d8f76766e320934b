"""What ``features``, ``simulate``, ``doctor`` and ``label`` find, and what is taken where nothing is stated."""

from __future__ import annotations

import json
import os
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from petiole.backbones.at_hand import packaged
from petiole.commands import defaults, doctor, features
from petiole.commands.simulate import _check, _units
from petiole.errors import BackboneError, ConfigError


def test_images_and_videos_below_a_folder(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/1.JPG", "a/3.png", "a/notes.txt", "pack.tar", "rows.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert features._names(tmp_path, False) == ["a/3.png", "b/1.JPG", "b/2.png"]
    assert features._names(tmp_path, True) == ["a", "b"]
    assert features._names(tmp_path, True, packed=True) == ["a", "b"]
    assert features._names(tmp_path, False, packed=True)[-2:] == ["pack.tar", "rows.parquet"]
    for vector, said in (({"videos": True}, "--videos, whose frames"), ({"visual_tokens": 4}, "Leave out --visual-tokens")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            features.features(tmp_path, vectors=True, **vector)


def test_parts_whose_costs_are_stated() -> None:
    assert _units(["write=7", "decode=0"]) == {"write": 7.0, "decode": 0.0}
    for text, said in (
        ("write", "--unit is NAME=SECONDS, and not 'write'"),
        ("write=x", "--unit is NAME=SECONDS, and not 'write=x'"),
        ("write=-1", "write=-1: seconds are 0 or more"),
        ("write=inf", "write=inf: seconds are 0 or more"),
        ("write=nan", "write=nan: seconds are 0 or more"),
        ("writes=1", "write"),
    ):
        with pytest.raises(ConfigError, match=said):
            _units([text])


def test_a_simulation_takes_what_it_has_a_use_for() -> None:
    known = {
        "features": {"images": 3, "gpu": None, "cores": None, "price": None},
        "runs": {"runs": None, "images": 3, "price": None},
        "requests": {"requests": None, "adapters": None},
    }
    _check("features", known, {"backbone": None})
    for work, said in (("runs", "How many runs. Add --runs N"), ("requests", "How many requests")):
        with pytest.raises(ConfigError, match=said):
            _check(work, known, {})
    with pytest.raises(ConfigError, match=r"--device is of the measurement of images: add --like"):
        _check("features", known, {"backbone": None, "device": "cpu"})
    more = {**known, "requests": {"requests": None, "adapters": 0}}
    with pytest.raises(ConfigError, match=r"simulate features has no use for --adapters; requests"):
        _check("features", more, {})


def test_threads_are_pointed_out_on_a_busy_machine(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    for count, policy, level in ((1, "", "ok"), (2, "", "note"), (2, "passive", "ok"), (4, "ACTIVE", "note")):  # fmt: skip
        monkeypatch.setattr(torch, "get_num_threads", lambda n=count: n)
        monkeypatch.setenv("OMP_WAIT_POLICY", policy)
        found = doctor._threads()
        assert found[0] == level
        assert found[1].startswith(f"{count} threads on 8 cores")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert doctor._threads()[1].startswith("4 threads on 1 cores")


def test_room_in_the_cache_s_folder(tmp_path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    disk = namedtuple("disk", ("total", "used", "free"))
    asked: list[Path] = []
    for free, level in ((2_000_000_000, "note"), (2_000_000_001, "ok"), (1_234_567_890_123, "ok")):
        monkeypatch.setattr("shutil.disk_usage", lambda p, n=free: asked.append(p) or disk(0, 0, n))
        assert doctor._room(tmp_path / "new/cache") == (
            level,
            f"{tmp_path / 'new/cache'}, {free / 1e9:,.1f} GB free",
        )
    assert set(asked) == {tmp_path}, "the folder above that is there"
    monkeypatch.setattr(os, "access", lambda *_: False)
    level, said = doctor._room(tmp_path / "new")
    assert level == "bad"
    assert said.startswith(f"{tmp_path} cannot be written; choose another with --cache-dir")


def test_what_this_machine_has(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for unit, level, said in ((("bf16", "amx_bf16"), "ok", "CPU with amx_bf16: --precision bf16"), (None, "note", "CPU without bf16")):  # fmt: skip
        monkeypatch.setattr(doctor, "narrow_unit", lambda _, u=unit: u)
        found = doctor._processor()
        assert (found[0], found[1][: len(said)]) == (level, said)
    monkeypatch.setattr(doctor, "cuda_arithmetic", lambda: {"gpu": "card 0", "tf32": "in convolutions"})  # fmt: skip
    assert doctor._processor() == ("ok", "CUDA: card 0, TF32 in convolutions; use --device cuda")
    for spec, level in ((object(), "ok"), (None, "note")):
        monkeypatch.setattr(doctor, "find_spec", lambda _, s=spec: s)
        assert doctor._parquet()[0] == level
    assert doctor._libraries()[1].startswith("python ")

    def gone(_: str) -> None:
        raise BackboneError("no weights")

    monkeypatch.setattr("petiole.backbones.registry.load_backbone", gone)
    assert doctor._backbone("x") == ("note", "no weights")


def test_a_packaged_backbone_that_all_methods_fit(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    fits = {("one", "a"), ("two", "a"), ("two", "b")}
    monkeypatch.setattr("petiole.backbones.at_hand.packaged", lambda: ["one", "two"])
    monkeypatch.setattr(defaults, "_fits", lambda backbone, method: (backbone, method) in fits)
    assert defaults.backbone_for(["a"]) == defaults.backbone_for([]) == "one"
    assert defaults.backbone_for(["a", "b"]) == "two"
    with pytest.raises(ConfigError, match=r"No packaged backbone fits a, c. Name one"):
        defaults.backbone_for(["a", "c"])


@pytest.mark.parametrize(
    ("error", "fits"),
    [
        (ConfigError, False),
        (BackboneError, False),
        (RuntimeError, True),
        (NotImplementedError, True),
    ],
)
def test_what_a_shape_cannot_tell_is_tried(error: type, fits: bool, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def create(_: str) -> None:
        raise error("x")

    monkeypatch.setattr("petiole.methods.registry.create", create)
    monkeypatch.setattr("petiole.backbones.registry.load_backbone", lambda *_, **__: None)
    assert defaults._fits.__wrapped__("b", "m") is fits


def test_the_best_packaged_backbone_that_all_methods_fit() -> None:
    names = packaged()
    assert defaults.backbone_for(["ridge"]) == names[0]
    assert defaults.backbone_for(["ridge", "zero-shot"]) == "petiole/tiny-clip"


def test_methods_of_one_kind_are_compared() -> None:
    assert defaults.kind_of_methods(["ridge", "lora-qkv"]) == "classification"
    assert defaults.kind_of_methods(["vl-lora"]) == "text"
    assert defaults.kind_of_methods(["craft"]) == "codebook"
    with pytest.raises(
        ConfigError, match=r"kinds of task: ridge \(classification\), craft \(codeb"
    ):
        defaults.kind_of_methods(["ridge", "craft"])


def test_a_list_of_labels_is_written(tmp_path: Path) -> None:
    from petiole.commands.label import ToLabel, _write

    rows = [
        ToLabel(path="=a.png", cluster=3, size=7, typicality=0.5),
        ToLabel(path="b.png", cluster=1, size=2, typicality=1.25),
    ]
    assert _write(tmp_path / "x/label.csv", rows).read_text() == (
        "path,cluster,size,typicality\n./=a.png,3,7,0.5\nb.png,1,2,1.25\n"
    )
    assert json.loads(rows[1].model_dump_json())["typicality"] == 1.25


@pytest.mark.parametrize(
    ("slip", "said"),
    [
        ("petiole/tinyvit", r"'petiole/tinyvit'\. Did you mean petiole/tiny-vit"),
        ("petiole/tiny-vit+petiole/tinyvit", r"'petiole/tinyvit'\. Did you mean petiole/tiny-vit"),
        ("timm/resnet_18", r"'resnet_18'\. Did you mean resnet18"),
        ("petiole/tiny-vl", r"petiole/tiny-vl is a language model"),
    ],
)
def test_a_slip_in_one_of_several_backbones_is_told_before_any_is_judged(
    slip: str, said: str
) -> None:
    known = ("petiole/tiny-vit", "petiole/tiny-clip")
    assert defaults.candidates((*known, "petiole/tiny-vit")) == known
    with pytest.raises(BackboneError, match=said):
        defaults.candidates(("petiole/tiny-vit", slip))
    assert defaults.candidates((slip,)) == (slip,)  # alone it is told when it is loaded

"""Adapter folders from elsewhere: nothing is built, read whole or allocated before sizes are checked."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from petiole.backbones.vision.cnn import ConvNet
from petiole.engine import adapter_limits
from petiole.engine.adapter import Adapter, read_manifest
from petiole.engine.adapter_limits import SLACK, bounded_build, read_header
from petiole.errors import AdapterError
from petiole.files import write_sealed
from petiole.methods.registry import create, settings_of
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier

Tiny = Callable[..., ConvNet]


@pytest.fixture
def saved(tmp_path: Path, tiny: Tiny) -> Path:
    backbone, method = tiny(), create("cls-residual-lora")
    adapted = AdaptedClassifier(backbone, method.plan(backbone, 3))
    facts = {"settings": settings_of(method), "classes": ["a", "b", "c"]}
    ClassificationAdapter.of(adapted, method="cls-residual-lora", **facts).save(
        tmp_path / "adapter"
    )
    return tmp_path / "adapter"


def edit(folder: Path, change: Callable[[dict], object]) -> None:
    file = folder / "adapter.json"
    manifest = json.loads(file.read_text())
    change(manifest)
    write_sealed(file, manifest)


def test_a_sound_folder_opens(saved: Path, tiny: Tiny) -> None:
    assert Adapter.load(saved, backbone=tiny()).classes == ["a", "b", "c"]


def test_a_rank_that_its_tensors_cannot_fill_takes_no_memory(saved: Path, tiny: Tiny) -> None:
    edit(saved, lambda manifest: manifest["settings"].update(rank=10**8))
    with pytest.raises(AdapterError, match="ask for a model of more than"):
        Adapter.load(saved, backbone=tiny())


def test_the_allowance_counts_all_tensors_together(tmp_path: Path) -> None:
    with bounded_build(tmp_path, {}):
        torch.empty(SLACK // 2 - 8)
        with pytest.raises(AdapterError):
            torch.zeros(2, SLACK // 2)
    with bounded_build(tmp_path, {}):
        torch.empty(SLACK // 2 + 8)
        with pytest.raises(AdapterError):
            torch.empty(SLACK // 2 + 8)


def test_millions_of_classes_are_refused(
    saved: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petiole.engine.adapter.CLASSES", 5)
    edit(saved, lambda manifest: manifest.update(classes=list("abcdef")))
    with pytest.raises(AdapterError, match="names 6 classes; at most 5"):
        Adapter.load(saved, backbone=tiny())


def test_a_manifest_is_read_only_so_far(saved: Path) -> None:
    with open(saved / "adapter.json", "r+b") as file:
        file.truncate(adapter_limits.MANIFEST_BYTES + 1)
    with pytest.raises(AdapterError, match="at most 16,777,216 are read"):
        read_manifest(saved)


def test_a_pipe_is_refused_and_not_waited_for(saved: Path, tiny: Tiny) -> None:
    (saved / "adapter.safetensors").unlink()
    os.mkfifo(saved / "adapter.safetensors")
    with pytest.raises(AdapterError, match="no regular file"):
        Adapter.load(saved, backbone=tiny())
    (saved / "adapter.json").unlink()
    os.mkfifo(saved / "adapter.json")
    with pytest.raises(AdapterError, match="no regular file"):
        read_manifest(saved)


def test_nested_json_is_refused(saved: Path) -> None:
    (saved / "adapter.json").write_text("[" * 200_000)
    with pytest.raises(AdapterError, match=r"adapter\.json: is damaged"):
        read_manifest(saved)


def header(file: Path, entries: dict[str, object], length: int | None = None) -> None:
    text = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text)


@pytest.mark.parametrize(
    ("entries", "length", "said"),
    [
        ({}, 2**40, "has a header of 1,099,511,627,776 bytes"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, None, "header claims"),
        ({"a": {"dtype": "F32"}}, None, "KeyError"),
        ({"a": 3}, None, "TypeError"),
    ],
    ids=["long", "short file", "no shape", "no tensor"],
)
def test_a_header_is_checked_before_tensors(
    tmp_path: Path, entries: dict[str, object], length: int | None, said: str
) -> None:
    header(tmp_path / "a.safetensors", entries, length)
    with pytest.raises(AdapterError, match=said):
        read_header(tmp_path / "a.safetensors")


def test_a_file_without_tensors_is_whole(tmp_path: Path) -> None:
    header(tmp_path / "a.safetensors", {})
    assert read_header(tmp_path / "a.safetensors") == {}


def test_many_tensors_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_limits, "TENSOR_COUNT", 2)
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header(tmp_path / "a.safetensors", dict.fromkeys("abc", empty))
    with pytest.raises(AdapterError, match="holds 3 tensors; at most 2"):
        read_header(tmp_path / "a.safetensors")

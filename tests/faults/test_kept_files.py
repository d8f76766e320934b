"""Every kind of kept file, damaged at random: it is refused by an error of ours, or it says what was written.

``make faults`` does the same with many more damages and prints the counts.
"""

import atexit
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from builders.faults import counted, share
from builders.interrupted import image_spec, image_task
from petiole.backbones.base import Backbone
from petiole.data.sources import open_folder
from petiole.data.splits import read_split, write_split
from petiole.engine import checkpoint
from petiole.engine.adapter import Adapter, read_manifest
from petiole.engine.feature_store import FeatureCache, Key, entries
from petiole.engine.model_card import read_kept
from petiole.engine.record import (
    RECORD,
    REQUEST,
    RunRequest,
    evaluations_of,
    lines,
    read_record,
    recorded,
)
from petiole.engine.run import run
from petiole.errors import PetioleError
from petiole.files import Damaged, append_line, read_sealed, read_tensors, sealed, write_sealed
from petiole.protocols.comparison import COMPARISON, Comparison, ComparisonRow
from petiole.protocols.multitask import MAJORITY, majorities
from petiole.protocols.selection import Selection, read_selection
from petiole.report.diagnosis import DIAGNOSIS, VECTORS, diagnose
from petiole.report.diagnosis import _read as read_diagnosis
from petiole.report.runs import read_run
from petiole.testing import encoder_decoder

DAMAGES = share(500, 12)
KEY = Key("f", "p", ("vector",))


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """One byte, a run of zeros, a cut, a hole or two pieces exchanged."""
    at, size = int(rng.integers(len(content))), int(rng.integers(1, 40))
    one = bytes([content[at] ^ (1 << int(rng.integers(8)))])
    return [
        content[:at] + one + content[at + 1 :],
        content[:at] + bytes(len(content[at : at + size])) + content[at + size :],
        content[:at],
        content[:at] + content[at + size :],
        content[:at] + content[at + size : at + 2 * size] + content[at : at + size] + content[at + 2 * size :],
    ][int(rng.integers(5))]  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[name], b[name]) for name in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    for _ in range(steps):
        model(torch.randn(4, 3)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def a_checkpoint(folder: Path) -> tuple[Path, Callable[[], Any]]:
    file = folder / "checkpoint.safetensors"
    checkpoint.save(file, 3, "r", *trained(3))

    def read() -> Any:
        model, optimizer = trained(0)
        step = checkpoint.load(file, "r", model, optimizer)
        return [step, dict(model.state_dict()), optimizer.state_dict()["state"]]

    return file, read


def a_manifest(folder: Path) -> tuple[Path, Callable[[], Any]]:
    file = folder / "adapter.json"
    write_sealed(file, {"kind": "classification", "classes": ["dog", "house"], "golden": [0.5, 1]})
    return file, lambda: read_sealed(file)


def a_selection(folder: Path) -> tuple[Path, Callable[[], Any]]:
    write_sealed(folder / "selection.json", Selection(backbone="petiole/tiny-vit").model_dump())
    return folder / "selection.json", lambda: read_selection(folder)


def a_log(folder: Path) -> tuple[Path, Callable[[], Any]]:
    file = folder / "metrics.jsonl"
    for step in range(4):
        append_line(file, sealed({"step": step, "loss": 1 / (step + 3)}))
    return file, lambda: lines(file)


def a_split(folder: Path) -> tuple[Path, Callable[[], Any]]:
    for name, shade in (("a", 0), ("b", 255)):
        (folder / "images" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (shade, 9, 9)).save(folder / "images" / name / "1.png")
    file = write_split(
        folder / "split.csv", {"train": open_folder(folder / "images")}, meta={"k": 1}
    )

    def read() -> Any:
        split = read_split(file)
        return [split.meta, {name: part.samples for name, part in split.parts.items()}]

    return file, read


def a_shard(folder: Path) -> tuple[Path, Callable[[], Any]]:
    values = {"vector": torch.arange(6.0).reshape(2, 3)}
    FeatureCache(folder).write(KEY, ["x", "y"], values)
    (file,) = folder.rglob("*.safetensors")
    return file, lambda: FeatureCache(folder).read(KEY, ["x", "y"])


def a_cache_key(folder: Path) -> tuple[Path, Callable[[], Any]]:
    FeatureCache(folder).write(KEY, ["x"], {"vector": torch.ones(1, 3)})
    return folder / KEY.digest / "key.json", lambda: next(entries(folder)).key


def of_a_run(name: str, read: Callable[[Path], Any]) -> Callable[[Path], Any]:
    """A file of a finished run, as what uses it reads it."""

    def kind(folder: Path) -> tuple[Path, Callable[[], Any]]:
        shutil.copytree(finished(), folder, dirs_exist_ok=True)
        return folder / name, lambda: read(folder)

    kind.__name__ = f"a_{Path(name).name}"
    return kind


@cache
def finished() -> Path:
    """A run of each kind of kept file."""
    home = Path(mkdtemp(prefix="petiole-faults-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    run(image_spec(home, home / "run"))
    diagnose(home / "run")
    spec, workspace = encoder_decoder.text_run(home / "text", "vl-adapter", {"steps": 1})
    run(spec, workspace)
    shutil.move(home / "text", home / "run" / "text")
    comparison = {"title": "t", "baseline": "a", "reference": "a", "headline": "a", "seeds": 1}
    rows = [ComparisonRow(name="a", label="A", method="cosine")]
    Comparison.model_validate({**comparison, "rows": rows, "split_seeds": 1}).write(home / "run")
    write_sealed(home / "run" / MAJORITY, {"vqa": {"vqa_accuracy": 50.0}})
    return home / "run"


@cache
def backbone() -> Backbone:
    return image_task(finished().parent).open().backbone


def predictions_of(folder: Path) -> Any:
    found = read_run(folder).predictions
    return [found.probabilities, found.labels, found.ids, found.paths]


def adapted(folder: Path) -> Any:
    return dict(Adapter.load(folder, backbone=backbone()).contents().state_dict())


def texts(folder: Path) -> Any:
    name = "predictions/vqa.jsonl"
    return recorded(folder / "text", read_record(folder / "text"), name).read_text()


a_diagnosis = of_a_run(DIAGNOSIS, lambda folder: read_diagnosis(folder / DIAGNOSIS))
MADE_AGAIN = (a_shard, a_cache_key, a_diagnosis)
KINDS = [
    *(a_checkpoint, a_manifest, a_selection, a_log, a_split, a_shard, a_cache_key, a_diagnosis),
    of_a_run(RECORD, read_record),
    of_a_run(REQUEST, lambda folder: read_kept(folder / REQUEST, RunRequest, "")),
    of_a_run("metrics.jsonl", lambda folder: read_run(folder).log),
    of_a_run("test_evaluations.jsonl", evaluations_of),
    of_a_run("predictions.safetensors", predictions_of),
    of_a_run("vectors.safetensors", lambda folder: read_tensors(folder / VECTORS)),
    of_a_run("adapter/adapter.json", lambda folder: read_manifest(folder / "adapter")),
    of_a_run("adapter/adapter.safetensors", adapted),
    of_a_run("text/predictions/vqa.jsonl", texts),
    of_a_run(COMPARISON, Comparison.read),
    of_a_run(MAJORITY, majorities),
]


@pytest.mark.filterwarnings("ignore:Set aside", "ignore:.*left unfinished")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__[2:])
def test_damage_is_refused_or_changes_nothing(
    kind: Callable[[Path], tuple[Path, Callable[[], Any]]], tmp_path: Path
) -> None:
    file, read = kind(tmp_path)
    whole, content = read(), file.read_bytes()
    rng, counts = (
        np.random.default_rng(0),
        counted(f"damage: {kind.__name__[2:].replace('_', ' ')}"),
    )
    for _ in range(DAMAGES):
        file.unlink(missing_ok=True)  # what was read is mapped from it
        file.write_bytes(damaged(content, rng))
        counts["damages"] += 1
        try:
            found = read()
        except (PetioleError, Damaged):
            counts["refused"] += 1
            continue
        finally:
            file.with_suffix(".corrupt").unlink(missing_ok=True)
        if kind in MADE_AGAIN and not found:
            counts["refused"] += 1  # set aside, and so computed again
        elif kind is a_log and len(found) < len(whole):
            assert all(row in whole for row in found)
            counts["cut"] += (
                1  # as if killed there; a finished run's record has the file's checksum
            )
        else:
            assert same(found, whole)
            counts["equal"] += 1
    counts["wrong"] += 0
    assert counts["refused"] > DAMAGES / 3


def test_a_seal_is_over_names_shapes_and_metadata(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    file, _ = a_checkpoint(tmp_path)
    tensors, metadata = read_tensors(file)
    seal = {"sha256": "0" * 64}
    save_file({name: t.clone() for name, t in tensors.items()}, file, metadata=metadata | seal)
    with pytest.raises(Damaged, match="changed since"):
        read_tensors(file)
    save_file({name: t.clone() for name, t in tensors.items()}, file, metadata=metadata)
    with pytest.raises(Damaged, match="no seal"):
        read_tensors(file)

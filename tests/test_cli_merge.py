"""``petiole merge`` on files: the merged pair labels images as the adapter does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import petiole
from builders.cli import run
from petiole.methods.registry import create, settings_of
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny


def save(folder: Path, method: str) -> Path:
    """An adapter none of whose numbers is as it started, on the small ViT of the package."""
    backbone = petiole.load("petiole/tiny-vit")
    chosen = create(method)
    with tiny.seeded():
        adapted = AdaptedClassifier(backbone, chosen.plan(backbone, 3))
        for parameter in adapted.parameters():
            parameter.data.normal_(std=0.05)
    ClassificationAdapter.of(
        adapted.eval(),
        method=method,
        settings=settings_of(chosen),
        classes=["ash", "birch", "cedar"],
        weights=None,
        image_size=None,
    ).save(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{i}.png" for i in range(3)]
    for path in paths:
        Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return paths


def test_the_merged_pair_labels_as_the_adapter_does(
    tmp_path: Path, images: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, out = (
        save(tmp_path / "adapter", "lora-qkv"),
        tmp_path / "folder [x]" / "new.safetensors",
    )
    assert run("merge", adapter, "--out", out, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert said == {
        "backbone": "petiole/tiny-vit",
        "weights": str(out),
        "adapter": str(out.parent / "new-adapter"),
    }
    want = petiole.predict(adapter, images).predictions
    got = petiole.predict(Path(said["adapter"]), images).predictions
    for one, other in zip(want, got, strict=True):
        assert one.label == other.label
        for name, p in one.probabilities.items():
            assert other.probabilities[name] == pytest.approx(p, abs=1e-5)
    assert len({row.probability for row in want}) == 3
    moved = shutil.move(out, tmp_path / "elsewhere.safetensors")
    again = petiole.predict(Path(said["adapter"]), images, weights=Path(moved)).predictions
    assert [row.probabilities for row in again] == [row.probabilities for row in got]
    assert petiole.load("petiole/tiny-vit", weights=moved).parameter_count == 2_572_000


def test_it_says_what_it_wrote_and_what_comes_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new.safetensors"
    assert run("merge", save(tmp_path / "adapter", "ssf"), "--out", out) == 0
    text = capsys.readouterr().out
    assert f"backbone {out} (petiole/tiny-vit)" in text
    assert f"next     petiole predict {tmp_path / 'new-adapter'} IMAGE..." in text
    assert run("merge", tmp_path / "adapter", "--out", out) == 1
    assert "exists already" in capsys.readouterr().err


def test_it_refuses_with_the_reason_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = save(tmp_path / "adapter", "adaptertune")
    assert run("merge", adapter, "--out", tmp_path / "new.safetensors") == 1
    assert "its activation makes it no linear map" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["adapter"]

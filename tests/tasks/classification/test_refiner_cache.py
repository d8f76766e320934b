"""What is said of a cache, on caches whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from builders.cli import run
from petiole.methods.prompt_learning.refined_head import RefinedHead
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.refiner_cache import (
    describe,
    effective_rank,
    mean_cosine,
    read_entropy,
)
from petiole.testing.random_weights import seeded


def test_numbers_of_caches_that_are_understood() -> None:
    assert effective_rank(torch.eye(5)) == pytest.approx(5.0)
    assert effective_rank(torch.ones(5, 3)) == pytest.approx(1.0)
    assert mean_cosine(torch.eye(4)) == pytest.approx(0.0)
    assert mean_cosine(torch.ones(4, 2)) == pytest.approx(1.0)
    assert mean_cosine(torch.ones(1, 2)) == 1.0
    assert read_entropy(torch.full((3, 8), 1 / 8)) == pytest.approx(1.0)
    assert read_entropy(torch.eye(4)) == pytest.approx(0.0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "colours"
    command = ["synthesize", folder, "--task", "colours", "--train", 4, "--test", 2, "--quiet"]
    assert run(*command) == 0
    return folder


def fitted(world: Path, out: Path, *settings: str, host: str = "coop") -> Path:
    command = ["fit", world, "--backbone", "petiole/tiny-clip", "--method", f"{host}+textrefiner"]
    command += ["--shots", 2, "--out", out, "--quiet", "--cache-dir", out.parent / "cache"]
    for one in ("steps=3", "views=1", "entries=4", *settings):
        command += ["--set", one]
    assert run(*command) == 0
    return out


def test_an_adapters_cache_can_be_looked_into(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = fitted(world, tmp_path / "kept", "keep_alignment=true")
    capsys.readouterr()
    assert run("inspect", kept / "adapter", "--images", world / "test", "--json") == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    shares = [float(facts[f"entry {j}"].split(" %")[0]) for j in range(4)]
    assert sum(shares) == pytest.approx(100, abs=0.3)
    assert 1 <= float(facts["effective rank"]) <= 4

    plain = fitted(world, tmp_path / "plain")
    capsys.readouterr()
    assert run("inspect", plain, "--json") == 0
    same = json.loads(capsys.readouterr().out)["facts"]
    # Keeping g changes nothing that is learned.
    assert same["entropy of reads"] == facts["entropy of reads"]
    assert same["mean cosine of entries"] == facts["mean cosine of entries"]
    assert run("inspect", plain, "--images", world / "test", "--json") == 0
    same = json.loads(capsys.readouterr().out)["facts"]
    assert "keep_alignment=true" in same["patches"]
    assert same["with the mean read"] == facts["with the mean read"] == "0 of 20 answers change"


def test_the_mean_read_changes_answers_where_classes_read_apart(
    world: Path, tmp_path: Path
) -> None:
    adapter = ClassificationAdapter.load(
        fitted(world, tmp_path / "apart", "read_temperature=0.001")
    )
    head = adapter.adapted.head
    assert isinstance(head, RefinedHead)
    with seeded(0), torch.no_grad():  # a refinement that is nothing but what is read
        torch.nn.init.normal_(head.refiner.map.weight)
        head.refiner.alpha = 50.0
        assert head.refiner.cache
        torch.nn.init.normal_(head.refiner.cache.entries)
    head.forget()
    changed = describe(adapter, world / "test").changed
    assert changed
    assert changed[0] > 0


def test_class_vectors_that_depend_on_the_image_read_by_images_and_are_not_folded(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = fitted(world, tmp_path / "kept", "keep_alignment=true", host="cocoop")
    capsys.readouterr()
    assert run("inspect", kept, "--json") == 0
    assert "give --images" in json.loads(capsys.readouterr().out)["facts"]["entropy of reads"]
    assert run("inspect", kept, "--images", world / "test", "--json") == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert 0.5 < float(facts["entropy of reads"].split()[0]) <= 1
    assert run("fold", kept, "--out", tmp_path / "folded") == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "their vectors depend on the image (CoCoOp)" in said
    assert not (tmp_path / "folded").exists()

"""What is said of a cache, on caches whose answers are known."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders.cli import run
from builders.comparisons import images
from petiole.methods.prompt_learning.refined_head import RefinedByImage, RefinedHead
from petiole.tasks.classification import refiner_cache
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import Predictions
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
    assert mean_cosine(torch.eye(2)) == pytest.approx(0.0)
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


@pytest.fixture(scope="module")
def kept(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(world, tmp_path_factory.mktemp("runs") / "kept", "keep_alignment=true")


def test_an_adapters_cache_can_be_looked_into(
    world: Path, kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_the_mean_read_changes_answers_where_classes_read_apart(world: Path, kept: Path) -> None:
    adapter = ClassificationAdapter.load(kept)
    head = adapter.adapted.head
    assert isinstance(head, RefinedHead)
    with seeded(0), torch.no_grad():  # a refinement that is nothing but what is read
        torch.nn.init.normal_(head.refiner.map.weight)
        head.refiner.alpha = 50.0
        assert head.refiner.cache
        head.refiner.cache.temperature = 0.001
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


def test_the_patches_most_like_an_entry_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images of two by two patches, each an entry's direction at some cosine; their vectors are tokens too."""
    data = images("p", [0, 0, 0])
    entries = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]])

    def token(entry: int, share: float) -> torch.Tensor:
        found = torch.zeros(3)
        found[entry], found[(entry + 1) % 3] = share, (1 - share**2) ** 0.5
        return 3 * found

    shown = [(2, [(0, 0.8), (0, 0.9), (1, 1.0), (1, 0.75)]), (1, [(0, 1.0), (0, 0.85), (0, 0.95), (2, 0.9)]), (0, [(2, 1.0)] * 4)]  # fmt: skip
    states = [
        {"vector": token(entry, 1.0)[None], "patches": torch.stack([token(*one) for one in patches])[None]}
        for entry, patches in shown
    ]  # fmt: skip
    batches = [{role: torch.cat([one[role] for one in some]) for role in states[0]} for some in (states[:2], states[2:])]  # fmt: skip
    asked: list[Any] = []
    table = SimpleNamespace(batches=lambda count: asked.append(count) or iter(batches))
    monkeypatch.setattr(refiner_cache, "open_data", lambda _: data)
    monkeypatch.setattr(refiner_cache, "Features", lambda *_, **__: SimpleNamespace(table=lambda *given: asked.append(given) or table))  # fmt: skip
    backbone = SimpleNamespace(vector="vector", patches="patches")
    adapter: Any = SimpleNamespace(adapted=SimpleNamespace(backbone=backbone))
    cache: Any = SimpleNamespace(
        entries=entries, assign=lambda x: (x @ torch.nn.functional.normalize(entries).T).argmax(-1)
    )
    usage, nearest = refiner_cache._among(adapter, lambda x: x, cache, Path("p"))  # type: ignore[arg-type]
    assert asked == [(data, ("vector", "patches")), 3]
    assert usage == pytest.approx((6 / 15, 3 / 15, 6 / 15))
    found = [[(path.name, row, column) for path, row, column, _ in one] for one in nearest]
    assert found == [
        [("p1.png", 0, 0), ("p0.png", 0, 1), ("p2.png", 0, 0)],
        [("p0.png", 1, 0), ("p1.png", 0, 1), ("p2.png", 0, 0)],
        [("p2.png", 0, 0), ("p1.png", 1, 1), ("p0.png", 1, 1)],
    ]
    for one, cosines in zip(nearest, ([1, 0.9, 0], [1, 0.5268, 0], [1, 0.9, 0.6614]), strict=True):
        assert [share for *_, share in one] == pytest.approx(cosines, abs=1e-4)


def test_answers_that_change_with_the_mean_read_are_counted_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    data, read = images("p", [0] * 5), torch.tensor([[1.0], [3.0]])
    vectors = torch.tensor([[3.0, 1], [1, 3], [3, 1], [1, 3], [1, 3]])
    logits = torch.tensor(
        [[1.0, 0], [1, 0], [1, 0], [0, 1], [1, 0]]
    )  # the second and the last differ
    asked: list[Any] = []
    table = SimpleNamespace(batches=lambda count: count)
    monkeypatch.setattr(refiner_cache, "READERS", 2)
    monkeypatch.setattr(refiner_cache, "open_data", lambda _: data)
    monkeypatch.setattr(refiner_cache, "Features", lambda *_, **__: SimpleNamespace(table=lambda *given: asked.append(given) or table))  # fmt: skip
    monkeypatch.setattr(refiner_cache, "predict", lambda adapted, count: asked.append(count) or Predictions(vectors, logits))  # noqa: ARG005  # fmt: skip
    head: Any = SimpleNamespace(
        pair=lambda vector: (len(vector), None), met=lambda alike: torch.eye(2).expand(alike, 2, 2),
        refiner=SimpleNamespace(blend=lambda own, mean: asked.append(mean.tolist()) or own),
    )  # fmt: skip
    cache: Any = SimpleNamespace(entries=read, read=lambda _: read)
    adapted = SimpleNamespace(backbone="network", cut="cut", attached=nullcontext)
    adapter: Any = SimpleNamespace(adapted=adapted)
    assert refiner_cache._changed(adapter, head, cache, Path("p")) == (2, 5)
    assert asked == [(data, "cut"), 5, *[[[2.0], [2.0]]] * 3]


@pytest.mark.parametrize(("count", "rows"), [(5, [0, 2, 4]), (6, [0, 2, 4]), (3, [0, 1, 2]), (7, [0, 3, 6])])  # fmt: skip
def test_class_vectors_of_some_images_read_where_they_depend_on_them(count: int, rows: list[int], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """At most three images, evenly; two class vectors of each."""
    data, asked = images("p", [0] * count), list[Any]()
    monkeypatch.setattr(refiner_cache, "READERS", 3)
    monkeypatch.setattr(refiner_cache, "open_data", lambda _: data)

    def table(some: Any, cut: Any) -> Any:
        asked.append((some.ids, cut))
        return SimpleNamespace(batches=lambda n: [{"v": torch.full((1, 2), float(i))} for i in rows] if n == 1 else [])  # fmt: skip

    monkeypatch.setattr(refiner_cache, "Features", lambda *_, **__: SimpleNamespace(table=table))
    named = SimpleNamespace(embeddings_of=lambda v: torch.stack([v, v + 0.5], 1).double())
    head = object.__new__(type("Head", (RefinedByImage,), {"named": named}))
    adapted = SimpleNamespace(backbone=SimpleNamespace(vector="v"), head=head, attached=nullcontext)
    adapter: Any = SimpleNamespace(adapted=adapted)
    found = refiner_cache._queries(adapter, Path("p"))
    assert found is not None
    assert found.dtype == torch.float32
    assert found.tolist() == [[i + half] * 2 for i in rows for half in (0, 0.5)]
    assert asked == [(tuple(data.ids[i] for i in rows), ("v",))]
    assert refiner_cache._queries(adapter, None) is None

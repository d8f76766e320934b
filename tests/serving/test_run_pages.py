"""Runs below a folder, their curves, and training images that are alike."""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders.sized_data import SizedData

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
from petiole.errors import ConfigError, RunError
from petiole.serving import nearest, pages, runs
from petiole.serving.run_files import file_below


def test_files_lie_below_their_folder(tmp_path: Path) -> None:
    (tmp_path / "runs/a").mkdir(parents=True)
    (tmp_path / "runs/a/report.html").write_text("")
    (tmp_path / "report.html").write_text("")
    root = tmp_path / "runs"
    assert file_below(root, "a", "report.html") == (root / "a/report.html").resolve()
    for folder in ("..", "a/../..", "none", "a/report.html", "\0"):
        assert file_below(root, folder, "report.html") is None


def folder_of(root: Path, name: str, *files: str) -> Path:
    for file in files:
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name / file).write_text("")
    return root / name


def test_runs_are_listed_the_newest_first_then_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    folder_of(tmp_path, "old", "record.json", "request.json", "report.html")
    folder_of(tmp_path, "deep/new", "record.json")
    folder_of(tmp_path, "torn", "record.json")
    going = folder_of(tmp_path, "going", "request.json", "metrics.jsonl")
    stopped = folder_of(tmp_path, "stopped", "request.json")
    folder_of(tmp_path, "compared", "report.html")
    now = time.time()
    os.utime(going / "metrics.jsonl", (now - 299, now - 299))
    os.utime(going / "request.json", (now - 999, now - 999))
    os.utime(stopped / "request.json", (now - 301, now - 301))

    def record(folder: Path) -> Any:
        if folder.name == "torn":
            raise RunError("it is torn")
        return SimpleNamespace(
            created="2026-01" if folder.name == "old" else "2026-02", main={"accuracy": 0.5},
            request=SimpleNamespace(kind="k", method="m", backbone=SimpleNamespace(name="b"), data=SimpleNamespace(shots=3)),
            ledger=SimpleNamespace(trainable=7), costs=SimpleNamespace(train_seconds=1.5),
        )  # fmt: skip

    asked = SimpleNamespace(kind="k", method="m", backbone=SimpleNamespace(name="b"), settings={"steps": 9})  # fmt: skip
    monkeypatch.setattr(runs, "read_record", record)
    monkeypatch.setattr(runs, "read_kept", lambda *_: asked)
    monkeypatch.setattr(
        runs, "read_log", lambda _: [{"step": 0, "loss": 1.0}, {"step": 4, "loss": 0.5}]
    )
    rows = runs.list_runs(tmp_path)
    assert [row["name"] for row in rows] == [
        "going",
        "stopped",
        "torn",
        "deep/new",
        "old",
        "compared",
    ]
    by_name = {row["name"]: row for row in rows}
    assert by_name["old"] == {
        "name": "old", "state": "finished", "created": "2026-01", "kind": "k", "method": "m", "backbone": "b", "shots": 3,
        "scores": {"accuracy": 0.5}, "parameters": 7, "seconds": 1.5, "page": True,
    }  # fmt: skip
    assert by_name["deep/new"]["page"] is False
    assert by_name["torn"] == {"name": "torn", "error": "it is torn"}
    assert by_name["going"] == {"name": "going", "state": "running", "kind": "k", "method": "m", "backbone": "b", "step": 5, "steps": 9, "page": False}  # fmt: skip
    assert (by_name["stopped"]["state"], by_name["stopped"]["step"]) == ("stopped", 0)
    assert by_name["compared"] == {"name": "compared", "state": "page", "page": True}
    monkeypatch.setattr(runs, "MOST", 2)
    assert len(runs.list_runs(tmp_path)) == 3


def test_curves_are_thinned_to_means_of_neighbours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    (tmp_path / "metrics.jsonl").write_text("")
    rows = [{"step": float(i), "loss": float(i)} for i in range(601)]
    monkeypatch.setattr(runs, "read_log", lambda _: [*rows, {"step": 9.0}])
    curve = runs._curve(tmp_path)
    assert len(curve) == 201
    assert curve[0] == (2, 1.0)
    assert curve[-1] == (600, 600.0)
    monkeypatch.setattr(runs, "read_log", lambda _: rows[:300])
    assert runs._curve(tmp_path)[:2] == [(0, 0.0), (1, 1.0)]
    assert runs._curve(tmp_path / "none") == []


def test_runs_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path, "a", "request.json")
    told = {"backbone": {"name": "b", "x": 1}, "settings": {"rank": 4, "long": "y" * 201, "most": "z" * 200},
            "data": {"notes": ["n"], "classes": ["c"], "digests": {"train": "0123456789abcdef"}, "shots": 3}}  # fmt: skip
    monkeypatch.setattr(runs, "_request", lambda _: SimpleNamespace(model_dump=lambda mode: json.loads(json.dumps(told))))  # noqa: ARG005  # fmt: skip
    monkeypatch.setattr(runs, "_row", lambda root, folder: {"name": folder.name})  # noqa: ARG005
    (one,) = runs.compare_runs(tmp_path, ["a"])["runs"]
    assert one == {
        "name": "a", "curve": [],
        "asked": {"backbone": "b", "settings.rank": "4", "settings.most": "z" * 200, "data.shots": "3", "data.digests.train": "0123456789ab"},
    }  # fmt: skip
    assert len(runs.compare_runs(tmp_path, ["a"] * 6)["runs"]) == 6
    for names in ([], ["a"] * 7):
        with pytest.raises(ConfigError, match=rf"^1 to 6 runs are compared, not {len(names)}\.$"):
            runs.compare_runs(tmp_path, names)
    with pytest.raises(ConfigError, match=r"^'\.\./xxx.*' is no run here\.$"):
        runs.compare_runs(tmp_path, ["../" + "x" * 100])


def test_training_images_by_the_cosine_of_their_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    vectors = np.array(
        [
            [3.0, 4.0, 0.0],
            [0.0, 5.0, 0.0],
            [-1.0, 0.0, 0.0],
            [0.0, 0.0, 2.0],
            [9.0, 12.0, 0.0],
            [1.0, 0, 0],
        ]
    )
    data = SimpleNamespace(
        classes=["a", "b"], samples=[SimpleNamespace(label=i % 2) for i in range(6)]
    )
    monkeypatch.setattr(nearest, "find", lambda folder: folder)
    monkeypatch.setattr(
        nearest, "read_split", lambda _: SimpleNamespace(parts={"train": SizedData(data, 6)})
    )
    monkeypatch.setattr(
        nearest,
        "Features",
        lambda *_, quiet: SimpleNamespace(vectors=lambda _: vectors if quiet else None),
    )
    monkeypatch.setattr(nearest, "_thumbnail", lambda _, row: f"t{row}")
    backbone: Any = type("Frozen", (), {
        "preprocess": lambda _, image: image, "device": "cpu", "vector": "v", "lower": lambda _, pixels, __: {"v": pixels},
    })()  # fmt: skip
    adapter = folder_of(tmp_path, "run/adapter")
    images = nearest.TrainingImages(tmp_path / "cache")
    assert images._known.cache_parameters()["maxsize"] == 8
    with pytest.raises(ConfigError, match=r"no run folder around it"):
        images.nearest(tmp_path / "run/adapter", backbone, torch.tensor([6.0, 8.0, 0.0]))  # type: ignore[arg-type]
    folder_of(tmp_path, "run", nearest.SPLIT)
    found = images.nearest(tmp_path / "run/adapter", backbone, torch.tensor([6.0, 8.0, 0.0]))  # type: ignore[arg-type]
    assert [one["thumbnail"] for one in found] == ["t0", "t4", "t1", "t5"]
    assert [one["label"] for one in found] == ["a", "a", "b", "b"]
    assert [one["alike"] for one in found] == pytest.approx([1.0, 1.0, 0.8, 0.6])
    monkeypatch.setattr(nearest, "MOST", 6)
    nearest.TrainingImages(tmp_path / "cache").nearest(tmp_path / "run/adapter", backbone, torch.tensor([1.0, 0, 0]))  # type: ignore[arg-type]  # fmt: skip
    monkeypatch.setattr(nearest, "MOST", 5)
    with pytest.raises(ConfigError, match=r"^6 training images are too many"):
        nearest.TrainingImages(tmp_path / "cache").nearest(tmp_path / "run/adapter", backbone, torch.tensor([1.0, 0, 0]))  # type: ignore[arg-type]  # fmt: skip
    assert adapter == tmp_path / "run/adapter"


def test_the_page_asks_for_training_images_of_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    async def read(request: Any, service: Any, model: Any) -> Any:  # noqa: ARG001
        return SimpleNamespace(adapter="mine"), [("image 0", b"first"), ("image 1", b"second")]

    async def call(*given: Any) -> Any:
        asked.append(given)
        return SimpleNamespace(value={"images": ["n"]})

    monkeypatch.setattr(pages, "read_request", read)
    entry = lambda name: (name, SimpleNamespace(folder=Path("of", name)))  # noqa: E731
    service: Any = SimpleNamespace(entry=entry, process=SimpleNamespace(call=call))
    router = pages.page_router(service, runs=None, teaches=False, training=True)
    (route,) = [one for one in router.routes if one.path == "/v1/nearest"]  # type: ignore[attr-defined]
    assert asyncio.run(route.endpoint(None)) == {"images": ["n"]}  # type: ignore[attr-defined]
    assert asked == [({"do": "nearest", "folder": "of/mine"}, [b"first"])]

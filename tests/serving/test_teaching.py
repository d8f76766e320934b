"""The process that teaches and its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
import httpx2 as httpx
from fastapi import FastAPI

from petiole.serving.service import FILES
from petiole.serving.teach import process as teaching
from petiole.serving.teach.routes import CACHED, teach_router


class Teacher:
    """Notes what it is asked."""

    data = "abc"
    version = 4

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.log = SimpleNamespace(version=4, undo=lambda: self.asked.append("undo"))

    def give(self, rows: list[int], label: str) -> None:
        self.asked.append((rows, label))

    def state(self) -> dict[str, Any]:
        return {"state": len(self.asked)}

    def rows(self) -> list[tuple[Path, str]]:
        return [(Path("a.png"), "x")]

    def save(self, folder: Path) -> None:
        for file in FILES:
            (folder / file).write_text(f"of {file}")

    def curve(self) -> dict[str, Any]:
        return {"measured": []}

    def images(self) -> dict[str, Any]:
        return {"names": ["a"]}

    def alike(self, row: int) -> list[int]:
        return [row, 9]

    def thumbnail(self, row: int) -> bytes:
        return f"jpeg {row}".encode()


def test_the_process_that_teaches_answers_every_click(monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = Teacher()
    monkeypatch.setattr(teaching, "_teacher", lambda setup: teacher if setup == {"x": 1} else None)
    in_turn, beside, hello = teaching._handlers({"x": 1})
    assert hello == {"images": 3}
    assert in_turn["label"]({"rows": [1], "label": "y"}, []) == ({"state": 1}, [])
    assert in_turn["undo"]({}, []) == ({"state": 2}, [])
    assert teacher.asked == [([1], "y"), "undo"]
    assert in_turn["state"]({"since": 4}, []) == ({}, [])
    assert in_turn["state"]({"since": 3}, []) == ({"state": 2}, [])
    named, [content] = in_turn["export"]({"form": "csv"}, [])
    assert named["name"].endswith(".csv")
    assert b"a.png" in content
    assert in_turn["adapter"]({}, []) == (
        {"files": FILES},
        [f"of {file}".encode() for file in FILES],
    )
    assert in_turn["curve"]({}, []) == ({"measured": []}, [])
    assert beside["images"]({}, []) == ({"names": ["a"]}, [])
    assert beside["alike"]({"row": 3}, []) == ({"rows": [3, 9]}, [])
    assert beside["thumbnail"]({"row": 3}, []) == ({}, [b"jpeg 3"])
    served: list[Any] = []
    monkeypatch.setattr(teaching, "serve", lambda *given: served.append(given))
    teaching.teaching("connection", {"x": 1})  # type: ignore[arg-type]
    [(connection, handlers)] = served
    assert connection == "connection"
    assert handlers()[2] == {"images": 3}


class Lessons:
    """Answers every question with what was asked, and two files."""

    def ready(self) -> bool:
        return True

    async def ask(self, do: str, **value: Any) -> tuple[dict[str, Any], list[bytes]]:
        more = {"export": {"name": "labels.csv"}, "adapter": {"files": FILES}}.get(do, {})
        return {"do": do, **value, **more}, [b"first", b"second"]


def test_every_route_of_the_tab_teach_asks_its_question() -> None:
    published: list[Any] = []

    async def put(name: str, files: dict[str, bytes]) -> dict[str, Any]:
        published.append((name, files))
        return {"name": name}

    app = FastAPI()
    app.include_router(teach_router(SimpleNamespace(put=put), Lessons()))  # type: ignore[arg-type]

    async def main(scene: Callable[[Any], Awaitable[None]]) -> None:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x/v1/teach") as http:
            await scene(http)

    async def scene(http: Any) -> None:
        assert (await http.get("/ready")).json() == {"ready": True}
        for way, question in (
            ("images", {"do": "images"}), ("state", {"do": "state", "since": -1}),
            ("state?since=3", {"do": "state", "since": 3}), ("curve", {"do": "curve"}),
            ("alike/5", {"do": "alike", "row": 5}),
        ):  # fmt: skip
            assert (await http.get(f"/{way}")).json() == question
        label = {"rows": [1, 2], "label": "x"}
        assert (await http.post("/label", json=label)).json() == {"do": "label", **label}
        for rows, status in (([], 422), ([0] * 100_000, 200), ([0] * 100_001, 422)):
            answer = await http.post("/label", json={"rows": rows, "label": None})
            assert answer.status_code == status
        assert (await http.post("/undo")).json() == {"do": "undo"}
        shown = await http.get("/thumbnails/2")
        assert (shown.content, shown.headers["content-type"]) == (b"first", "image/jpeg")
        assert shown.headers["cache-control"] == CACHED["cache-control"]
        for form, kind in (("csv", "text/csv"), ("fiftyone", "application/json")):
            answer = await http.get(f"/export/{form}")
            assert answer.content == b"first"
            assert answer.headers["content-type"].startswith(kind)
            assert answer.headers["content-disposition"] == 'attachment; filename="labels.csv"'
        assert (await http.get("/export/xml")).status_code == 422
        assert (await http.post("/adapter", json={"name": "taught"})).json() == {"name": "taught"}

    asyncio.run(main(scene))
    assert published == [("taught", dict(zip(FILES, (b"first", b"second"), strict=True)))]


def test_the_teacher_knows_the_folder_its_labels_and_its_vectors(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    made: list[Any] = []

    def noted(name: str, what: str) -> None:
        monkeypatch.setattr(f"petiole.{name}", lambda *given, **more: made.append((what, given, more)) or what)  # fmt: skip

    for name, what in (
        ("serving.teach.label_log.LabelLog", "log"), ("data.unlabelled.unlabelled", "data"), ("device.device", "cpu"),
        ("backbones.registry.load_backbone", "backbone"), ("engine.feature_store.FeatureCache", "cache"),
        ("serving.teach.teacher.Teacher", "teacher"),
    ):  # fmt: skip
        noted(name, what)
    monkeypatch.setattr("petiole.engine.feature_extractor.Features", lambda *given, **more: SimpleNamespace(vectors=lambda data: ("vectors", data, given, more)))  # fmt: skip
    setup = {"state": "s", "images": "i", "name": "n", "skip_bad": True, "backbone": "b", "device": "d", "cache": "c"}  # fmt: skip
    assert teaching._teacher(setup) == "teacher"
    assert made == [
        ("log", (Path("s"),), {}), ("data", (Path("i"), "n"), {"skip_bad": True}), ("cpu", ("d",), {}),
        ("backbone", ("b",), {"device": "cpu"}), ("cache", (Path("c"),), {}),
        ("teacher", ("data", ("vectors", "data", ("backbone", "cache"), {"quiet": True}), "backbone", "log"), {}),
    ]  # fmt: skip

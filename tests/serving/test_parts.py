"""Parts of the server by themselves: sizes of batches, gate, client, log of labels, evidence, runs, exports."""

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

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
import httpx2 as httpx

import petiole
from petiole.errors import AdapterError, ConfigError, DataError, RunError
from petiole.serving import exports, library, nearest, runs
from petiole.serving.batch_size import EXPLORE, BatchSize, _power
from petiole.serving.batcher import Batcher, Busy, Row
from petiole.serving.client import ServerError, _content, _form, _text
from petiole.serving.gate import Gate, _replay
from petiole.serving.keys import ApiKeys
from petiole.serving.limits import Limits
from petiole.serving.mixed import ByRows
from petiole.serving.process import Refused, WorkerGone
from petiole.serving.ray_replicas import RayReplicas, on_ray
from petiole.serving.run_files import file_below
from petiole.serving.teach import evidence
from petiole.serving.teach.label_log import LabelLog
from petiole.serving.teach.routes import Lessons
from petiole.serving.teach.teacher import Teacher, projection
from petiole.serving.telemetry import Telemetry, log
from petiole.serving.worker import error_of

# --- batches ------------------------------------------------------------------------------------


def sized(most: int = 8, longest: float = float("inf"), **cost: float) -> BatchSize:
    size = BatchSize(most, longest)
    size.cost = {int(name[1:]): value for name, value in cost.items()}
    return size


def test_the_cheapest_size_or_the_next_untried_one() -> None:
    assert BatchSize(8).sizes == [1, 2, 4, 8]
    assert BatchSize(9).sizes == [1, 2, 4, 8]
    assert BatchSize(8).best == 1
    assert sized(_1=1.0).best == 2, "the next one is tried"
    assert sized(_1=1.0, _2=2.0).best == 1
    assert sized(_1=1.0, _2=0.5).best == 4
    assert sized(2, _1=1.0, _2=0.5).best == 2, "there is no larger one"
    assert sized(8, 2.0, _1=1.0, _2=0.9).best == 2, "1.8 seconds; four rows would take 3.6"
    assert sized(8, 1.8, _1=1.0, _2=0.9).best == 2, "exactly as long as it may take"
    assert sized(8, 1.79, _1=1.0, _2=0.9).best == 1
    assert sized(8, 0.5, _1=1.0).best == 1, "one row goes whatever it takes"
    assert sized(8, 2.0, _1=1.0).best == 2
    assert sized(8, 1.99, _1=1.0).best == 1


def test_sizes_are_powers_of_two_of_those_that_wait() -> None:
    assert [_power(n) for n in (1, 2, 3, 4, 7, 8, 9)] == [1, 2, 2, 4, 4, 8, 8]
    size = sized(8, _1=1.0, _2=0.9, _4=0.5, _8=0.9)
    assert [size.choose(n) for n in (0, 1, 3, 4, 100)] == [1, 1, 2, 4, 4]


def test_a_neighbour_is_tried_every_so_often() -> None:
    size = sized(8, _1=1.0, _2=0.9, _4=0.5, _8=0.9)
    taken = [size.choose(100) for _ in range(2 * EXPLORE)]
    assert taken == [4] * (EXPLORE - 1) + [2] + [4] * (EXPLORE - 1) + [8]
    largest = sized(4, _1=1.0, _2=0.9, _4=0.5)
    assert [largest.choose(100) for _ in range(2 * EXPLORE)][-1] == 4
    least = sized(4, _1=0.1, _2=0.9)
    assert [least.choose(100) for _ in range(2 * EXPLORE)] == [1] * (2 * EXPLORE - 1) + [2]
    slow = sized(8, 2.0, _1=1.0, _2=0.6, _4=0.8)
    assert [slow.choose(100) for _ in range(2 * EXPLORE)][-1] == 2, "four rows take too long"


def test_what_a_batch_took_is_taken_in() -> None:
    size = BatchSize(8)
    size.learn(3, 6.0)
    assert (size.cost, size.seconds) == ({2: 2.0}, 2.0)
    size.learn(2, 8.0)
    assert size.cost == {2: pytest.approx(2.0 + 0.2 * 2.0)}
    assert size._slow == pytest.approx(1.5), "twice as slow, and half of that is believed"
    size.learn(2, 2000.0)
    assert size._slow == pytest.approx(1.5 + 0.5 * (10 - 1.5)), "ten times at most"
    quick = sized(8, _1=1.0)
    quick.learn(1, 0.001)
    assert quick._slow == pytest.approx(1 + 0.5 * (0.1 - 1)), "and a tenth at least"
    untried = sized(8, _1=0.5)
    assert untried.seconds == 0.5, "of a size that was not tried the cheapest stands in"


def test_busy_says_when_to_ask_again() -> None:
    assert [Busy(after).after for after in (0.0, 0.2, 1.0, 1.01, 7.5)] == [1, 1, 1, 2, 8]


def test_what_waits_is_summed_over_places_and_bounds_hold_exactly() -> None:
    async def main() -> None:
        ready = asyncio.Event()
        process: Any = SimpleNamespace(ready=ready, places=2, on_end=None)
        batcher = Batcher(process, {}.get, Limits(wait=0.1, queued=10, batch=4), Telemetry())
        with pytest.raises(WorkerGone):
            batcher.check()
        ready.set()
        assert batcher.expected_wait() == 0
        batcher.check(10)
        with pytest.raises(Busy):
            batcher.check(11)
        batcher.queue.extend(Row("a", {}, b"12") for _ in range(4))
        batcher.bytes = 8
        assert batcher.expected_wait() == pytest.approx(4 * 0.05 / 2), "exactly as long as may be"
        batcher.check(2)
        with pytest.raises(Busy):
            batcher.check(3)
        batcher.queue.append(Row("a", {}, b""))
        with pytest.raises(Busy) as told:
            batcher.check()
        assert told.value.after == 1
        assert batcher._size("a").longest == pytest.approx(0.025)
        assert not batcher.idle
        batcher._groups["a"] = "g"
        batcher.forget("a")
        assert batcher._group("a") == "a"
        process.on_end()
        assert (len(batcher.queue), batcher.bytes, batcher.idle) == (0, 0, True)

    asyncio.run(main())


def test_a_process_that_hangs_is_ended() -> None:
    async def main() -> None:
        ended: list[str] = []
        ready = asyncio.Event()
        ready.set()

        async def call(*_: Any) -> None:
            await asyncio.sleep(9)

        process: Any = SimpleNamespace(ready=ready, places=1, on_end=None, call=call, recycle=lambda: ended.append("x"))  # fmt: skip
        batcher = Batcher(process, {"a": "folder"}.get, Limits(seconds=0.05), Telemetry())
        batcher.start()
        with pytest.raises(TimeoutError):
            await batcher.answer([Row("a", {}, b"")])
        await asyncio.sleep(0.05)
        assert ended == ["x"]
        await batcher.stop()

    asyncio.run(main())


# --- gate and keys ------------------------------------------------------------------------------


def passed(messages: list[dict[str, Any]], limits: Limits, headers: dict[str, str] | None = None) -> tuple[int, Any, list[Any]]:  # fmt: skip
    """Status, error and bodies that reached the app, of one request."""
    seen: list[Any] = []
    sent: list[dict[str, Any]] = []

    async def app(_: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())
        seen.append(await receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.sleep(9)
        return messages.pop(0)

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    told = [(k.encode(), v.encode()) for k, v in (headers or {}).items()]
    scope = {"type": "http", "method": "POST", "path": "/x", "headers": told}
    asyncio.run(Gate(app, limits=limits, telemetry=Telemetry())(scope, receive, send))  # type: ignore[arg-type]
    error = json.loads(sent[1]["body"])["error"] if len(sent) > 1 else None
    return sent[0]["status"], error, seen


def part(body: bytes, more: bool) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


def test_bodies_are_read_whole_up_to_their_bound() -> None:
    later = {"type": "http.disconnect"}
    status, _, seen = passed([part(b"ab", True), part(b"cd", False), later], Limits(body=4))
    assert status == 200
    assert seen == [{"type": "http.request", "body": b"abcd", "more_body": False}, later]
    for messages, headers in (
        ([part(b"ab", True), part(b"cde", False)], {}),
        ([], {"content-length": "5"}),
    ):
        status, error, seen = passed(messages, Limits(body=4), headers)
        assert (status, error["code"], seen) == (413, "body", [])
    status, _, _ = passed([part(b"abcd", False), later], Limits(body=4), {"content-length": "4"})
    assert status == 200
    status, error, _ = passed([part(b"a", True), later], Limits())
    assert (status, error["code"], error["message"]) == (400, "gone", "The request broke off.")
    status, error, _ = passed([part(b"a", True)], Limits(seconds=0.01))
    assert (status, error["code"]) == (408, "slow")


def test_what_was_not_foreseen_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    async def app(*_: Any) -> None:
        raise ValueError("secret")

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return part(b"", False)

    scope = {"type": "http", "method": "GET", "path": "/x", "headers": []}
    with caplog.at_level("INFO", logger="petiole.serving"):
        asyncio.run(Gate(app, limits=Limits(), telemetry=Telemetry())(scope, receive, send))
    assert sent[0]["status"] == 500
    assert json.loads(sent[1]["body"])["error"] == {"code": "unforeseen", "message": "This was not foreseen."}  # fmt: skip
    (line,) = [json.loads(r.message) for r in caplog.records if r.message.startswith("{")]
    assert (line["event"], line["method"], line["route"], line["status"], line["key"]) == ("request", "GET", "other", 500, None)  # fmt: skip
    assert 0 <= line["ms"] < 1000

    async def other(scope: Any, *_: Any) -> None:
        sent.append(scope["type"])

    asyncio.run(Gate(other, limits=Limits(), telemetry=Telemetry())({"type": "lifespan"}, receive, send))  # fmt: skip
    assert sent[-1] == "lifespan"


def test_a_body_is_given_once_then_what_follows() -> None:
    async def main() -> list[Any]:
        async def receive() -> Any:
            return "next"

        again = _replay(b"x", receive)  # type: ignore[arg-type]
        return [await again(), await again(), await again()]

    assert asyncio.run(main()) == [part(b"x", False), "next", "next"]


def test_keys_are_told_by_their_digests(tmp_path: Path) -> None:
    from hashlib import sha256

    one, other = (sha256(k).hexdigest() for k in (b"one", b"other"))
    file = tmp_path / "keys"
    file.write_text(f"\n# comment\nshop-1.x  {one} # of the shop\nb_2\t{other}\n")
    keys = ApiKeys(file)
    assert keys.digests == {"shop-1.x": one, "b_2": other}
    assert [keys.name_of(k) for k in ("one", "other", "none", "")] == [
        "shop-1.x",
        "b_2",
        None,
        None,
    ]
    for text, said in (
        ("# nothing\n", "has no keys, so nobody could ask"),
        (f"ok {one}\nbad {one[:-1]}\n", "line 2: a line is a name and the SHA-256"),
        (f"a b {one}\n", "line 1: "),
        (f"a {one.upper()}\n", "line 1: "),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            ApiKeys(file)
    with pytest.raises(ConfigError, match=r"no such file"):
        ApiKeys(tmp_path / "none")


def test_lines_of_the_log_are_json(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="petiole.serving"):
        log("adapter", name="a", what="added")
    line = json.loads(caplog.records[-1].message)
    assert line.pop("when").endswith("+00:00")
    assert line == {"event": "adapter", "name": "a", "what": "added"}
    telemetry = Telemetry()
    telemetry.batch(3, 0.02, 2)
    text = telemetry.exposition().decode()
    for wanted in ("petiole_adapter_reads_total 2.0", "petiole_batch_rows_sum 3.0", "petiole_batch_seconds_sum 0.02", 'petiole_batch_rows_bucket{le="4.0"} 1.0'):  # fmt: skip
        assert wanted in text


# --- client -------------------------------------------------------------------------------------


def test_forms_have_files_and_what_says_something(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"A")
    form = _form([tmp_path / "a.png", b"B"], {"top": 3, "adapter": None, "adapted": False})
    assert form == {"files": [("top", (None, "3")), ("adapted", (None, "false")), ("images", b"A"), ("images", b"B")]}  # fmt: skip
    assert _form(b"B", {}, "image") == {"files": [("image", b"B")]}
    assert _form(str(tmp_path / "a.png"), {})["files"] == [("images", b"A")]
    assert [_text(v) for v in (True, 0.5, "X")] == ["true", "0.5", "X"]
    with pytest.raises(ConfigError, match=r"no such file"):
        _form(tmp_path / "none", {})


def test_answers_and_refusals_in_the_server_s_words() -> None:
    assert _content(httpx.Response(200, json={"a": 1})) == {"a": 1}
    assert _content(httpx.Response(204)) is None
    with pytest.raises(ServerError) as told:
        _content(httpx.Response(422, json={"error": {"code": "value", "message": "It is wrong."}}))
    assert (told.value.status, told.value.code, str(told.value)) == (422, "value", "It is wrong.")
    for other in ({"error": 3}, {}, [1]):
        with pytest.raises(ServerError) as told:
            _content(httpx.Response(500, json=other))
        assert told.value.code == "http"
    with pytest.raises(ServerError) as told:
        _content(httpx.Response(502, text="x" * 300))
    assert str(told.value) == f"HTTP 502: {'x' * 200}"


def test_requests_of_both_clients(tmp_path: Path) -> None:
    asked: list[Any] = []
    for name in ("json", "safetensors"):
        (tmp_path / f"run/adapter/adapter.{name}").parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"run/adapter/adapter.{name}").write_bytes(name.encode())

    def handle(request: Any) -> Any:
        asked.append(
            (request.method, request.url.path, request.headers.get("authorization"), request.read())
        )
        return httpx.Response(200, json={"adapters": ["a"], "name": "x"})

    def parts(content: bytes) -> dict[str, bytes]:
        pieces = [piece.split(b"\r\n\r\n", 1) for piece in content.split(b"--")[1:] if b"\r\n\r\n" in piece]  # fmt: skip
        return {head.split(b'name="')[1].split(b'"')[0].decode(): body.rstrip(b"\r\n") for head, body in pieces}  # fmt: skip

    client = petiole.Client(key="k", transport=httpx.MockTransport(handle))
    client.predict(b"A", adapter="a", top=2, coverage=0.5)
    client.embed([b"A"], adapted=False)
    client.ask("What?", b"I", task="t")
    client.ask("What?")
    client.put("x", tmp_path / "run")
    client.put("x", tmp_path / "run/adapter")
    assert client.adapters() == ["a"]
    client.delete("x")
    client.close()
    assert [row[:3] for row in asked] == [
        ("POST", "/v1/predict", "Bearer k"), ("POST", "/v1/embed", "Bearer k"), ("POST", "/v1/ask", "Bearer k"),
        ("POST", "/v1/ask", "Bearer k"), ("PUT", "/v1/adapters/x", "Bearer k"), ("PUT", "/v1/adapters/x", "Bearer k"),
        ("GET", "/v1/adapters", "Bearer k"), ("DELETE", "/v1/adapters/x", "Bearer k"),
    ]  # fmt: skip
    assert parts(asked[0][3]) == {"adapter": b"a", "top": b"2", "coverage": b"0.5", "images": b"A"}
    assert parts(asked[1][3]) == {"adapted": b"false", "images": b"A"}
    assert parts(asked[2][3]) == {"question": b"What?", "task": b"t", "image": b"I"}
    assert parts(asked[3][3]) == {"question": b"What?", "task": b""}
    assert (
        parts(asked[4][3]) == parts(asked[5][3]) == {"json": b"json", "safetensors": b"safetensors"}
    )
    with pytest.raises(ConfigError, match=r"adapter"):
        petiole.Client().put("x", tmp_path)

    async def both() -> None:
        async with petiole.AsyncClient(transport=httpx.MockTransport(handle)) as other:
            await other.predict(b"A", adapter="a", top=2, coverage=0.5)
            await other.ask("What?", b"I", task="t")
            assert await other.adapters() == ["a"]
            await other.put("x", tmp_path / "run")
            await other.delete("x")

    before = len(asked)
    asyncio.run(both())
    assert [parts(row[3]) for row in asked[before : before + 2]] == [parts(asked[0][3]), parts(asked[2][3])]  # fmt: skip
    assert [row[:3] for row in asked[before:]][-1] == ("DELETE", "/v1/adapters/x", None)


def test_pauses_are_as_stated_or_doubled_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("petiole.serving.client.time.sleep", pauses.append)
    monkeypatch.setattr("petiole.serving.client.random.uniform", lambda low, high: (low + high) / 2)

    def served(retry: dict[str, str], retries: int) -> list[float]:
        pauses.clear()
        answer = {"error": {"code": "busy", "message": "Busy."}}
        transport = httpx.MockTransport(lambda _: httpx.Response(503, json=answer, headers=retry))
        with pytest.raises(ServerError, match=r"^Busy.$"), petiole.Client(transport=transport, retries=retries) as client:  # fmt: skip
            client.adapters()
        return list(pauses)

    assert served({}, 9) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10])
    assert served({"retry-after": "3"}, 2) == [3.0, 3.0]
    assert served({"retry-after": "99"}, 1) == [10.0]
    assert served({}, 0) == []


# --- runs and exports ---------------------------------------------------------------------------


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


def test_a_graph_lies_beside_its_adapter_or_where_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    manifest, spare = tmp_path / "a/adapter.json", tmp_path / "spare"
    manifest.parent.mkdir()
    manifest.write_text("one")
    place = exports.place_of(manifest, spare)
    assert place.parent == manifest.parent
    assert len(place.name) == len("onnx-") + 16
    manifest.write_text("two")
    assert exports.place_of(manifest, spare) != place
    monkeypatch.setattr(os, "access", lambda *_: False)
    other = exports.place_of(manifest, spare)
    assert other.parent == spare
    (manifest.parent / other.name).mkdir()
    assert exports.place_of(manifest, spare).parent == manifest.parent, "it is there already"


@pytest.mark.parametrize(("aside", "priorities"), [(True, [10]), (False, [])])
def test_an_export_goes_after_requests(aside: bool, priorities: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    set_to: list[int] = []
    monkeypatch.setattr(os, "setpriority", lambda which, pid, priority: set_to.append(priority))  # noqa: ARG005
    said = SimpleNamespace(code=1, err=b"warning\nerror: it has no graph\n")

    class Process:
        pid = 7

        @property
        def returncode(self) -> int:
            return int(said.code)

        async def communicate(self) -> tuple[bytes, bytes]:
            return b"", said.err

    asked: list[Any] = []

    async def made(*command: Any, **_: Any) -> Process:
        asked.append(command[1:])
        return Process()

    monkeypatch.setattr(asyncio, "create_subprocess_exec", made)
    with pytest.raises(AdapterError, match=r"^it has no graph$"):
        asyncio.run(exports.export(Path("a"), tmp_path / "o", aside=aside))
    assert set_to == priorities
    assert asked[0] == ("-m", "petiole", "export", "a", "--out", str(tmp_path / "o"))
    said.err, said.code = b"", -9
    with pytest.raises(AdapterError, match=r"^petiole export was ended by SIGKILL"):
        asyncio.run(exports.export(Path("a"), tmp_path / "o", aside=aside))
    (tmp_path / "o").mkdir()
    asyncio.run(exports.export(Path("a"), tmp_path / "o"))
    said.code = 0
    asyncio.run(exports.export(Path("a"), tmp_path / "none"))


def test_why_torch_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    made = object.__new__(library.AdapterLibrary)
    made.engine, made.device = "torch", "cpu"
    assert made._why_torch(False) == "as was asked for"
    made.engine = "auto"
    assert made._why_torch(True) == "adapters that write texts are not exported"
    missing = {"onnx", "onnxscript"}
    monkeypatch.setattr(library, "find_spec", lambda name: None if name in missing else object())
    assert made._why_torch(False) == "onnx, onnxscript: pip install 'petiole[onnx]'"
    missing.clear()
    assert made._why_torch(False) == ""
    made.device = "cuda"
    assert made._why_torch(False).endswith("and cuda computes")


def test_graphs_of_auto_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "open_graph", lambda place, threads: f"graph of {place.name} by {threads}")  # fmt: skip
    monkeypatch.setattr(library, "GRAPH_BYTES", 10)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name, size in (("a", 6), ("b", 4), ("c", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.onnx").write_bytes(b"x" * (size - 1))
        (tmp_path / name / "model.onnx.data").write_bytes(b"x")
        (tmp_path / name / "golden.npz").write_bytes(b"x" * 99)
    made = library.AdapterLibrary("cpu", 3, 100, "auto")
    made._opened.update({"fa": object(), "fb": object()})  # type: ignore[dict-item]
    made.use("fa", tmp_path / "a")
    made.use("fb", tmp_path / "b")
    assert made._graphs == {"fa": "graph of a by 3", "fb": "graph of b by 3"}  # type: ignore[comparison-overlap]
    made.use("fb", tmp_path / "b")
    with pytest.raises(
        AdapterError, match=r"Graphs of other adapters fill 0 GiB; --engine onnx has"
    ):
        made.use("fb", tmp_path / "c")
    made.engine = "onnx"
    made.use("fb", tmp_path / "c")
    made.use("later", tmp_path / "a")
    assert "later" not in made._graphs
    assert made._places["later"] == tmp_path / "a"
    assert made.groups(["fa", "fb", "none"]) == {"fa": "onnx:fa", "fb": "onnx:fb"}


def test_runs_of_rows_have_layers_of_their_own() -> None:
    double, negate = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)
    with torch.no_grad():
        for layer, factor in ((double, 2.0), (negate, -1.0)):
            layer.weight.copy_(factor * torch.eye(3))
            layer.bias.zero_()
    x = torch.arange(18.0).reshape(6, 3)
    made = ByRows([(slice(1, 3), double), (slice(4, 6), negate)], 6)(x)
    assert torch.equal(made, torch.cat([0 * x[:1], 2 * x[1:3], 0 * x[3:4], -x[4:]]))
    assert torch.equal(ByRows([(slice(0, 6), double)], 6)(x), 2 * x)
    assert torch.equal(ByRows([(slice(0, 2), negate)], 6)(x), torch.cat([-x[:2], 0 * x[2:]]))


def test_a_question_to_a_tuned_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"no tasks to choose from"):
        library._ask_codebook(None, "?", [Path("a")], "t")
    for images in ([], [Path("a"), Path("b")]):
        with pytest.raises(ConfigError, match=r"is about one image"):
            library._ask_codebook(None, "?", images, "")
    monkeypatch.setattr("petiole.tasks.codebook.training.ask", lambda *given: given)
    monkeypatch.setattr("petiole.tasks.text.training.ask", lambda *given: given)
    assert library._ask_codebook("x", "?", [Path("a")], "") == ("x", Path("a"), "?")  # type: ignore[comparison-overlap]
    assert library._ask_text("x", "?", [], "t") == ("x", "?", [], "t")  # type: ignore[comparison-overlap]


def test_what_a_worker_answers_instead() -> None:
    assert error_of(DataError("torn")) == {"error": "torn", "kind": "DataError"}
    assert error_of(ValueError("x")) == {"error": "ValueError: x", "kind": "Unforeseen"}


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
        nearest, "Features", lambda *_, **__: SimpleNamespace(vectors=lambda _: vectors)
    )
    monkeypatch.setattr(nearest, "_thumbnail", lambda _, row: f"t{row}")
    backbone: Any = type("Frozen", (), {
        "preprocess": lambda _, image: image, "device": "cpu", "vector": "v", "lower": lambda _, pixels, __: {"v": pixels},
    })()  # fmt: skip
    adapter = folder_of(tmp_path, "run/adapter")
    images = nearest.TrainingImages(tmp_path / "cache")
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


class SizedData:
    """A data set of so many images."""

    def __init__(self, data: Any, n: int) -> None:
        self.classes, self.samples, self._n = data.classes, data.samples, n

    def __len__(self) -> int:
        return self._n


def test_numbers_of_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.serving.ray_replicas.connected", lambda _: None)
    for given, fewest, most in (((), 1, 1), ((3,), 3, 3), ((1, 4), 1, 4), ((2, 2), 2, 2)):
        made = on_ray(SimpleNamespace(address=None), given)(dict)
        assert isinstance(made, RayReplicas)
        assert (made.fewest, made.most, made.places, made.starts) == (fewest, most, 1, 1)
    for given in ((0,), (2, 1), (1, 2, 3), (-1, 2)):
        with pytest.raises(ConfigError, match=r"--replicas takes how many there are"):
            on_ray(SimpleNamespace(address=None), given)


# --- teaching -----------------------------------------------------------------------------------


def test_labels_are_cleaned_and_classes_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr("petiole.serving.teach.label_log.MOST_CLASSES", 3)
    log = LabelLog(tmp_path)
    assert (log.version, log.labels, log.classes) == (0, {}, [])
    log.give(["a", "b"], ["x", " y  z "])
    assert (log.version, log.classes) == (1, ["x", "y z"])
    log.give(["a"], "l" * 100)
    for ids, label, said in (
        ([], "x", "Choose an image first"),
        (["a"], " ", "1 to 100 characters"),
        (["a"], "l" * 101, "1 to 100 characters"),
        (["a"], "fourth", "There may be 3 classes"),
        (["a", "b"], ["x"], "2 images and 1 labels"),
    ):
        with pytest.raises(DataError, match=said):
            log.give(ids, label)
    assert log.version == 2
    log.give(["b"], None)
    assert log.labels == {"a": "l" * 100}
    assert log.classes == ["x", "y z", "l" * 100], "a class keeps its place"
    log.undo()
    assert (log.labels["b"], log.version) == ("y z", 4)
    log._lock.release()
    again = LabelLog(tmp_path)
    assert (again.version, again.labels) == (4, log.labels)
    again._lock.release()


def test_labels_that_another_class_would_get() -> None:
    p = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.3, 0.3, 0.4], [0.49, 0.51, 0.0], [0.0, 0.0, 1.0], [0.5, 0.25, 0.25]], dtype=np.float32)  # fmt: skip
    assert evidence._doubted(p, np.array([0, 0, 0, 0, 0, 1])) == [4, 1, 3], "one of 0.5 is not sure"
    many = np.tile([0.1, 0.9], (30, 1)).astype(np.float32)
    assert evidence._doubted(many, np.zeros(30, dtype=np.int64)) == list(range(24))


def test_a_law_of_two_points_and_more() -> None:
    assert evidence._law([], 10) == evidence._law([[4, 0.5]], 10) == []
    ahead = evidence._law([[10, 0.5], [40, 0.75]], 40)
    assert [n for n, _ in ahead] == [40, 80, 160]
    assert [a for _, a in ahead] == pytest.approx([0.75, 1 - 0.25 / 2**0.5, 0.875])
    worse = evidence._law([[10, 0.75], [40, 0.5]], 40)
    assert len({round(a, 9) for _, a in worse}) == 1, "it never falls"
    perfect = evidence._law([[10, 1.0], [40, 1.0]], 50)
    assert [a for _, a in perfect] == pytest.approx([0.99] * 3), "half an image of those there are"


def test_sizes_of_a_curve(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(evidence, "_once", lambda _, __, size, ___: asked.append(size) or 0.5)

    def sizes(labels: list[int]) -> list[float]:
        asked.clear()
        found = evidence.curve(torch.zeros(len(labels), 2), np.array(labels))
        assert asked == [size for size, _ in found["measured"] for _ in range(5)]
        return [size for size, _ in found["measured"]]

    assert sizes([0, 1] * 10) == [5, 10, 15]
    assert sizes([0, 1, 2, 0]) == [3], "one of each class at least"
    assert sizes([0, 1]) == []
    assert sizes([0] * 8) == []
    assert sizes([]) == []


def test_once_learns_from_one_of_each_class(monkeypatch: pytest.MonkeyPatch) -> None:
    learned: list[Any] = []

    class Head(torch.nn.Module):
        def __init__(self, width: int, classes: int) -> None:
            super().__init__()
            self.shape = (width, classes)

        def solve(self, x: Any, y: Any, target: Any) -> None:
            learned.append((x.clone(), y.clone(), target.clone(), self.shape))

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.one_hot(x[:, 0].long(), self.shape[1]).float()

    monkeypatch.setattr(evidence, "AveragedRidgeHead", Head)
    labels = np.array([0, 0, 1, 2, 2, 2, 1])
    vectors = torch.tensor([[0.0, 0], [0, 1], [1, 2], [2, 3], [2, 4], [0, 5], [1, 6]])
    for seed in range(6):
        score = evidence._once(vectors, labels, 4, np.random.default_rng(seed))
        x, y, target, shape = learned[-1]
        assert (len(x), shape, target.all().item()) == (4, (2, 3), True)
        assert set(y.tolist()) == {0, 1, 2}
        left = sorted(set(range(7)) - set(x[:, 1].long().tolist()))
        assert score == pytest.approx(np.mean([vectors[i, 0].item() == labels[i] for i in left]))


def test_each_kind_of_adapter_is_asked_what_it_can_answer() -> None:
    from petiole.tasks.classification.adapter import ClassificationAdapter

    labels: Any = object.__new__(ClassificationAdapter)
    answers: Any = object()
    for do in ("predict", "explain"):
        library._check_use(do, labels)
        with pytest.raises(ConfigError, match=r"labels no images: use /v1/ask"):
            library._check_use(do, answers)
    library._check_use("ask", answers)
    with pytest.raises(ConfigError, match=r"answers no questions: use /v1/predict"):
        library._check_use("ask", labels)


def taught(n: int = 8) -> Teacher:
    made = object.__new__(Teacher)
    made.typical = [5, 2, 7]
    made.data = SizedData(SimpleNamespace(classes=[], samples=[]), n)  # type: ignore[assignment]
    made.vectors = torch.tensor(
        [[1.0, 0], [2, 0.1], [0, 1], [-1, 0], [1, 1], [0, -1], [5, 0.2], [1, -1]]
    )[:n]
    return made


def test_typical_images_then_those_that_the_head_is_least_sure_of() -> None:
    made = taught()
    free = np.ones(8, dtype=bool)
    p = np.array([[0.6, 0.4], [0.55, 0.45], [0.1, 0.9], [0.5, 0.5], [0.3, 0.7], [0.2, 0.8], [0.9, 0.1], [0.45, 0.55]], dtype=np.float32)  # fmt: skip
    assert made.suggested(free, p) == [5, 2, 7]
    assert made.suggested(free, None, most=2) == [5, 2]
    free[[5, 2, 7]] = False
    assert made.suggested(free, None) == []
    assert made.suggested(free, p) == [3, 4, 1, 0, 6], "one of each predicted class in turn"
    assert made.suggested(free, p, most=2) == [3, 4]
    free[3] = False
    assert made.suggested(free, p) == [1, 4, 0, 6]


def test_images_alike_by_the_cosine() -> None:
    made = taught()
    assert made.alike(0, 3) == [0, 6, 1]
    assert made.alike(0, 8)[-1] == 3
    for row in (-1, 8):
        with pytest.raises(DataError, match=r"^There are 8 images; a row beyond them was named.$"):
            made.alike(row)


def test_maps_of_few_images_are_points_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.serving.teach.teacher.MOST_TSNE", 6)
    for n in (0, 1, 2):
        assert projection(np.zeros((n, 4))).tolist() == [[0.5, 0.5]] * n
    rng = np.random.default_rng(0)
    wide = projection(rng.standard_normal((7, 3)) * [10, 3, 1])
    assert wide.shape == (7, 2)
    assert (wide.min(0).tolist(), wide.max(0).tolist()) == ([0, 0], [1, 1])
    flat = projection(rng.standard_normal((7, 1)))
    assert np.array_equal(flat[:, 0], flat[:, 1])


def test_lessons_begin_when_they_are_first_asked_for() -> None:
    async def main() -> None:
        lessons = Lessons({"images": "x"})
        ready = asyncio.Event()
        starts: list[Any] = []

        async def start() -> dict[str, Any]:
            starts.append(1)
            if len(starts) == 1:
                raise Refused("it cannot be read", "DataError")
            ready.set()
            return {}

        async def call(value: Any) -> Any:
            return SimpleNamespace(value={"asked": value}, blobs=[b"x"])

        stopped: list[int] = []

        async def stop() -> None:
            stopped.append(1)

        lessons.process = SimpleNamespace(start=start, ready=ready, call=call, stop=stop)  # type: ignore[assignment]
        await lessons.stop()
        assert stopped == [], "it was never started"
        assert not lessons.ready()
        await asyncio.sleep(0)
        with pytest.raises(Refused, match=r"it cannot be read"):
            lessons.ready()
        with pytest.raises(WorkerGone):
            await lessons.ask("state", since=3)
        await asyncio.sleep(0)
        assert await lessons.ask("state", since=3) == (
            {"asked": {"do": "state", "since": 3}},
            [b"x"],
        )
        assert len(starts) == 2
        await lessons.stop()
        assert stopped == [1]

    asyncio.run(main())

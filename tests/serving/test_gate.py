"""Bodies, refusals, keys and the log of the server's gate."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
from petiole.errors import ConfigError
from petiole.serving.gate import Gate, _replay
from petiole.serving.keys import ApiKeys
from petiole.serving.limits import Limits
from petiole.serving.telemetry import SECONDS, Telemetry, log


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
    bounds = {name: re.findall(rf'petiole_{name}_bucket\{{.*?le="([^"]+)"', text) for name in ("batch_rows", "batch_seconds")}  # fmt: skip
    assert bounds["batch_rows"] == ["1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "+Inf"]
    assert bounds["batch_seconds"] == [*map(str, map(float, SECONDS)), "+Inf"]


def test_a_request_is_timed_in_milliseconds(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    times = iter([5.0, 5.25])
    monkeypatch.setattr("petiole.serving.gate.time", SimpleNamespace(perf_counter=lambda: next(times)))  # fmt: skip
    with caplog.at_level("INFO", logger="petiole.serving"):
        passed([part(b"", False), {"type": "http.disconnect"}], Limits())
    (line,) = [json.loads(r.message) for r in caplog.records if r.message.startswith("{")]
    assert (line["ms"], line["status"]) == (250.0, 200)

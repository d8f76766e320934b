"""Forms, answers, requests and pauses of both clients."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
import httpx2 as httpx

import petiole
from petiole.errors import ConfigError
from petiole.serving.client import ServerError, _content, _form, _text


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

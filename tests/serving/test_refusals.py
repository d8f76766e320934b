"""Which refusal has which status, the log, and small things that a server shows."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders.images import write_images

pytest.importorskip("httpx2", reason="the extra serve is not installed")
pytest.importorskip("fastapi", reason="the extra serve is not installed")
from fastapi.exceptions import RequestValidationError
from PIL import Image

from petiole.errors import AdapterError, ConfigError
from petiole.serving import client as client_of
from petiole.serving import telemetry
from petiole.serving.batcher import Busy
from petiole.serving.library import AdapterLibrary
from petiole.serving.nearest import SIDE, _thumbnail
from petiole.serving.process import Refused, WorkerGone
from petiole.serving.refusals import HANDLERS, START_SECONDS


@pytest.mark.parametrize(
    ("error", "status", "code", "said", "headers"),
    [
        (Busy(6.2), 429, "busy", "would wait too long", {"retry-after": "7"}),
        (WorkerGone(), 503, "starting", "is being started", {"retry-after": str(START_SECONDS)}),
        (TimeoutError(), 504, "late", "took too long", {}),
        (AdapterError("no such"), 404, "adapter", "no such", {}),
        (ConfigError("not so"), 422, "value", "not so", {}),
        (Refused("x", "Unforeseen"), 500, "unforeseen", "did not foresee", {}),
        (Refused("went", "Gone"), 404, "adapter", "went", {}),
        (Refused("no image", "DataError"), 422, "image", "no image", {}),
        (Refused("no value", "ConfigError"), 422, "value", "no value", {}),
        (RequestValidationError([{"loc": ("body", "rows"), "msg": "too few"}, {"loc": ("x",), "msg": "y"}]),
         422, "value", "body.rows: too few", {}),
    ],
)  # fmt: skip
def test_every_refusal_has_its_status(
    error: Exception, status: int, code: str, said: str, headers: dict[str, str]
) -> None:
    handler = next(work for kind, work in HANDLERS.items() if isinstance(error, kind))
    told = telemetry.Telemetry()
    request: Any = SimpleNamespace(app=SimpleNamespace(state=SimpleNamespace(telemetry=told)))
    answer = asyncio.run(handler(request, error))  # type: ignore[arg-type]
    body = json.loads(answer.body)["error"]
    assert (answer.status_code, body["code"]) == (status, code)
    assert said in body["message"]
    assert headers.items() <= dict(answer.headers).items()
    for reason in ("busy", "starting"):
        counted = f'petiole_refused_total{{reason="{reason}"}} 1.0' in told.exposition().decode()
        assert counted == (code == reason)


def test_the_log_goes_to_its_stream_a_line_of_json_an_event(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = logging.getLogger("petiole.serving of this test")
    monkeypatch.setattr(telemetry, "LOG", own)
    heard: list[str] = []
    above = logging.Handler()
    above.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(above)
    try:
        telemetry.log_to(stream := io.StringIO())
        telemetry.log("adapter", name="x")
    finally:
        logging.getLogger().removeHandler(above)
    [line] = stream.getvalue().splitlines()
    said = json.loads(line)
    assert (said["event"], said["name"]) == ("adapter", "x")
    assert len(said["when"]) == len("2026-01-01T00:00:00.000+00:00")
    assert heard == []


def test_without_its_library_the_client_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ConfigError, match=r"The client needs httpx2: pip install 'petiole"):
        client_of.Client("http://here")


def test_training_images_are_shown_small(tmp_path: Path) -> None:
    import base64

    from petiole.data.sources import open_data

    data = open_data(write_images(tmp_path, 1, 0, side=200))
    with Image.open(io.BytesIO(base64.b64decode(_thumbnail(data, 1)))) as shown:
        assert (shown.format, max(shown.size)) == ("JPEG", SIDE)


def test_images_of_one_graph_are_asked_together() -> None:
    asked: list[int] = []

    class Graph:
        def outputs(self, pixels: Any) -> Any:
            asked.append(len(pixels))
            return 10 * pixels[:, :1], pixels + 100 * len(asked)

    one, two = Graph(), Graph()
    seen = {i: torch.tensor([float(i), float(-i)]) for i in (4, 1, 7)}
    found = AdapterLibrary._run(None, {4: one, 1: two, 7: one}, seen)  # type: ignore[arg-type,dict-item]
    assert asked == [2, 1]
    assert {i: p.vectors.tolist() for i, p in found.items()} == {4: [40], 7: [70], 1: [10]}
    assert {i: p.logits.tolist() for i, p in found.items()} == {4: [104, 96], 7: [107, 93], 1: [201, 199]}  # fmt: skip


def test_the_client_waits_before_it_asks_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Any] = []

    class Lost(Exception):
        pass

    async def sleep(seconds: float) -> None:
        done.append(seconds)

    async def request(method: str, path: str, **options: Any) -> str:
        done.append((method, path, options))
        if len(done) == 1:
            raise Lost("gone")
        return "answer"

    def steps() -> Any:
        lost = yield "GET", "/there", {"json": 1}
        assert isinstance(lost, Lost)
        assert (yield 0.25) is None
        assert (yield "GET", "/there", {}) == "answer"
        return "done"

    monkeypatch.setattr(client_of.asyncio, "sleep", sleep)
    client = object.__new__(client_of.AsyncClient)
    client._http = SimpleNamespace(request=request)
    client._library = SimpleNamespace(TransportError=Lost)
    assert asyncio.run(client._run(steps())) == "done"
    assert done == [("GET", "/there", {"json": 1}), 0.25, ("GET", "/there", {})]

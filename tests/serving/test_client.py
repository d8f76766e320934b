"""The client: what it sends is what a server takes, and what was refused for load is asked again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

import petiole
from builders.serving import picture
from petiole.serving import client as module
from petiole.serving.client import ServerError

httpx = pytest.importorskip("httpx2", reason="the extra serve is not installed")
Handler = Callable[[Any], Any]


def refusing(times: int, status: int = 429, after: str = "2") -> tuple[Handler, list[Any]]:
    """A server that refuses so often, then answers; and the requests that it got."""
    seen: list[Any] = []

    def handle(request: Any) -> Any:
        seen.append(request)
        if len(seen) <= times:
            error = {"error": {"code": "busy", "message": "Busy."}}
            return httpx.Response(
                status, json=error, headers={"retry-after": after} if after else {}
            )
        return httpx.Response(200, json={"adapters": []})

    return handle, seen


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(module.time, "sleep", slept.append)
    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    return slept


def test_what_was_refused_for_load_is_asked_again(pauses: list[float]) -> None:
    handle, seen = refusing(3)
    client = petiole.Client(transport=httpx.MockTransport(handle))
    assert client.adapters() == []
    assert len(seen) == 4
    assert all(1 <= pause <= 3 for pause in pauses), "around what the server states"
    assert len(set(pauses)) == 3, "with jitter"


def test_without_a_stated_time_it_waits_longer_each_time(pauses: list[float]) -> None:
    handle, _ = refusing(4, status=503, after="")
    client = petiole.AsyncClient(transport=httpx.MockTransport(handle))
    assert asyncio.run(client.adapters()) == []
    assert all(0.5 <= pause / (0.1 * 2**i) <= 1.5 for i, pause in enumerate(pauses))


def test_it_gives_up_with_the_servers_words(pauses: list[float]) -> None:
    handle, seen = refusing(99)
    client = petiole.Client(transport=httpx.MockTransport(handle), retries=2)
    with pytest.raises(ServerError, match="Busy") as told:
        client.adapters()
    assert (told.value.status, told.value.code) == (429, "busy")
    assert len(seen) == 3
    assert len(pauses) == 2


def test_other_refusals_are_told_at_once(pauses: list[float]) -> None:
    handle, seen = refusing(99, status=422)
    with pytest.raises(ServerError):
        petiole.Client(transport=httpx.MockTransport(handle)).predict(picture())
    assert len(seen) == 1
    assert pauses == []


def test_a_server_that_is_not_there_is_named(pauses: list[float]) -> None:
    def handle(request: Any) -> Any:
        raise httpx.ConnectError("refused", request=request)

    client = petiole.Client("http://127.0.0.1:9", transport=httpx.MockTransport(handle), retries=1)
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9.*cannot be reached"):
        client.adapters()
    assert len(pauses) == 1


def test_connections_are_closed_at_the_end_of_a_block() -> None:
    handle, _ = refusing(0)
    with petiole.Client(transport=httpx.MockTransport(handle)) as client:
        assert client.adapters() == []
        assert not client._http.is_closed
    assert client._http.is_closed

    async def main() -> None:
        async with petiole.AsyncClient(transport=httpx.MockTransport(handle)) as client:
            assert await client.adapters() == []
        assert client._http.is_closed

    asyncio.run(main())

"""What every request passes before anything reads it: who asks, how much, how long; and its line in the log.

Bodies are read whole, up to a size and a time, before a route sees them. A browser's request from another site is refused: it
could reach a server on the loopback that has no keys.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from petiole.serving.keys import ApiKeys
from petiole.serving.limits import Limits
from petiole.serving.telemetry import LOG, Telemetry, log

OPEN = ("/healthz", "/readyz")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
)


class Turned(Exception):
    """A request that is not let in."""

    def __init__(self, status: int, code: str, text: str, **headers: str) -> None:
        super().__init__(text)
        self.status, self.code, self.headers = status, code, headers


class Gate:
    """Middleware around the whole app.

    Args:
        app: the rest.
        limits: of the server.
        telemetry: hears of every request.
        keys: who may ask; ``None`` for everybody.
        origins: sites whose pages may ask beside the server's own.
        hosts: names that the server is called by; none for any. Another one is a page that had its name point here.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        limits: Limits,
        telemetry: Telemetry,
        keys: ApiKeys | None = None,
        origins: tuple[str, ...] = (),
        hosts: tuple[str, ...] = (),
    ) -> None:
        self.app, self.limits, self.telemetry = app, limits, telemetry
        self.keys, self.origins, self.hosts = keys, origins, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        facts: dict[str, Any] = {}
        try:
            facts["key"] = self._who(scope, headers)
            body = await self._body(headers, receive)
            await self.app(scope, _replay(body, receive), answer)
        except Turned as error:
            await _refuse(error, answer)
        except Exception:
            LOG.exception("a request failed")
            if status == 500:
                await _refuse(Turned(500, "unforeseen", "This was not foreseen."), answer)
        finally:
            self._note(scope, status, time.perf_counter() - start, facts)

    def _who(self, scope: Scope, headers: dict[str, str]) -> str | None:
        host = headers.get("host", "")
        if self.hosts and _parts(f"//{host}").hostname not in self.hosts:
            raise Turned(421, "host", "This server is not called so. Ask it by its own name.")
        origin = headers.get("origin")
        if origin and origin not in self.origins and _parts(origin).netloc != host:
            raise Turned(403, "origin", "Pages of other sites may not ask this server.")
        if self.keys is None or not scope["path"].startswith(("/v1/", "/metrics", "/runs/")):
            return None
        word, _, key = headers.get("authorization", "").partition(" ")
        if word.lower() == "bearer" and (name := self.keys.name_of(key.strip())):
            return name
        raise Turned(
            401,
            "key",
            "Give an API key of this server: Authorization: Bearer KEY.",
            **{"www-authenticate": "Bearer"},
        )

    async def _body(self, headers: dict[str, str], receive: Receive) -> bytes:
        most = self.limits.body
        large = Turned(413, "body", f"A request has at most {most:,} bytes here.")
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > most:
            raise large
        content = bytearray()
        try:
            async with asyncio.timeout(self.limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Turned(400, "gone", "The request broke off.")
                    content += message.get("body", b"")
                    if len(content) > most:
                        raise large
                    if not message.get("more_body"):
                        return bytes(content)
        except TimeoutError:
            raise Turned(408, "slow", "The request took too long to arrive.") from None

    def _note(self, scope: Scope, status: int, seconds: float, facts: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "other")
        self.telemetry.requests.labels(route, str(status)).observe(seconds)
        if route not in OPEN:
            told = {"method": scope["method"], "route": route, "status": status, **facts}
            log("request", **told, ms=round(1000 * seconds, 1), **scope.get("petiole", {}))


def _parts(address: str) -> SplitResult:
    try:
        return urlsplit(address)
    except ValueError:  # no address at all
        return urlsplit("")


def _replay(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives a body that was read already, then what follows."""
    given = False

    async def again() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again


async def _refuse(error: Turned, send: Send) -> None:
    content = json.dumps({"error": {"code": error.code, "message": str(error)}}).encode()
    headers = {"content-type": "application/json", "content-length": str(len(content))}
    listed = [(k.encode(), v.encode()) for k, v in {**headers, **error.headers}.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": listed})
    await send({"type": "http.response.body", "body": content})

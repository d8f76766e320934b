"""Which error has which status; every refusal has one form."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import compile_path

from petiole.errors import AdapterError, PetioleError
from petiole.serving.batcher import Busy
from petiole.serving.gate import Turned
from petiole.serving.process import Refused, WorkerGone

Handler = Callable[[Request, Exception], Awaitable[Response]]
START_SECONDS = 2
"""Retry-After while the inference process is being started."""


def _response(status: int, code: str, text: str, **headers: str) -> Response:
    return JSONResponse({"error": {"code": code, "message": text}}, status, headers=headers)


async def _turned(_: Request, error: Exception) -> Response:
    assert isinstance(error, Turned)
    return _response(error.status, error.code, str(error), **error.headers)


async def _busy(request: Request, error: Exception) -> Response:
    assert isinstance(error, Busy)
    request.app.state.telemetry.refused.labels("busy").inc()
    return _response(429, "busy", str(error), **{"Retry-After": str(error.after)})


async def _gone(request: Request, _: Exception) -> Response:
    request.app.state.telemetry.refused.labels("starting").inc()
    text = "The inference process is being started."
    return _response(503, "starting", text, **{"Retry-After": str(START_SECONDS)})


async def _late(_: Request, __: Exception) -> Response:
    return _response(504, "late", "The answer took too long.")


async def _explained(_: Request, error: Exception) -> Response:
    if isinstance(error, AdapterError):
        return _response(404, "adapter", str(error))
    return _response(422, "value", str(error))


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    if error.kind == "Unforeseen":
        return _response(500, "unforeseen", "The inference process did not foresee this.")
    if error.kind == "Gone":
        return _response(404, "adapter", str(error))
    return _response(422, "image" if error.kind == "DataError" else "value", str(error))


async def _unfit(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    return _response(422, "value", f"{'.'.join(map(str, first['loc']))}: {first['msg']}")


def _methods(request: Request) -> list[str]:
    """Of a path, all of them; the router itself names those of the first route that matches."""
    paths: dict[str, dict[str, object]] = request.app.openapi()["paths"]
    there = (m for path, m in paths.items() if compile_path(path)[0].match(request.url.path))
    return sorted({method.upper() for methods in there for method in methods})


async def _plain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405 and (known := _methods(request)):
        headers["Allow"] = ", ".join(known)
    return _response(error.status_code, "http", str(error.detail), **headers)


HANDLERS: dict[type[Exception], Handler] = {
    Turned: _turned,
    Busy: _busy,
    WorkerGone: _gone,
    TimeoutError: _late,
    PetioleError: _explained,
    Refused: _refused,
    HTTPException: _plain,
    RequestValidationError: _unfit,
}

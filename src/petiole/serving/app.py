"""The HTTP face of a server: routes, and which error has which status."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from petiole.errors import AdapterError, PetioleError
from petiole.serving import schemas
from petiole.serving.batcher import Busy
from petiole.serving.gate import Gate, Turned
from petiole.serving.keys import ApiKeys
from petiole.serving.process import Refused, WorkerGone
from petiole.serving.schemas import REFUSALS, body_of
from petiole.serving.service import FILES, Service
from petiole.version import __version__

R = TypeVar("R", bound=schemas.Request)
Handler = Callable[[Request, Exception], Awaitable[Response]]
START_SECONDS = 2
"""Retry-After while the inference process is being started."""


def create_app(
    service: Service,
    *,
    keys: ApiKeys | None = None,
    origins: Sequence[str] = (),
    hosts: Sequence[str] = (),
    routers: Sequence[APIRouter] = (),
) -> FastAPI:
    """The whole application over a service.

    Args:
        service: adapters and their process, which the caller starts and stops.
        keys: who may ask; ``None`` for everybody.
        origins: sites whose pages may ask.
        hosts: names that the server is called by; none for any.
        routers: further routes: the page.
    """
    app = FastAPI(
        title="Petiole",
        version=__version__,
        description="Adapters of frozen vision and vision-language models.",
        docs_url=None,  # their pages fetch scripts from elsewhere
        redoc_url=None,
    )
    app.state.telemetry = service.telemetry
    for error, handler in _HANDLERS.items():
        app.add_exception_handler(error, handler)
    for router in (_adapters(service), _answers(service), _state(service), *routers):
        app.include_router(router)
    app.add_middleware(
        Gate,
        limits=service.limits,
        telemetry=service.telemetry,
        keys=keys,
        origins=tuple(origins),
        hosts=tuple(hosts),
    )
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(origins),
            allow_methods=["GET", "POST", "PUT", "DELETE"],
            allow_headers=["authorization", "content-type"],
        )
    return app


def _answers(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["answers"], responses=REFUSALS)

    @router.post(
        "/predict",
        response_model=schemas.PredictResponse,
        openapi_extra=body_of(schemas.PredictRequest, "images"),
    )
    async def predict(request: Request) -> dict[str, Any]:
        """Label images: JSON with base64, or a form with image files."""
        asked, images = await read_request(request, service, schemas.PredictRequest)
        name = service.chosen(asked.adapter)
        options = {"top": asked.top, "coverage": asked.coverage, "abstain": asked.abstain}
        answers = await service.answer(name, images, do="label", **options)
        _remember(request, name, len(images))
        notes = list(dict.fromkeys(note for one in answers for note in one["notes"]))
        return {"adapter": name, "predictions": answers, "notes": notes}

    @router.post(
        "/embed",
        response_model=schemas.EmbedResponse,
        openapi_extra=body_of(schemas.EmbedRequest, "images"),
    )
    async def embed(request: Request) -> dict[str, Any]:
        """Vectors of images: those that an adapter's head sees, or its frozen backbone's."""
        asked, images = await read_request(request, service, schemas.EmbedRequest)
        name = service.chosen(asked.adapter)
        answers = await service.answer(name, images, do="embed", adapted=asked.adapted)
        _remember(request, name, len(images))
        return {"adapter": name, "vectors": [one["vector"] for one in answers]}

    @router.post(
        "/look",
        response_model=schemas.LookResponse,
        openapi_extra=body_of(schemas.LookRequest, "image", many=False),
    )
    async def look(request: Request) -> dict[str, Any]:
        """Where an adapter looks: how much each patch of an image speaks for a class."""
        asked, images = await read_request(request, service, schemas.LookRequest)
        if len(images) != 1:
            raise Turned(422, "images", "Give one image.")
        name = service.chosen(asked.adapter)
        answers = await service.answer(name, images, do="look", label=asked.label)
        _remember(request, name, 1)
        return {"adapter": name, **answers[0]}

    @router.post(
        "/ask",
        response_model=schemas.AskResponse,
        openapi_extra=body_of(schemas.AskRequest, "image", many=False),
    )
    async def ask(request: Request) -> dict[str, Any]:
        """Put a question about an image to a language model."""
        asked, images = await read_request(request, service, schemas.AskRequest)
        name = service.chosen(asked.adapter)
        question = {"question": asked.question, "task": asked.task}
        answers = await service.answer(name, images or [("", b"")], do="ask", **question)
        _remember(request, name, 1)
        return {"adapter": name, "answer": answers[0]["answer"]}

    return router


def _adapters(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1/adapters", tags=["adapters"], responses=REFUSALS)

    @router.get("", response_model=schemas.AdapterList)
    async def listed() -> dict[str, Any]:
        """All adapters."""
        return {"adapters": [entry.public(name) for name, entry in service.entries.items()]}

    @router.get("/{name}", response_model=schemas.AdapterInfo)
    async def get(name: str) -> dict[str, Any]:
        """One adapter."""
        return service.entry(name)[1].public(name)

    upload = {"type": "object", "properties": {}, "required": [f.split(".")[1] for f in FILES]}
    for file in FILES:
        told = {"type": "string", "format": "binary", "description": file}
        upload["properties"][file.split(".")[1]] = told  # type: ignore[index]
    body = {"required": True, "content": {"multipart/form-data": {"schema": upload}}}

    @router.put("/{name}", response_model=schemas.AdapterInfo, openapi_extra={"requestBody": body})
    async def put(name: str, request: Request) -> dict[str, Any]:
        """Upload an adapter: its adapter.json as the field json, its adapter.safetensors as safetensors."""
        form = await _form(request)
        given = {f"adapter.{k}": await _content(v) for k, v in form}
        return await service.put(name, given)

    @router.delete("/{name}", status_code=204)
    async def delete(name: str) -> None:
        """Let an adapter go."""
        await service.delete(name)

    return router


def _state(service: Service) -> APIRouter:
    router = APIRouter(tags=["state"])

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The HTTP process lives."""
        return {"status": "ok", "version": __version__}

    @router.get("/readyz", responses={503: REFUSALS[503]})
    async def readyz() -> dict[str, str]:
        """The inference process answers."""
        if not service.process.ready.is_set():
            raise WorkerGone
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """Prometheus metrics."""
        return Response(service.measure(), media_type="text/plain; version=0.0.4")

    return router


async def read_request(
    request: Request, service: Service, model: type[R]
) -> tuple[R, list[tuple[str, bytes]]]:
    """A request and its images, each with what it is called; refused before it is parsed where too much waits."""
    service.batcher.check()
    if _type(request) == "application/json":
        try:
            asked = model.model_validate_json(await request.body())
        except ValidationError as error:
            raise _invalid(error) from None
        given = getattr(asked, "images", None) or [getattr(asked, "image", None)]
        images = [
            (f"image {i}", _decoded(one, i)) for i, one in enumerate(given) if one is not None
        ]
    else:
        asked, images = _asked_by_form(await _form(request), model), []
        for i, (_, file) in enumerate(await _files(request)):
            images.append((f"image {i}", await file.read()))
    if len(images) > service.limits.images:
        raise Turned(422, "images", f"A request has at most {service.limits.images} images here.")
    return asked, images


def _asked_by_form(form: list[tuple[str, Any]], model: type[R]) -> R:
    fields: dict[str, Any] = {}
    for name, value in form:
        if isinstance(value, UploadFile):
            if name not in ("image", "images"):
                raise Turned(
                    422, "value", f"{name!r}: files are given as images (image of /v1/ask)."
                )
            many = "images" in model.model_fields
            fields |= {"images": ["file"]} if many else {"image": "file"}
        elif name in fields:
            raise Turned(422, "value", f"{name!r} is given twice.")
        else:
            fields[name] = value
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from None


async def _files(request: Request) -> list[tuple[str, UploadFile]]:
    return [(n, v) for n, v in await _form(request) if isinstance(v, UploadFile)]


async def _form(request: Request) -> list[tuple[str, Any]]:
    if _type(request) != "multipart/form-data":
        raise Turned(415, "type", "Send multipart/form-data or application/json.")
    try:
        form = await request.form(max_files=1000, max_fields=100)
    except HTTPException as error:
        raise Turned(400, "form", f"The form cannot be read: {error.detail}") from None
    return list(form.multi_items())


async def _content(value: Any) -> bytes:
    return await value.read() if isinstance(value, UploadFile) else str(value).encode()


def _type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _decoded(text: str, index: int) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Turned(
            422,
            "image",
            f"image {index} is no base64. Addresses are not fetched; send the file itself.",
        ) from None


def _invalid(error: ValidationError) -> Turned:
    first = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(map(str, first["loc"])) or "the body"
    return Turned(422, "value", f"{place}: {first['msg']}")


def _remember(request: Request, adapter: str, rows: int) -> None:
    """For the log line of this request."""
    request.scope["petiole"] = {"adapter": adapter, "rows": rows}


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


async def _plain(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _response(error.status_code, "http", str(error.detail), **(error.headers or {}))


_HANDLERS: dict[type[Exception], Handler] = {
    Turned: _turned,
    Busy: _busy,
    WorkerGone: _gone,
    TimeoutError: _late,
    PetioleError: _explained,
    Refused: _refused,
    HTTPException: _plain,
    RequestValidationError: _unfit,
}

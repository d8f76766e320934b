"""The HTTP face of a server: its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel
from starlette.middleware.cors import CORSMiddleware

from petiole.serving import schemas
from petiole.serving.gate import Gate
from petiole.serving.keys import ApiKeys
from petiole.serving.process import WorkerGone
from petiole.serving.reading import read_form, read_request
from petiole.serving.refusals import HANDLERS
from petiole.serving.schemas import REFUSALS, body_of
from petiole.serving.service import FILES, Service
from petiole.version import __version__


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
    for error, handler in HANDLERS.items():
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


@dataclass(frozen=True)
class Question:
    """One way to ask an adapter about images; what its request holds beside adapter and images is what the process is told.

    Attributes:
        about: for the document.
        request, response: models.
        do: what the process does.
        said: the response beside the adapter's name, of an answer a row.
    """

    about: str
    request: type[schemas.Request]
    response: type[BaseModel]
    do: str
    said: Callable[[list[dict[str, Any]]], dict[str, Any]]


QUESTIONS = {
    "predict": Question(
        "Label images: JSON with base64, or a form with image files.",
        schemas.PredictRequest,
        schemas.PredictResponse,
        "label",
        lambda rows: {
            "predictions": rows,
            "notes": list(dict.fromkeys(note for one in rows for note in one["notes"])),
        },
    ),
    "embed": Question(
        "Vectors of images: those that an adapter's head sees, or its frozen backbone's.",
        schemas.EmbedRequest,
        schemas.EmbedResponse,
        "embed",
        lambda rows: {"vectors": [one["vector"] for one in rows]},
    ),
    "look": Question(
        "Where an adapter looks: how much each patch of an image speaks for a class.",
        schemas.LookRequest,
        schemas.LookResponse,
        "look",
        lambda rows: rows[0],
    ),
    "ask": Question(
        "Put a question about an image to a language model.",
        schemas.AskRequest,
        schemas.AskResponse,
        "ask",
        lambda rows: rows[0],
    ),
}


def _answers(service: Service) -> APIRouter:
    router = APIRouter(prefix="/v1", tags=["answers"], responses=REFUSALS)
    for name, question in QUESTIONS.items():
        router.add_api_route(
            f"/{name}",
            _answering(service, question),
            methods=["POST"],
            name=name,
            description=question.about,
            response_model=question.response,
            openapi_extra=body_of(question.request),
        )
    return router


def _answering(service: Service, question: Question) -> Callable[[Request], Awaitable[Any]]:
    async def answer(request: Request) -> dict[str, Any]:
        asked, images = await read_request(request, service, question.request)
        name = service.chosen(asked.adapter)
        value = asked.model_dump(exclude={"adapter", "image", "images"})
        rows = await service.answer(name, images or [("", b"")], do=question.do, **value)
        request.scope["petiole"] = {"adapter": name, "rows": len(rows)}  # for the log
        return {"adapter": name, **question.said(rows)}

    return answer


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
        form = await read_form(request)
        given = {f"adapter.{k}": v if isinstance(v, bytes) else v.encode() for k, v in form}
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

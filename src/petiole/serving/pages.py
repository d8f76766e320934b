"""The page of a server, and the pages of finished runs: files of the package and of one folder."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, HTMLResponse, Response
from starlette.exceptions import HTTPException

from petiole.serving.reading import read_request
from petiole.serving.run_files import PAGE, file_below
from petiole.serving.schemas import REFUSALS, LookRequest
from petiole.serving.service import Service

KINDS = {".css": "text/css", ".js": "text/javascript", ".html": "text/html"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {"content-security-policy": POLICY, "cache-control": "no-cache"}


def page_router(
    service: Service, *, runs: Path | None, teaches: bool, training: bool = False
) -> APIRouter:
    """Routes of the page.

    Args:
        service: asked for the list of runs.
        runs: folder of finished runs, if they are shown.
        teaches: whether there is a folder to label.
        training: whether training images may be shown.
    """
    router = APIRouter(include_in_schema=False)
    parts = {
        file.name: file.read_bytes()
        for file in files("petiole.serving").joinpath("page").iterdir()
        if Path(file.name).suffix in KINDS
    }

    @router.get("/", response_class=HTMLResponse)
    async def index() -> Response:
        return Response(parts["index.html"], media_type="text/html", headers=HEADERS)

    @router.get("/page/{name}")
    async def part(name: str) -> Response:
        if name not in parts:
            raise HTTPException(404, "There is no such part of the page.")
        return Response(parts[name], media_type=KINDS[Path(name).suffix], headers=HEADERS)

    @router.get("/v1/page")
    async def tabs() -> dict[str, bool]:
        return {"teach": teaches, "runs": runs is not None, "training": training}

    if training:

        @router.post("/v1/nearest", responses=REFUSALS)
        async def nearest(request: Request) -> dict[str, Any]:
            """Training images of an adapter that look most alike to an image."""
            asked, images = await read_request(request, service, LookRequest)
            folder = str(service.entry(asked.adapter)[1].folder)
            told = {"do": "nearest", "folder": folder}
            return (await service.process.call(told, [images[0][1]])).value

    if runs is not None:
        root = runs.resolve()

        @router.get("/v1/runs", responses=REFUSALS)
        async def listed(name: Annotated[list[str], Query()] = []) -> dict[str, Any]:  # noqa: B006
            """All runs; or those that are named, side by side."""
            asked = {"do": "runs", "folder": str(root), "names": name}
            return (await service.process.call(asked)).value

        @router.get("/runs/{name:path}/" + PAGE)
        async def report(name: str) -> FileResponse:
            file = file_below(root, name, PAGE)
            if file is None:
                raise HTTPException(404, "There is no such run, or it has no page.")
            return FileResponse(file, media_type="text/html")

    return router

"""HTTP of the page's tab Teach."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt

from petiole.serving.process import Refused, WorkerGone, WorkerProcess
from petiole.serving.schemas import REFUSALS
from petiole.serving.service import Service
from petiole.serving.teach.process import teaching

Name = Annotated[str, Field(max_length=200)]
CACHED = {"cache-control": "private, max-age=86400"}


class LabelRequest(BaseModel):
    """Label rows, or take their labels away.

    Attributes:
        rows: numbers of images.
        label: their class, or that of each; null for none.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"rows": [0], "label": "moon"}]}
    )

    rows: list[StrictInt] = Field(min_length=1, max_length=100_000)
    label: Name | list[Name] | None


class PublishRequest(BaseModel):
    """Serve the classifier.

    Attributes:
        name: of the adapter.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"name": "taught"}]})

    name: str = Field(max_length=200)


class Lessons:
    """The process that teaches, started when it is first needed, for it reads a whole folder.

    Args:
        setup: of the process; see ``teaching``.
    """

    def __init__(self, setup: Mapping[str, Any]) -> None:
        self.process = WorkerProcess(teaching, lambda: setup)
        self._started: asyncio.Task[dict[str, Any]] | None = None

    def ready(self) -> bool:
        """Whether the folder is read; the first to ask starts it.

        Raises:
            Refused: it cannot be read; the next to ask tries again.
        """
        if self._started is None:
            self._started = asyncio.create_task(self.process.start())
        if self._started.done() and (error := self._started.exception()):
            self._started = None
            raise error
        return self.process.ready.is_set()

    async def ask(self, do: str, **value: Any) -> tuple[dict[str, Any], list[bytes]]:
        """Ask it.

        Raises:
            WorkerGone: it still reads the folder.
            Refused: it says why not.
        """
        if not self.ready():
            raise WorkerGone
        message = await self.process.call({"do": do, **value})
        return message.value, message.blobs

    async def stop(self) -> None:
        """End it."""
        if self._started:
            self._started.cancel()
            with suppress(asyncio.CancelledError, Refused, WorkerGone):
                await self._started
            await self.process.stop()


def teach_router(service: Service, lessons: Lessons) -> APIRouter:
    """Routes below /v1/teach."""
    router = APIRouter(prefix="/v1/teach", tags=["teach"], responses=REFUSALS)

    @router.get("/ready")
    async def ready() -> dict[str, bool]:
        """Whether the folder is read."""
        return {"ready": lessons.ready()}

    @router.get("/images")
    async def images() -> dict[str, Any]:
        """Names of all images, and their places on the map."""
        return (await lessons.ask("images"))[0]

    @router.get("/state")
    async def state(since: int = -1) -> dict[str, Any]:
        """What the labels say; nothing where there is nothing newer than ``since``."""
        return (await lessons.ask("state", since=since))[0]

    @router.post("/label")
    async def label(asked: LabelRequest) -> dict[str, Any]:
        """Label images; answers with the new state."""
        return (await lessons.ask("label", rows=asked.rows, label=asked.label))[0]

    @router.post("/undo")
    async def undo() -> dict[str, Any]:
        """Take the last step back; answers with the new state."""
        return (await lessons.ask("undo"))[0]

    @router.get("/curve")
    async def curve() -> dict[str, Any]:
        """Accuracy by number of labels."""
        return (await lessons.ask("curve"))[0]

    @router.get("/alike/{row}")
    async def alike(row: int) -> dict[str, Any]:
        """Images most like one."""
        return (await lessons.ask("alike", row=row))[0]

    @router.get("/thumbnails/{row}", response_class=Response)
    async def thumbnail(row: int) -> Response:
        """A small JPEG of an image."""
        _, blobs = await lessons.ask("thumbnail", row=row)
        return Response(blobs[0], media_type="image/jpeg", headers=CACHED)

    @router.get("/export/{form}", response_class=Response)
    async def export(form: Literal["csv", "label-studio", "fiftyone"]) -> Response:
        """The labels as a file."""
        value, blobs = await lessons.ask("export", form=form)
        disposition = f'attachment; filename="{value["name"]}"'
        kind = "text/csv" if form == "csv" else "application/json"
        return Response(blobs[0], media_type=kind, headers={"content-disposition": disposition})

    @router.post("/adapter")
    async def adapter(asked: PublishRequest) -> dict[str, Any]:
        """Serve the classifier under a name."""
        value, blobs = await lessons.ask("adapter")
        return await service.put(asked.name, dict(zip(value["files"], blobs, strict=True)))

    return router

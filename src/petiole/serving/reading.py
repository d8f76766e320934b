"""A request as it came, JSON with base64 or a form with files, as its model and its images."""

from __future__ import annotations

import base64
import binascii
from typing import Any, TypeVar

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from petiole.serving import schemas
from petiole.serving.gate import Turned
from petiole.serving.service import Service

R = TypeVar("R", bound=schemas.Request)
MOST_FILES, MOST_FIELDS = 1000, 100
"""Of a form that is read at all."""


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
        form = await read_form(request)
        asked = _asked_by_form(form, model)
        files = [value for _, value in form if isinstance(value, bytes)]
        images = [(f"image {i}", file) for i, file in enumerate(files)]
    most = service.limits.images if schemas.many(model) else 1
    if len(images) > most:
        raise Turned(422, "images", f"A request has at most {most} image{'s' * (most > 1)} here.")
    return asked, images


def _asked_by_form(form: list[tuple[str, str | bytes]], model: type[R]) -> R:
    fields: dict[str, Any] = {}
    for name, value in form:
        if isinstance(value, bytes):
            if name not in ("image", "images"):
                raise Turned(
                    422, "value", f"{name!r}: files are given as images, a single one as image."
                )
            fields |= {"images": ["file"]} if schemas.many(model) else {"image": "file"}
        elif name in fields:
            raise Turned(422, "value", f"{name!r} is given twice.")
        else:
            fields[name] = value
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from None


async def read_form(request: Request) -> list[tuple[str, str | bytes]]:
    """Names and values of a form, of its files their content; nothing of it stays open.

    Raises:
        Turned: it is none.
    """
    if _type(request) != "multipart/form-data":
        raise Turned(415, "type", "Send multipart/form-data or application/json.")
    try:
        async with request.form(max_files=MOST_FILES, max_fields=MOST_FIELDS) as form:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in form.multi_items()
            ]
    except HTTPException as error:
        raise Turned(400, "form", f"The form cannot be read: {error.detail}") from None


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
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"])) or "the body"
    return Turned(422, "value", f"{place}: {first['msg']}")

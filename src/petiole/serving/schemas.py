"""Requests and answers of the HTTP interface; its OpenAPI document is made of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mOIWhCFFTEMLQkANrdVAcqIbzMAAAAASUVORK5CYII="
"""An image of 8 x 8 pixels, for examples."""

MOST_TOP = 1000
Base64 = Annotated[str, Field(description="An image file, base64.", examples=[PIXEL])]
Name = Annotated[str | None, Field(description="By default the only one.", max_length=200)]
Share = Annotated[float | None, Field(gt=0, lt=1)]


class Request(BaseModel):
    """What all requests have in common; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid")

    adapter: Name = None


class ImagesRequest(Request):
    """A request about images."""

    images: list[Base64] = Field(min_length=1)


class PredictRequest(ImagesRequest):
    """Label images.

    Attributes:
        top: classes of each image that are told.
        coverage: give each image the set of labels that holds the true one so often; for calibrated adapters.
        abstain: mark images whose most probable class is less probable, or that look out of distribution; for calibrated
            adapters.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": [PIXEL], "top": 3}]},
    )

    top: int = Field(5, ge=1, le=MOST_TOP)
    coverage: Share = None
    abstain: Share = None


class EmbedRequest(ImagesRequest):
    """Vectors of images.

    Attributes:
        adapted: the vector that the adapter's head sees; else the frozen backbone's.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"images": [PIXEL], "adapted": False}]},
    )

    adapted: bool = True


class LookRequest(Request):
    """Ask where an adapter looks.

    Attributes:
        label: of the class that patches speak for; by default the most probable one.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"image": PIXEL}]})

    image: Base64
    label: str | None = Field(None, max_length=1000)


class AskRequest(Request):
    """Put a question to a language model.

    Attributes:
        question: a question, a sentence to judge, or "" for a caption.
        image: that it is about.
        task: one of the adapter's; by default its first.
    """

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image": PIXEL, "question": "What is in the picture?"}]},
    )

    question: str = Field(max_length=4000)
    image: Base64 | None = None
    task: str = Field("", max_length=200)


class ImagePrediction(BaseModel):
    """Of one image; the fields are those of ``petiole predict``."""

    label: str
    probability: float
    probabilities: dict[str, float]
    label_set: list[str]
    outside: bool | None
    abstain: bool | None


class PredictResponse(BaseModel):
    """In the order of the images."""

    adapter: str
    predictions: list[ImagePrediction]
    notes: list[str]


class EmbedResponse(BaseModel):
    """In the order of the images."""

    adapter: str
    vectors: list[list[float]]


class LookResponse(BaseModel):
    """Gradient x input, summed over each patch.

    Attributes:
        patches: rows of patches; positive ones speak for the label.
        seen: the image as the model sees it, a JPEG in base64.
    """

    adapter: str
    label: str
    patches: list[list[float]]
    seen: str


class AskResponse(BaseModel):
    """The answer."""

    adapter: str
    answer: str


class AdapterInfo(BaseModel):
    """An adapter of the server.

    Attributes:
        engine: that answers ``/v1/predict``: torch or onnx.
        engine_note: why it is not onnx.
    """

    name: str
    kind: str
    does: list[str]
    method: str
    backbone: str
    classes: list[str]
    tasks: list[str]
    calibrated: bool
    sha256: str
    engine: str
    engine_note: str
    requests: int
    idle_seconds: float | None


class AdapterList(BaseModel):
    """All adapters of the server."""

    adapters: list[AdapterInfo]


class Fault(BaseModel):
    """What is wrong, for programs and for people."""

    code: str
    message: str


class ErrorResponse(BaseModel):
    """Every answer that is not 2xx."""

    error: Fault


def many(model: type[BaseModel]) -> bool:
    """Whether a request is about several images."""
    return "images" in model.model_fields


def body_of(model: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a request body: JSON, or a form that holds image files in place of texts."""
    schema = model.model_json_schema()
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    several = {"images": {"type": "array", "items": file, "minItems": 1}}
    told = several if many(model) else {"image": file}
    form = {"type": "object", "properties": {**schema["properties"], **told}}
    form["required"] = schema.get("required", [])
    content = {"application/json": {"schema": schema}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorResponse, "description": text}
    for status, text in {
        400: "The body cannot be read",
        401: "No API key",
        403: "Asked by a page of another site",
        404: "No such adapter",
        408: "The request arrived too slowly",
        413: "The request is too large",
        415: "A content type that is not taken here",
        421: "Another host's name",
        422: "A value or an image cannot be used",
        429: "Busy; see Retry-After",
        503: "The inference process is being started; see Retry-After",
        504: "The answer took too long",
    }.items()
}

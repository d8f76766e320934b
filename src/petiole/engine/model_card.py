"""What is needed to find a frozen model again, and to know that it is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.data.preprocessing import Preprocessing
from petiole.errors import RunError
from petiole.files import read_sealed


class FrozenModel(BaseModel):
    """Base of everything that is written once."""

    model_config = ConfigDict(frozen=True, extra="forbid")


M = TypeVar("M", bound=BaseModel)


def read_kept(file: Path, kind: type[M], remedy: str) -> M:
    """Read what ``petiole.files.write_sealed`` wrote of a model.

    Args:
        file: to be read.
        kind: of model.
        remedy: sentence for the error.

    Raises:
        FileNotFoundError: there is none.
        RunError: it is damaged or of another version.
    """
    try:
        return kind.model_validate(read_sealed(file))
    except FileNotFoundError:
        raise
    except Exception as error:
        raise RunError(
            f"{file} is damaged or of another version: {reason(error)}. {remedy}"
        ) from error


def reason(error: Exception) -> str:
    """What is wrong with values that a model refuses, or with a file that ``petiole.files`` does, in one line."""
    if isinstance(error, ValidationError):
        return "; ".join(": ".join([*map(str, e["loc"]), e["msg"]]) for e in error.errors()[:4])
    return str(error)


class ModelCard(FrozenModel):
    """A frozen model: an image backbone, a language model, or one over a codebook.

    Attributes:
        name: as it was loaded.
        fingerprint: SHA-256 of its weights.
        weights: file of the weights, where it was named.
        image_size: pixels, where they were chosen.
        quantize: how its linear layers are stored, where not as floats.
        preprocessing: of an image backbone.
        vision_width: of the visual features that a language model reads; 0 for none.
        options: of its V->L block.
        visual_tokens: features of an image after pooling.
        vision_backbone: makes those features; ``None`` where they were given.
    """

    name: str
    fingerprint: str
    weights: str | None = None
    image_size: int | None = None
    quantize: str | None = None
    preprocessing: Preprocessing | None = None
    vision_width: int = 0
    options: dict[str, Any] = Field(default_factory=dict)
    visual_tokens: int = 36
    vision_backbone: ModelCard | None = None

    @classmethod
    def of(cls, model: FrozenNetwork, **facts: Any) -> ModelCard:
        """The card of a loaded model; ``facts`` are further fields."""
        if isinstance(model, Backbone):
            facts = {"preprocessing": model.preprocessing, **facts}
        return cls(
            name=model.name, fingerprint=model.fingerprint, quantize=model.quantized, **facts
        )

    def content(self) -> dict[str, Any]:
        """What decides a result: the fingerprint stands for name and place."""
        value = self.model_dump(
            mode="json", exclude={"name", "weights", "quantize", "vision_backbone"}
        )
        vision = self.vision_backbone.content() if self.vision_backbone else None
        return {**value, "vision_backbone": vision}

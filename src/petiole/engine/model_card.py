"""What is needed to find a frozen model again, and to know that it is the same."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from petiole.backbones.base import Backbone, FrozenNetwork
from petiole.data.preprocessing import Preprocessing


class FrozenModel(BaseModel):
    """Base of everything that is written once."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelCard(FrozenModel):
    """A frozen model: an image backbone, a language model, or one over a codebook.

    Attributes:
        name: as it was loaded.
        fingerprint: SHA-256 of its weights.
        weights: file of the weights, where it was named.
        image_size: pixels, where they were chosen.
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
        return cls(name=model.name, fingerprint=model.fingerprint, **facts)

    def content(self) -> dict[str, Any]:
        """What decides a result: the fingerprint stands for name and place."""
        value = self.model_dump(mode="json", exclude={"name", "weights", "vision_backbone"})
        vision = self.vision_backbone.content() if self.vision_backbone else None
        return {**value, "vision_backbone": vision}

"""Features that another program extracted, pooled or resized, kept on disk and in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from petiole.backbones.base import State
from petiole.data.features.base import FeatureSource
from petiole.data.features.pooled import Pooled, Resized, resized_frames
from petiole.engine.feature_extractor import DTYPES
from petiole.engine.feature_filling import fill
from petiole.engine.feature_store import FeatureCache, Key
from petiole.errors import ConfigError
from petiole.tasks.text.visual_base import VisualFeatures, VisualMemory

ROLES = ("tokens", "boxes", "length")
"""What is stored of an image: (N, D), (N, 4) or (N, 0) without boxes, and the rows that are no padding."""


class StoredVisuals:
    """A source of features as a language model sees it.

    Pictures have ``visual_tokens`` tokens: grids are pooled to them, regions with boxes must have that many. Videos
    have ``rows``: longer ones are pooled in time, shorter ones filled up with zero rows that ``padding`` marks.
    What is seen is rounded to ``dtype``, with and without a cache.

    Args:
        source: of features by name.
        visual_tokens: tokens of a picture.
        rows: tokens of a video; exactly one of both is given.
        cache: folder of the feature cache, where the result is stored once; ``None`` shapes it anew whenever it
            is no longer in memory. Worth it for sources that are slow at random places.
        dtype: of the tokens as stored; float16 is enough for features that come in it.
        memory: bytes kept in memory.

    Raises:
        ConfigError: not exactly one of ``visual_tokens`` and ``rows``, or an impossible number.
    """

    def __init__(
        self,
        source: FeatureSource,
        *,
        visual_tokens: int | None = None,
        rows: int | None = None,
        cache: Path | None = None,
        dtype: str = "float32",
        memory: int = 2**30,
    ) -> None:
        if (visual_tokens is None) == (rows is None):
            raise ConfigError(
                "Features are of pictures (visual_tokens=36) or of videos (rows=64). Give one of both."
            )
        self.source, self.rows, self.dtype = source, rows, dtype
        self._pooled = Pooled(source, visual_tokens) if visual_tokens is not None else None
        shape = self._pooled or Resized(source, rows or 0)
        self.key = Key(shape.digest, "", ROLES, dtype)
        self.cache = FeatureCache(cache) if cache else None
        self._memory = VisualMemory(memory)

    @property
    def width(self) -> int:
        """D."""
        return self.source.width

    @property
    def digest(self) -> str:
        """Of the source, the number of tokens and the dtype."""
        return self.key.digest

    def prepare(self, names: Sequence[str], *, quiet: bool = False) -> None:
        """Store what the cache lacks of these images, in the order that suits the source.

        Raises:
            DataError: an image is missing in the source or cannot be used.
        """
        if self.cache is None:
            return
        place = {name: i for i, name in enumerate(getattr(self.source, "names", ()))}
        ordered = sorted(names, key=lambda name: place.get(name, len(place)))
        read, label = self._states, "pooling features"
        fill(self.cache, self.key, ordered, read, lambda state: state, label=label, quiet=quiet)

    def __call__(self, name: str) -> VisualFeatures:
        return self._memory(name, self._features)

    def _features(self, name: str) -> VisualFeatures:
        if self.cache is None:
            state = self._state(name)
        else:
            if self.cache.missing(self.key, [name]):
                self.prepare([name], quiet=True)
            state = self.cache.read(self.key, [name])[name]
        tokens, boxes = state["tokens"].float(), state["boxes"]
        count = len(tokens)
        return VisualFeatures(
            tokens,
            count,
            padding=torch.arange(count) >= state["length"] if self.rows else None,
            boxes=boxes if boxes.shape[1] else None,
        )

    def _state(self, name: str) -> dict[str, Tensor]:
        if self._pooled:
            visual = self._pooled(name)
            tokens, boxes, length = visual.tokens, visual.boxes, len(visual.tokens)
        else:
            assert self.rows is not None
            frames = self.source(name).tokens
            tokens, boxes = resized_frames(frames, self.rows), None
            length = min(len(frames), self.rows)
        return {
            "tokens": torch.from_numpy(tokens).to(DTYPES[self.dtype]),
            "boxes": torch.zeros(len(tokens), 0) if boxes is None else torch.from_numpy(boxes),
            "length": torch.tensor(length),
        }

    def _states(self, names: Sequence[str]) -> State:
        rows = [self._state(name) for name in names]
        return {role: torch.stack([row[role] for row in rows]) for role in ROLES}

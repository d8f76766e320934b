"""What a language model is shown of one image, whoever makes it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class VisualFeatures(NamedTuple):
    """One image (or video).

    Attributes:
        tokens: (N, D) features, fp32; or the preprocessed picture (1, 3, H, W), for a vision encoder that is trained too.
        visual_tokens: N.
        padding: (N,) bool, rows that only fill up a short video.
        boxes: (N, 4) x1, y1, x2, y2 in 0..1.
    """

    tokens: Tensor
    visual_tokens: int
    padding: Tensor | None = None
    boxes: Tensor | None = None


class VisualSource(Protocol):
    """Images by name."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that decides what is seen of an image file or a stored feature."""

    def __call__(self, name: str) -> VisualFeatures:
        """What is seen of one image.

        Raises:
            DataError: it is missing or cannot be used.
        """


class InMemoryVisuals:
    """Features in memory, by name; for tests, and for what is small enough.

    Args:
        tokens: name -> (N, D).
        digest: of them.
    """

    def __init__(self, tokens: dict[str, Tensor], digest: str = "") -> None:
        self.tokens, self.digest = tokens, digest
        self.width = next(iter(tokens.values())).shape[-1]

    def __call__(self, name: str) -> VisualFeatures:
        tokens = self.tokens[name]
        return VisualFeatures(tokens.to(torch.float32), len(tokens))


class VisualMemory:
    """Keeps what was asked for last, up to a number of bytes.

    Args:
        limit: bytes of tokens; 0 keeps nothing.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.bytes = limit, 0
        self._kept: OrderedDict[str, VisualFeatures] = OrderedDict()

    def __call__(self, name: str, look: Callable[[str], VisualFeatures]) -> VisualFeatures:
        """What is kept under the name; if nothing is, what ``look`` gives."""
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name]
        seen = look(name)
        self._kept[name] = seen
        self.bytes += seen.tokens.nbytes
        while self.bytes > self.limit:
            _, oldest = self._kept.popitem(last=False)
            self.bytes -= oldest.tokens.nbytes
        return seen

"""What a language model is shown of an image: stored features, features of a backbone, or the picture itself."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Seen(NamedTuple):
    """One image (or video).

    Attributes:
        tokens: (N, D) features, fp32; or the preprocessed picture (1, 3, H, W), for eyes that are trained too.
        places: N.
        padding: (N,) bool, rows that only fill up a short video.
        boxes: (N, 4) x1, y1, x2, y2 in 0..1.
    """

    tokens: Tensor
    places: int
    padding: Tensor | None = None
    boxes: Tensor | None = None


class Sight(Protocol):
    """Images by name.

    Attributes:
        width: D.
        digest: of everything that decides what is seen.
    """

    width: int
    digest: str

    def __call__(self, name: str) -> Seen: ...


class Remembered:
    """Features in memory, by name; for tests, and for what is small enough.

    Args:
        tokens: name -> (N, D).
        digest: of them.
    """

    def __init__(self, tokens: dict[str, Tensor], digest: str = "") -> None:
        self.tokens, self.digest = tokens, digest
        self.width = next(iter(tokens.values())).shape[-1]

    def __call__(self, name: str) -> Seen:
        tokens = self.tokens[name]
        return Seen(tokens.to(torch.float32), len(tokens))

"""Fewer visual tokens, by maximum: a square grid to a smaller one, frames to a fixed number.

Output i of t from s inputs is the maximum over the window

    [floor(i s / t), ceil((i + 1) s / t))

on each axis. For 7 -> 6 these are 2 x 2 windows with stride 1, as VL-Adapter pools CLIP's grid (Sung et
al., CVPR 2022). There is no parameter, so the result can be cached.
"""

from __future__ import annotations

import hashlib
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_max_pool1d, adaptive_max_pool2d

from petiole.data.features.base import FeatureSource, RawFeatures
from petiole.errors import ConfigError, DataError


class _Fixed:
    """A source that is brought to ``to`` tokens, by a way of that name."""

    way: str

    def __init__(self, source: FeatureSource, to: int) -> None:
        self.source, self.to = source, to

    @property
    def width(self) -> int:
        return self.source.width

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"{self.way} {self.to}|{self.source.digest}".encode()).hexdigest()


class Pooled(_Fixed):
    """A source whose square grids are pooled to ``to`` tokens.

    Args:
        source: of grids of any size down to ``to``; regions must have ``to`` tokens already.
        to: tokens, a square number.

    Raises:
        ConfigError: ``to`` is no square number above 0.
    """

    way = "max pool"

    def __init__(self, source: FeatureSource, to: int = 36) -> None:
        if to < 1 or isqrt(to) ** 2 != to:
            raise ConfigError(f"A grid cannot have {to} tokens. Use a square number: 25, 36, 49.")
        super().__init__(source, to)

    def __call__(self, name: str) -> RawFeatures:
        visual = self.source(name)
        n = len(visual.tokens)
        if n == self.to:
            return visual
        if visual.boxes is not None:
            raise DataError(
                f"Image {name!r} has {n} regions, and regions have no grid to pool. Use a source with "
                f"{self.to} of them, or ask for {n} tokens."
            )
        if isqrt(n) ** 2 != n or n < self.to:
            raise DataError(
                f"Image {name!r} has {n} tokens, which cannot be pooled to {self.to}: a square grid "
                "at least as large is needed."
            )
        return RawFeatures(pooled_grid(visual.tokens, self.to))


class Resized(_Fixed):
    """A source whose frames are brought to ``to`` tokens: zeros appended, or pooled in time.

    The zeros are tokens like others, as in the reference: nothing masks them.

    Args:
        source: of frames.
        to: tokens.

    Raises:
        ConfigError: ``to`` below 1.
    """

    way = "resize"

    def __init__(self, source: FeatureSource, to: int = 64) -> None:
        if to < 1:
            raise ConfigError(f"A video cannot have {to} tokens. Use 1 or more.")
        super().__init__(source, to)

    def __call__(self, name: str) -> RawFeatures:
        return RawFeatures(resized_frames(self.source(name).tokens, self.to))


def pooled_grid(tokens: NDArray[np.float32], to: int) -> NDArray[np.float32]:
    """Pool a square grid: (s s, D) -> (to, D), both row by row."""
    s, t = isqrt(len(tokens)), isqrt(to)
    grid = torch.from_numpy(np.ascontiguousarray(tokens)).T.reshape(-1, s, s)
    pooled: NDArray[np.float32] = adaptive_max_pool2d(grid, (t, t)).reshape(-1, to).T.numpy()
    return np.ascontiguousarray(pooled)


def resized_frames(tokens: NDArray[np.float32], to: int) -> NDArray[np.float32]:
    """Append zero rows, or pool in time: (L, D) -> (to, D)."""
    if len(tokens) <= to:
        return np.pad(tokens, ((0, to - len(tokens)), (0, 0)))
    frames = torch.from_numpy(np.ascontiguousarray(tokens)).T
    pooled: NDArray[np.float32] = adaptive_max_pool1d(frames, to).T.numpy()
    return np.ascontiguousarray(pooled)

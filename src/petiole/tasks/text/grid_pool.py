"""Local tokens on a square grid -> fewer on a smaller one."""

from __future__ import annotations

from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError


class GridPool(nn.Module):
    """Adaptive max pooling of a grid a x a to b x b (as VL-Adapter pools CLIP's 7 x 7 to 6 x 6; Sung et al., 2022), without parameters.

        y[i, j] = max of x[u, v] over  floor(i a / b) <= u < ceil((i + 1) a / b),  v likewise with j

    From 7 x 7 to 6 x 6 these are windows of 2 x 2 at stride 1. As many places as there are tokens is the
    identity, on any grid.

    Args:
        places: b^2.

    Shapes: (B, a^2, D), in row order -> (B, b^2, D).
    """

    def __init__(self, places: int) -> None:
        super().__init__()
        self.places = places

    def check(self, tokens: int, whose: str) -> None:
        """Raise ConfigError unless a grid of so many tokens can be pooled to these places."""
        if self.places == tokens:
            return
        a, b = isqrt(tokens), isqrt(max(self.places, 0))
        if a * a != tokens:
            raise ConfigError(
                f"{whose} gives {tokens} local tokens, which are no square grid and cannot be pooled to "
                f"{self.places}. Use places={tokens}."
            )
        if not 0 < b <= a or b * b != self.places:
            squares = ", ".join(str(i * i) for i in range(1, a + 1))
            raise ConfigError(
                f"{whose} gives {a} x {a} local tokens, which cannot be pooled to {self.places}. Use places="
                f"one of {squares}, or a larger image_size."
            )

    def forward(self, tokens: Tensor) -> Tensor:
        rows, count, width = tokens.shape
        if count == self.places:
            return tokens
        a, b = isqrt(count), isqrt(self.places)
        grid = tokens.transpose(1, 2).reshape(rows, width, a, a)
        return adaptive_max_pool2d(grid, (b, b)).flatten(2).transpose(1, 2)


@torch.no_grad()
def local_tokens(backbone: Backbone) -> int:
    """Number of local tokens N of an image, counted on an empty one."""
    image = torch.zeros(1, 3, *backbone.preprocessing.size, device=backbone.device)
    return backbone.lower(image, (backbone.patches,))[backbone.patches].shape[1]

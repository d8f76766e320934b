"""Local tokens on a square grid -> fewer on a smaller one."""

from __future__ import annotations

from math import isqrt

from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d

from petiole.errors import ConfigError


class GridPool(nn.Module):
    """Adaptive max pooling of a grid a x a to b x b (as VL-Adapter pools CLIP's 7 x 7 to 6 x 6; Sung et al., 2022), without parameters.

        y[i, j] = max of x[u, v] over  floor(i a / b) <= u < ceil((i + 1) a / b),  v likewise with j

    From 7 x 7 to 6 x 6 these are windows of 2 x 2 at stride 1. As many visual_tokens as there are tokens is the
    identity, on any grid.

    Args:
        visual_tokens: b^2.

    Shapes: (B, a^2, D), in row order -> (B, b^2, D).
    """

    def __init__(self, visual_tokens: int) -> None:
        super().__init__()
        self.visual_tokens = visual_tokens

    def check(self, tokens: int, whose: str) -> None:
        """Raise ConfigError unless a grid of so many tokens can be pooled to these visual_tokens."""
        if self.visual_tokens == tokens:
            return
        a, b = isqrt(tokens), isqrt(abs(self.visual_tokens))
        if a * a != tokens:
            raise ConfigError(
                f"{whose} gives {tokens} local tokens, which are no square grid and cannot be pooled to "
                f"{self.visual_tokens}. Use visual_tokens={tokens}."
            )
        if not 0 < b <= a or b * b != self.visual_tokens:
            squares = ", ".join(str(i * i) for i in range(1, a + 1))
            raise ConfigError(
                f"{whose} gives {a} x {a} local tokens, which cannot be pooled to {self.visual_tokens}. Use visual_tokens="
                f"one of {squares}, or a larger image_size."
            )

    def forward(self, tokens: Tensor) -> Tensor:
        rows, count, width = tokens.shape
        if count == self.visual_tokens:
            return tokens
        a, b = isqrt(count), isqrt(self.visual_tokens)
        grid = tokens.transpose(1, 2).reshape(rows, width, a, a)
        return adaptive_max_pool2d(grid, (b, b)).flatten(2).transpose(1, 2)

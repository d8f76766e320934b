"""Scale and shift of every channel, as what is added: y = x + F(x) = (1 + s) x + b."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petiole.layers.checks import positive


class Affine(nn.Module):
    """F(x) = s * x + b, with s, b ~ N(0, std^2); ``std`` 0 starts at exactly 0.

    Shapes: (..., d) -> (..., d). Parameters: 2 d.
    """

    def __init__(self, width: int, std: float = 0.0) -> None:
        super().__init__()
        positive(width=width)
        self.scale = nn.Parameter(std * torch.randn(width))
        self.shift = nn.Parameter(std * torch.randn(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x + self.shift

    def merged(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Fold into what produces x: W (d, in), or the (d,) weight of a norm, and b (d,)."""
        gain = 1 + self.scale
        return gain.view(-1, *[1] * (weight.ndim - 1)) * weight, gain * bias + self.shift

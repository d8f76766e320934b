"""Channels brought to one scale before a linear head, so that one learning rate suits all of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from petiole.layers.checks import positive


class Standardise(nn.Module):
    """(x - mean) / std of every channel, of values that were seen once; the identity until then.

    A channel that does not vary is only shifted. No parameters; 2 d stored numbers.

    Args:
        width: d.

    Shapes: (..., d) -> (..., d).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        positive(width=width)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    @torch.no_grad()
    def see(self, values: Tensor) -> None:
        """Take mean and standard deviation of these (n, d)."""
        std = values.std(0, correction=0)
        self.mean.copy_(values.mean(0))
        self.std.copy_(torch.where(std > 0, std, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

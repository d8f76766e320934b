"""Low-rank linear residual (Hu et al., 2022), without the frozen weight it is added to.

F(x) = (a / r) * B A x,   A in R^{r x in} Kaiming-uniform(sqrt 5),  B in R^{out x r} = 0
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from petiole.layers.checks import positive


class LowRank(nn.Module):
    """F(x) = scale * B A x, exactly zero at the start, linear, rank at most ``rank``.

    Args:
        width: size of the last axis of the input.
        rank: r.
        scale: a / r as one number.
        out: size of the last axis of the output; ``width`` if not given.
        dropout: on the input, in training.

    Shapes: (..., width) -> (..., out).
    """

    halves: ClassVar[dict[str, tuple[str, ...]]] = {"down": ("a",), "up": ("b",)}

    def __init__(
        self,
        width: int,
        rank: int,
        *,
        scale: float = 1.0,
        out: int | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        positive(width=width, rank=rank)
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.a = nn.Parameter(torch.empty(rank, width))
        self.b = nn.Parameter(torch.zeros(out or width, rank))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        # Scaled where it is narrow.
        return linear(self.scale * linear(self.dropout(x), self.a), self.b)

    def merged(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Fold into the linear map W (out, in), b that reads the same x."""
        return weight + self.scale * self.b @ self.a, bias

"""DoRA (Liu et al., 2024): the low-rank update turns the weight, a trained vector sets its length.

    W' = m * V / |V|,   V = W + s B A,   |.| the norm of each row (of the weights of one output)

As what is added to W x:  (g - 1) W x + g s B A x,  g = m / |V|,  with no gradient through |V|
(their section 4.3). m = |W| and B = 0 at the start, so g is exactly 1 and the branch exactly 0.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn
from torch.nn.functional import linear

from petiole.layers.lowrank import LowRank
from petiole.layers.packed import dense


class DoRA(LowRank):
    """F(x) = W' x - W x.

    Args:
        weight: W (out, width), frozen; kept by reference, neither saved nor counted.
        rank: r.
        scale: s.
        dropout: on the input of A, in training.

    Shapes: (..., width) -> (..., out). Parameters: r (width + out) + out.
    """

    halves: ClassVar[dict[str, tuple[str, ...]]] = {"down": ("a",), "up": ("b", "magnitude")}

    def __init__(
        self, weight: Tensor, rank: int, *, scale: float = 1.0, dropout: float = 0.0
    ) -> None:
        out, width = weight.shape
        super().__init__(width, rank, scale=scale, out=out, dropout=dropout)
        self._weight = (weight.detach(),)
        self.magnitude = nn.Parameter(self.weight.norm(dim=1))

    @property
    def weight(self) -> Tensor:
        """W as floats."""
        return dense(self._weight[0])

    @property
    def gain(self) -> Tensor:
        """g (out,)."""
        turned = self.weight + self.scale * self.b @ self.a
        length: Tensor = turned.norm(dim=1).detach()
        return self.magnitude / length

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain
        return (gain - 1) * linear(x, self._weight[0]) + gain * super().forward(x)

    def merged(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Fold into the linear map that reads the same x: its weight, W or W tuned, changes by W' - W."""
        update = self.scale * self.b @ self.a
        return weight + (self.gain[:, None] * (self.weight + update) - self.weight), bias

"""Bottleneck adapter (Houlsby et al., 2019), the branch only: its residual is the caller's.

F(h) = s * (W_up act(W_down h + b_down) + b_up),   W_up = 0, b_up = 0 at the start
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from petiole.layers.checks import positive

Activation = Literal["gelu", "relu"]
_ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU}


class Bottleneck(nn.Module):
    """F(h) = scale * up(act(down(h))), exactly zero at the start.

    Down is Xavier-uniform with zero bias; up is zero. (Both zero would be dead: every weight
    gradient would stay 0.)

    Args:
        width: d.
        size: m, the bottleneck.
        scale: s, fixed.
        activation: ``gelu`` (exact) or ``relu``.
        dropout: between activation and up, in training.

    Shapes: (..., d) -> (..., d). Parameters: 2 d m + m + d.
    """

    def __init__(
        self,
        width: int,
        size: int,
        *,
        scale: float = 1.0,
        activation: Activation = "gelu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        positive(width=width, bottleneck=size)
        self.scale = scale
        self.down = nn.Linear(width, size)
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.up = nn.Linear(size, width)
        nn.init.xavier_uniform_(self.down.weight)
        for zero in (self.down.bias, self.up.weight, self.up.bias):
            nn.init.zeros_(zero)

    def forward(self, h: Tensor) -> Tensor:
        up: Tensor = self.up(self.dropout(self.activation(self.down(h))))
        return self.scale * up

"""Bottleneck adapter (Houlsby et al., 2019), the branch only: its residual is the caller's.

F(h) = s * (W_up act(W_down h + b_down) + b_up)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from petiole.layers.checks import positive
from petiole.layers.initial import initialise

Activation = Literal["gelu", "gelu_tanh", "relu"]
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
    "relu": nn.ReLU,
}


class Bottleneck(nn.Module):
    """F(h) = scale * up(act(down(norm(h)))).

    Whatever the activation does, F(h) lies in b_up + rowspace(W_up): its rank over many h is at most
    m, and so is that of its Jacobian.

    Args:
        width: d.
        size: m, the bottleneck.
        scale: s, fixed; or at the start, if ``learn_scale``.
        learn_scale: s is a trained vector, one number a channel (Adapter+).
        activation: ``gelu`` (exact), ``gelu_tanh`` or ``relu``.
        init: see ``layers.initial``; ``zero`` starts at exactly 0.
        norm: a new LayerNorm on the input.
        dropout: between activation and up, in training.
        drop_path: chance, in training, that a sample goes without the branch.
        projection: makes a started projection (in, out); linear ones that start by ``init`` if not given.

    Shapes: (..., d) -> (..., d). Parameters: 2 d m + m + d, and d for a learned scale, 2 d for a norm.

    Raises:
        ConfigError: a size below 1, an unknown init, or one that can never learn.
    """

    halves: ClassVar[dict[str, tuple[str, ...]]] = {"down": ("down",), "up": ("up",)}

    def __init__(
        self,
        width: int,
        size: int,
        *,
        scale: float = 1.0,
        learn_scale: bool = False,
        activation: Activation = "gelu",
        init: str = "zero",
        norm: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        projection: Callable[[int, int], nn.Module] | None = None,
    ) -> None:

        super().__init__()
        positive(width=width, bottleneck=size)
        self.scale = nn.Parameter(torch.full((width,), scale)) if learn_scale else scale
        self.norm = nn.LayerNorm(width, eps=1e-6) if norm else nn.Identity()
        self.down = (projection or nn.Linear)(width, size)
        self.activation = _ACTIVATIONS[activation]()
        self.dropout = nn.Dropout(dropout)
        self.up = (projection or nn.Linear)(size, width)
        self.drop_path = _drop_path(drop_path)
        if projection is None:
            initialise(init, self.down, self.up)

    def forward(self, h: Tensor) -> Tensor:
        hidden = self.activation(self.down(self.norm(h)))
        branch: Tensor = self.drop_path(self.up(self.dropout(hidden)))
        return self.scale * branch


def _drop_path(chance: float) -> nn.Module:
    """Stochastic depth by sample; timm is a slow import, so only where a branch is dropped at all."""
    if not chance:
        return nn.Identity()
    from timm.layers import DropPath

    made: nn.Module = DropPath(chance)
    return made

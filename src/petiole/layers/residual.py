"""Post-hoc correction of one feature vector: h' = norm(h + sum of branches(h))."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

PostNorm = Literal["ln", "ln_frozen", "none"]


class Residual(nn.Module):
    """h' = norm(h + sum_j F_j(h)).

    With ``ln`` zero-initialised branches do *not* make an identity: h' = LN(h) removes the mean
    and rescales. ``none`` does.

    Args:
        width: d.
        branches: modules (B, d) -> (B, d), all reading the same h.
        norm: ``ln`` (trainable affine, eps 1e-6), ``ln_frozen`` (no affine) or ``none``.
    """

    def __init__(self, width: int, branches: Sequence[nn.Module], norm: PostNorm = "ln") -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.norm: nn.Module = (
            nn.Identity()
            if norm == "none"
            else nn.LayerNorm(width, eps=1e-6, elementwise_affine=norm == "ln")
        )

    def forward(self, h: Tensor) -> Tensor:
        total = h
        for branch in self.branches:
            total = total + branch(h)
        out: Tensor = self.norm(total)
        return out

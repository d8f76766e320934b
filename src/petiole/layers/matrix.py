"""Class vectors that are simply there: a folded head of class names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize


class ClassMatrix(nn.Module):
    """z_c = s unit(v) . m_c with fixed m (C, d), of any norm, and s.

    Args:
        width: d.
        classes: C.
    """

    matrix: Tensor
    scale: Tensor

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.zeros(classes, width))
        self.register_buffer("scale", torch.tensor(1.0))

    def forward(self, vector: Tensor) -> Tensor:
        return self.scale * normalize(vector, dim=-1) @ self.matrix.to(vector.dtype).T

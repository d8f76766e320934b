"""Learned tokens beside those of the image, and their removal."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from petiole.layers.checks import positive


class PromptTokens(nn.Module):
    """Append p learned tokens: (B, N, d) -> (B, N + p, d).

    Attention treats tokens as a set once positions are added, so behind the image's tokens they do
    the same as behind the class token, where VPT puts them. They start uniform in +-sqrt(3 / d)
    (Xavier with both fans d; VPT counts the pixels of a patch for one fan).

    Args:
        count: p.
        width: d.
        dropout: on the prompts, in training.
    """

    def __init__(self, count: int, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        positive(count=count, width=width)
        bound = math.sqrt(3 / width)
        self.tokens = nn.Parameter(torch.empty(count, width).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.dropout(self.tokens).to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([x, tokens], dim=1)


class DropLast(nn.Module):
    """Take the last p tokens off again: (B, N + p, d) -> (B, N, d). No parameters."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x[:, : -self.count]

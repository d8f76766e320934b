"""From the final roles of a backbone to one vector an image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from petiole.errors import ConfigError
from petiole.layers.checks import positive


class First(nn.Module):
    """The vector as the backbone gives it: (B, d) -> (B, d)."""

    def forward(self, vector: Tensor) -> Tensor:
        return vector


class Mean(nn.Module):
    """Mean over tokens: (B, N, d) -> (B, d)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.mean(dim=1)


class Concat(nn.Module):
    """[vector ; mean of tokens]: (B, d), (B, N, e) -> (B, d + e)."""

    def forward(self, vector: Tensor, tokens: Tensor) -> Tensor:
        return torch.cat([vector, tokens.mean(dim=1)], dim=-1)


class AttentionPool(nn.Module):
    """A learned query attends to the tokens.

        z = W_o softmax(q K^T / sqrt(d_h)) V,   K = W_k X + b_k,  V = W_v X + b_v

    Args:
        width: d of the tokens.
        heads: must divide d.

    Shapes: (B, N, d) -> (B, d). Parameters: d + 3 (d^2 + d), i.e. 443,904 at d = 384.
    """

    def __init__(self, width: int, heads: int = 6) -> None:
        super().__init__()
        positive(heads=heads)
        if width % heads:
            raise ConfigError(
                f"{heads} attention heads do not divide a width of {width}. "
                f"Use one of {', '.join(str(h) for h in range(1, 17) if not width % h)}."
            )
        self.heads = heads
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(3))

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, d = tokens.shape
        split = (b, n, self.heads, d // self.heads)
        k, v = (f(tokens).view(split).transpose(1, 2) for f in (self.key, self.value))
        q = self.query.view(1, self.heads, 1, -1).expand(b, -1, -1, -1).to(k.dtype)
        mixed = scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(mixed.reshape(b, d))
        return out

"""TextRefiner's alignment of local image tokens with texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TokenAlignment(nn.Module):
    """g(x) = W_2 ReLU( BatchNorm( W_1 x + b_1 ) ) + b_2 on every token, (B, N, d) -> (B, N, d_out).

    The batch norm runs over all B N tokens (the authors' two 1 x 1 convolutions). Used in training only.
    Parameters: d d_out + d_out + 2 d_out + d_out^2 + d_out.
    """

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(width, out), nn.BatchNorm1d(out)
        self.second = nn.Linear(out, out)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.norm(self.first(x).flatten(0, 1)).relu()
        out: Tensor = self.second(hidden)
        return out.reshape(*x.shape[:2], -1)


def salient(tokens: Tensor, attention: Tensor, k: int, *, mean: bool) -> Tensor:
    """S: the class token, the k patches it attends to most, and (``mean``) the mean of all tokens.

    Args:
        tokens: (B, 1 + P, d), the class token first.
        attention: (B, P).
        k: at most P are taken.
        mean: whether the mean token is one of them.

    Returns:
        (B, k + 1 or k + 2, d).
    """
    first = tokens[:, :1]
    top = attention.topk(min(k, attention.shape[1]), dim=1).indices + 1
    patches = tokens.gather(1, top[..., None].expand(-1, -1, tokens.shape[-1]))
    rest = [tokens.mean(dim=1, keepdim=True)] if mean else []
    return torch.cat([first, patches, *rest], dim=1)

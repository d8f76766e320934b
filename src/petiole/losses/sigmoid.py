"""The sigmoid contrastive loss of images and texts (SigLIP, Zhai et al., 2023), as CRAFT uses it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize


def sigmoid_contrastive(
    images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor, same: Tensor
) -> Tensor:
    """L_con = -1/B sum_i sum_j log sigma( y_ij (e^t' <u_i, v_j> + b) ),  y_ij = 1 if i = j else -1.

    Pairs i != j that mean the same are left out: they would be false negatives (CRAFT, arXiv 2602.19449).

    Args:
        images: (B, e); u_i is row i at length 1.
        texts: (B, e); v_j likewise.
        scale, bias: t' and b.
        same: (B, B) bool, true where i and j mean the same.
    """
    u, v = normalize(images.float(), dim=-1), normalize(texts.float(), dim=-1)
    logits = scale.float().exp() * u @ v.T + bias.float()
    pairs = torch.eye(len(u), dtype=torch.bool, device=u.device)
    each = logsigmoid(torch.where(pairs, logits, -logits))
    return -(each * (pairs | ~same)).sum() / len(u)

"""Ridge regression on two domains, each with a bias of its own: a start for heads that are then trained."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot


def domain_ridge(
    x: Tensor,
    y: Tensor,
    is_target: Tensor,
    classes: int,
    *,
    source_weight: float = 0.03,
    penalty: float = 0.1,
) -> tuple[Tensor, Tensor]:
    """Least squares on one-hot labels, centred within each domain.

        min_W  sum_target |W (x - x_t) / s - (t - t_t)|^2
               + rho sum_source w |W (x - x_s) / s - (t - t_s)|^2 + gamma d |W|^2

    x_t, x_s, t_t, t_s are the domains' means of features and labels; w gives every class of the source the same
    total weight, sum w = n_s; s^2 is the mean square of the centred features (of the source, if there is one).

    Args:
        x: features (n, d).
        y: labels (n,).
        is_target: (n,). Without target images the source counts as the target.
        classes: K.
        source_weight: rho.
        penalty: gamma.

    Returns:
        W / s (K, d) and the target's bias (K,), so that scores are  W x / s + b.
    """
    target = is_target if bool(is_target.any()) else ~is_target
    x, t = x.double(), one_hot(y, classes).double()
    near, goal, centre, middle = _centred(x[target], t[target], x.new_ones(int(target.sum())))
    parts = [(near, goal, near.new_ones(len(near)))]
    spread = near
    if not bool(target.all()):
        count = t[~target].sum(0)
        balanced = (t[~target] / count.clamp(min=1)).sum(1) * (~target).sum() / (count > 0).sum()
        far, wanted, _, _ = _centred(x[~target], t[~target], balanced)
        parts.append((far, wanted, source_weight * balanced))
        spread = far * balanced.sqrt()[:, None]
    scale = spread.square().mean().sqrt().clamp(min=1e-12)
    d = x.shape[1]
    gram = penalty * d * torch.eye(d, dtype=x.dtype, device=x.device)
    right = x.new_zeros(d, classes)
    for features, labels, weights in parts:
        weighted = (features / scale).T * weights
        gram += weighted @ features / scale
        right += weighted @ labels
    weight = torch.linalg.solve(gram, right).T / scale
    return weight.float(), (middle - weight @ centre).float()


def _centred(x: Tensor, t: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels without their weighted means, and the means."""
    share = w / w.sum()
    centre, middle = share @ x, share @ t
    return x - centre, t - middle, centre, middle

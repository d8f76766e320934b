"""Classifier heads trained by gradient: linear and cosine."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from petiole.errors import ConfigError
from petiole.layers.checks import positive


class LinearHead(nn.Linear):
    """z = W h + b, starting at W ~ N(0, 0.01^2), b = 0. Parameters: K d + K."""

    def __init__(self, width: int, classes: int) -> None:
        positive(width=width, classes=classes)
        super().__init__(width, classes)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)


class CosineHead(nn.Module):
    """z_k = tau * <h / |h|, w_k / |w_k|>  (Gidaris & Komodakis, 2018).

    W ~ N(0, 2/d), no bias; tau = exp(theta) is one learned scalar, used clamped to [1, 100]. AdamW moves theta by about
    lr a step, so tau by lr tau: without the exponential it would hardly leave its start.

    Args:
        width: d.
        classes: K.
        scale: tau at the start.
        learn_scale: keep tau fixed if false.
        scale_lr: factor on the learning rate of theta.

    Shapes: (B, d) -> (B, K). Parameters: K d, plus 1 if tau is learned.

    Raises:
        ConfigError: a size below 1, or tau outside its range, where it would never learn.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        *,
        scale: float = 10.0,
        learn_scale: bool = True,
        scale_lr: float = 1.0,
    ) -> None:
        super().__init__()
        positive(width=width, classes=classes)
        if not 1 <= scale <= 100:
            raise ConfigError(f"tau must lie in [1, 100], where it is clamped, but is {scale}.")
        self.weight = nn.Parameter(torch.randn(classes, width) * math.sqrt(2 / width))
        value = torch.tensor(math.log(scale))
        if learn_scale:
            self.log_scale = nn.Parameter(value)
        else:
            self.register_buffer("log_scale", value)
        self.lr_factors = {"log_scale": scale_lr}

    def forward(self, h: Tensor) -> Tensor:
        cosine = linear(normalize(h, dim=-1), normalize(self.weight, dim=-1))
        return self.scale * cosine

    @property
    def scale(self) -> Tensor:
        """tau."""
        return self.log_scale.exp().clamp(1, 100)

    @torch.no_grad()
    def imprint(self, h: Tensor, labels: Tensor) -> None:
        """Set w_k to the mean direction of class k (Qi et al., 2018); absent classes keep theirs."""
        for label in set(labels.tolist()):
            self.weight[label] = normalize(h, dim=-1)[labels == label].mean(dim=0)

"""Input adversaries: an inner maximisation of the loss over a small change of the pixels.

A change is bounded where people state the bound, on pixels in [0, 1], while the network sees normalised images
(x - mean) / std. ``perturb`` goes from one to the other and back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError

PixelLoss = Callable[[Tensor], Tensor]
"""A change of the pixels (B, 3, H, W) -> the loss, a scalar that depends on it."""


class Adversary(Protocol):
    """Chooses a change of the pixels that makes the loss large."""

    def __call__(self, loss: PixelLoss, pixels: Tensor, epsilon: float) -> Tensor:
        """Return a change (B, 3, H, W); whoever asks clips it to the ball and to valid pixels.

        Args:
            loss: of a change.
            pixels: (B, 3, H, W) in [0, 1].
            epsilon: radius of the ball in the maximum norm.
        """
        ...


def fgsm(loss: PixelLoss, pixels: Tensor, epsilon: float) -> Tensor:
    """delta = epsilon sign(grad_delta L at delta = 0): one step (Goodfellow et al., ICLR 2015, section 4)."""
    delta = torch.zeros_like(pixels, requires_grad=True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(loss(delta), delta)
    return epsilon * gradient.sign()


def perturb(
    model_loss: Callable[[Tensor], Tensor],
    images: Tensor,
    preprocessing: Preprocessing,
    epsilon: float,
    adversary: Adversary = fgsm,
) -> Tensor:
    """Images that differ from the given ones by at most ``epsilon`` a pixel and raise the loss.

    No gradient of a parameter is touched; with ``epsilon`` 0 the images come back to the bit.

    Args:
        model_loss: normalised images (B, 3, H, W) -> scalar loss, with a graph to the images.
        images: normalised, (B, 3, H, W).
        preprocessing: that normalised them.
        epsilon: largest change of a pixel on the scale [0, 1], e.g. 4 / 255.

    Returns:
        Normalised images, detached.

    Raises:
        ConfigError: ``epsilon`` is negative.
    """
    if not epsilon >= 0:
        raise ConfigError(f"epsilon must not be negative, but is {epsilon}.")
    images = images.detach()
    mean, std = (value.to(images) for value in preprocessing.statistics())
    pixels = (images * std + mean).clamp(0, 1)
    # The change is normalised and added, not the changed pixels: x - mean + mean is not x in floating point.
    delta = adversary(lambda change: model_loss(images + change / std), pixels, epsilon).detach()
    delta = torch.maximum(torch.minimum(delta.clamp(-epsilon, epsilon), 1 - pixels), -pixels)
    return images + delta / std

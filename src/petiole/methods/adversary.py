"""Input adversaries: an inner maximisation of the loss over a small change of the pixels.

A change is bounded where people state the bound, on pixels in [0, 1], while the network sees normalised images
(x - mean) / std. ``perturb`` goes from one to the other and back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError
from petiole.methods.settings import check_names
from petiole.registry import Registry

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


def radius(stated: str | float, name: str) -> float:
    """An epsilon as a number.

    Args:
        stated: a number, or a fraction such as 4/255.
        name: of the option, for the message.

    Raises:
        ConfigError: it is none, or not in [0, 1].
    """
    try:
        over, sign, under = str(stated).partition("/")
        # Not a Fraction, which would compute 10 to the 10^9 of 1e-1000000000.
        value = float(over) / float(under if sign else 1)
    except (ValueError, ZeroDivisionError):
        value = -1.0
    if not 0 <= value <= 1:
        raise ConfigError(
            f"{name} is how far a pixel may go on the scale 0 to 1, not {str(stated)!r}: give a number or a fraction, e.g. 4/255."
        )
    return value


ATTACKS = Registry[Callable[..., Adversary]](
    "attack", "petiole.methods", "ATTACKS.register", "petiole.attacks", described=True
)


def attack(name: str, **options: Any) -> Adversary:
    """Make an adversary by name, e.g. ``attack("pgd", steps=20)``.

    Raises:
        ConfigError: an unknown name, or an option that this attack does not take.
    """
    kind = ATTACKS.find(name)
    check_names(options, kind, f"option of the attack {name}")
    return kind(**options)


@ATTACKS.register("fgsm", "one step along the sign of the gradient")
def _fgsm() -> Adversary:
    return fgsm


def fgsm(loss: PixelLoss, pixels: Tensor, epsilon: float) -> Tensor:
    """delta = epsilon sign(grad_delta L at delta = 0): one step (Goodfellow et al., ICLR 2015, section 4)."""
    return epsilon * pixel_gradient(loss, torch.zeros_like(pixels)).sign()


@ATTACKS.register("pgd", "many steps, each put back into the ball")
@dataclass(frozen=True)
class PGD:
    """Projected gradient descent in the maximum norm (Madry et al., ICLR 2018, section 2.1).

        delta_0 ~ U(-epsilon, epsilon),   delta <- clip(delta + 2.5 epsilon / steps * sign(grad_delta L))

    clipped to the ball and to valid pixels; the start is drawn from ``seed``, anew for each batch.

    Attributes:
        steps: at least 1.
        seed: of the start.
    """

    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigError(f"pgd takes at least 1 step, not {self.steps}.")

    def __call__(self, loss: PixelLoss, pixels: Tensor, epsilon: float) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        start = torch.rand(pixels.shape, generator=generator).to(pixels)
        return climbed(loss, pixels, epsilon, self.steps, 2 * start - 1)


def climbed(loss: PixelLoss, pixels: Tensor, epsilon: float, steps: int, start: Tensor) -> Tensor:
    """The change that projected gradient descent (see ``PGD``) ends with, begun at ``epsilon`` times ``start``, in [-1, 1]."""
    delta = clipped(start * epsilon, pixels, epsilon)
    for _ in range(steps):
        moved = delta + 2.5 * epsilon / steps * pixel_gradient(loss, delta).sign()
        delta = clipped(moved, pixels, epsilon)
    return delta


def clipped(delta: Tensor, pixels: Tensor, epsilon: float) -> Tensor:
    """The nearest change inside the ball that leaves pixels in [0, 1]."""
    return torch.maximum(torch.minimum(delta.clamp(-epsilon, epsilon), 1 - pixels), -pixels)


def pixel_gradient(loss: PixelLoss, delta: Tensor) -> Tensor:
    """Of the loss at a change.

    Raises:
        ConfigError: the loss does not depend on the pixels.
    """
    delta = delta.detach().requires_grad_()
    with torch.enable_grad():
        try:
            (gradient,) = torch.autograd.grad(loss(delta), delta)
        except RuntimeError as error:  # no graph, or one that does not reach the pixels
            raise ConfigError(
                "This model's loss has no gradient to the pixels, so attacks by gradients cannot be made on it. Use a method whose head is "
                "differentiable (logistic-regression, averaged-ridge, cls-residual-lora)."
            ) from error
    return gradient


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
        ConfigError: ``epsilon`` is negative, or the images keep their shape.
    """
    if not epsilon >= 0:
        raise ConfigError(f"epsilon must not be negative, but is {epsilon}.")
    if preprocessing.patch:
        raise ConfigError(
            "These images keep their shape and travel as strips of patches, which attacks do not know. Take a backbone whose images "
            "have one size."
        )
    images = images.detach()
    mean, std = (value.to(images) for value in preprocessing.statistics())
    pixels = (images * std + mean).clamp(0, 1)
    # The change is normalised and added, not the changed pixels: x - mean + mean is not x in floating point.
    delta = adversary(lambda change: model_loss(images + change / std), pixels, epsilon).detach()
    return images + clipped(delta, pixels, epsilon) / std

"""AdvCLIP-LoRA (arXiv 2505.15130): CLIP-LoRA on images that are changed to raise the loss.

    min over LoRA of  max_{|delta| <= epsilon}  CE(x + delta, y)
    delta <- clip(delta + 0.05 eta_t grad_delta CE),   m times a batch

``shared``, as published: one delta (3, H, W) for all images of a batch, kept from batch to batch and drawn anew in the ball at each pass over the
data; eta_t goes from 1 / |delta| at the start to 1 at step 300. An image's own pixels stay in [0, 1]. ``each``: a delta_i for every image by m
steps of projected gradient descent, drawn anew for each batch, as in TeCoA (Mao et al., ICLR 2023) and FARE (Schlarmann et al., ICML 2024); a rival in
our reconstruction:

    delta_i ~ U(-epsilon, epsilon),   delta_i <- clip(delta_i + 2.5 epsilon / m * sign(grad_{delta_i} CE_i)),   m times

``compat`` reads the released code instead: there delta is added behind the normalisation although its bound is one of pixels, and what keeps pixels
valid is taken from the batch's largest and smallest pixel, so that it hardly binds. How eta_t falls between its ends, and where delta starts, could not be
read; both are ours.

Published training: r 2 in both towers, q, k and v, dropout 0.25, AdamW 2e-4, decay 0.01, 500 steps a shot, epsilon 10/255, m = 1, 2 or 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.collective import members, summed
from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError
from petiole.methods.adversary import (
    PixelLoss,
    climbed,
    clipped,
    perturb,
    pixel_gradient,
    radius,
)
from petiole.methods.base import Plan, TrainingAdversary
from petiole.methods.peft.lora import CLIPLoRA
from petiole.methods.registry import register
from petiole.ranges import PositiveInt


class SharedPerturbation(nn.Module):
    """One delta for all images of a batch; see above.

    Args:
        preprocessing: of the backbone.
        epsilon: radius in the maximum norm, on the scale 0 to 1.
        steps: m.
        lr: 0.05 of the equation.
        ramp: steps until eta is 1.
        compat: read the released code.
    """

    mean: Tensor
    std: Tensor
    delta: Tensor
    passed: Tensor

    def __init__(
        self,
        preprocessing: Preprocessing,
        epsilon: float,
        steps: int,
        *,
        lr: float = 0.05,
        ramp: int = 300,
        compat: bool = False,
    ) -> None:
        super().__init__()
        self.gradient_evaluations, self.epsilon, self.lr = steps, epsilon, lr
        self.ramp, self.compat, self.a_pass = ramp, compat, 0
        mean, std = preprocessing.statistics()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.register_buffer("delta", torch.zeros(3, *preprocessing.size))
        self.register_buffer("passed", torch.zeros((), dtype=torch.long))

    def lasts(self, steps: int, a_pass: int) -> None:  # noqa: ARG002 - it counts passes
        """See ``Timed``."""
        self.a_pass = a_pass

    def forward(self, loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """See ``TrainingAdversary``."""
        drawn = (2 * torch.rand_like(self.delta) - 1) * self.epsilon
        begins = self.passed % self.a_pass == 0 if self.a_pass else self.passed == 0
        delta = torch.where(begins, drawn, self.delta)
        for _ in range(self.gradient_evaluations):
            gradient = pixel_gradient(lambda d: loss(self.changed(images, d)), delta)
            gradient = summed(gradient) / members()
            moved = delta + self.lr * self._eta(delta) * gradient
            delta = self._bounded(moved.clamp(-self.epsilon, self.epsilon), images)
        self.delta.copy_(delta)
        self.passed += 1
        return self.changed(images, delta).detach()

    def changed(self, images: Tensor, delta: Tensor) -> Tensor:
        """Normalised images (B, 3, H, W) with a delta (3, H, W)."""
        if self.compat:
            return images + delta
        pixels = (images * self.std + self.mean).clamp(0, 1)
        return images + clipped(delta.expand_as(images), pixels, self.epsilon) / self.std

    def _eta(self, delta: Tensor) -> Tensor:
        share = (self.passed / max(1, self.ramp)).clamp(max=1)
        eta: Tensor = (1 - share) / torch.linalg.vector_norm(delta).clamp(min=1e-12) + share
        return eta

    def _bounded(self, delta: Tensor, images: Tensor) -> Tensor:
        if not self.compat:
            return delta  # each image clips its own
        lowest, highest = -self.mean / self.std, (1 - self.mean) / self.std
        most = highest - images.amin((0, 2, 3), keepdim=True)[0]
        least = lowest - images.amax((0, 2, 3), keepdim=True)[0]
        return torch.maximum(torch.minimum(delta, most), least)


class OwnPerturbations(nn.Module):
    """A delta for every image, by projected gradient descent from a drawn start.

    Args:
        preprocessing: of the backbone.
        epsilon: radius, as above.
        steps: m.
    """

    def __init__(self, preprocessing: Preprocessing, epsilon: float, steps: int) -> None:
        super().__init__()
        self.preprocessing, self.epsilon = preprocessing, epsilon
        self.gradient_evaluations = steps

    def forward(self, loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """See ``TrainingAdversary``."""

        def adversary(loss: PixelLoss, pixels: Tensor, epsilon: float) -> Tensor:
            # The start is drawn on the device, by the step's seed: to read a seed back would wait for a GPU.
            start = 2 * torch.rand_like(pixels) - 1
            return climbed(loss, pixels, epsilon, self.gradient_evaluations, start)

        return perturb(loss, images, self.preprocessing, self.epsilon, adversary)


@register(
    "advclip-lora",
    "CLIP-LoRA on images changed to raise the loss",
    lr=2e-4,
    weight_decay=1e-2,
    batch_size=32,
    train_on="target",
)
@dataclass(frozen=True)
class AdvCLIPLoRA(CLIPLoRA):
    """CLIP-LoRA against an adversary.

    Attributes:
        attack_epsilon: how far a pixel may go, on the scale 0 to 1: a number, or a fraction such as 10/255.
        attack_steps: m.
        perturbation: ``shared`` by the batch, or ``each`` image its own.
        compat: read the released code, for ``shared``.
    """

    attack_epsilon: str = "10/255"
    attack_steps: PositiveInt = 1
    perturbation: Literal["shared", "each"] = "shared"
    compat: bool = False

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        plan, preprocessing = super().plan(backbone, classes), backbone.preprocessing
        epsilon = radius(self.attack_epsilon, "attack_epsilon")
        adversary: TrainingAdversary
        if self.perturbation == "each":
            if self.compat:
                raise ConfigError(
                    "compat reads code that shares one perturbation: set perturbation=shared."
                )
            adversary = OwnPerturbations(preprocessing, epsilon, self.attack_steps)
        else:
            adversary = SharedPerturbation(
                preprocessing, epsilon, self.attack_steps, compat=self.compat
            )
        return replace(plan, adversary=adversary)

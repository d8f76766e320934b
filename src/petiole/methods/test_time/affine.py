"""Scales and shifts behind the norms of the image tower, fitted to each test image (as in Tent: Wang et al., ICLR 2021).

    y = (1 + s) x + c   behind the norm before each attention and each MLP;   s = c = 0 at the start

A rival of LoRA-TTT (Kojima et al., ICML-W 2025), there with the norms' own weights: the functions are the same, the steps of AdamW are not, because
here weight decay draws to the pretrained norms and not to 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.methods.blocks import select
from petiole.methods.test_time.base import TEST_TIME, FrozenClassifier
from petiole.methods.test_time.descent import Descent, PerImage, Session


class AffinePerImage(PerImage):
    """s x + c, with s and c (B, d) of each image's own."""

    def __init__(self, images: int, width: int) -> None:
        super().__init__(images)
        self.scale = nn.Parameter(torch.zeros(images, width))
        self.shift = nn.Parameter(torch.zeros(images, width))

    def change(self, rows: Tensor) -> Tensor:
        return rows * self.scale[:, None].to(rows.dtype) + self.shift[:, None].to(rows.dtype)


@TEST_TIME.register("affine", "scales and shifts behind the norms, one step on entropy")
@dataclass(frozen=True)
class Affine(Descent):
    """An affine map a norm for each test image.

    Attributes:
        blocks: all | every:k | first:k | last:k | 0,3,7.
    """

    blocks: str = "all"

    def _places(self, model: FrozenClassifier) -> list[str]:
        chosen = select(self.blocks, model.backbone)
        return [f"block.{i}.{part}.in" for i in chosen for part in ("attn", "mlp")]

    def check(self, model: FrozenClassifier) -> None:
        if lost := [role for role in self._places(model) if role not in model.backbone.roles]:
            raise ConfigError(
                f"affine needs the norms of a ViT's blocks, and {model.backbone.name} has no {lost[0]}. Use a ViT, or --adapt mta."
            )

    def session(self, model: FrozenClassifier, images: int) -> Session:
        places = self._places(model)
        widths = [model.backbone.site(role).width for role in places]
        return Session(
            [Attach(p, AffinePerImage(images, w)) for p, w in zip(places, widths, strict=True)]
        )

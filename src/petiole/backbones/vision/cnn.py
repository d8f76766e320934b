"""timm networks that end in a feature map (all CNNs): map and pooled feature, no blocks."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from petiole.backbones.base import IMAGES, Backbone, Site, State
from petiole.backbones.vision.timm_families import timm_family
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError


class _Network(Protocol):
    """What every timm model answers to."""

    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_head(self, x: Tensor, *, pre_logits: bool) -> Tensor: ...


@timm_family("Module")  # whatever is of no other family
def wrap(name: str, module: nn.Module, preprocessing: Preprocessing) -> ConvNet:
    """Turn a timm CNN, its classifier removed, into a backbone.

    A network with some attention inside (BoTNet, MobileViT) is as good, since no role lies inside.

    Raises:
        BackboneError: its last features are no (B, C, H, W) map (as in Swin, mixers and
            transformers without plain blocks), or it does not take images of this size.
    """
    (channels, rows, columns), width = _measure(name, module, preprocessing)
    return ConvNet(name, module, preprocessing, width, channels, (rows, columns))


class ConvNet(Backbone):
    """A frozen CNN.

    Final roles: ``final.pooled`` (B, d) as timm pools it before its classifier; ``final.map``
    (B, N, c) the last feature map, its N = H'W' positions as tokens in row order.

    Attributes:
        channels: c. Some networks (MobileNetV3) widen the pooled feature once more, so d > c.
    """

    vector = "final.pooled"
    patches = "final.map"

    def __init__(
        self,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        width: int,
        channels: int,
        grid: tuple[int, int],
    ) -> None:
        super().__init__(name, module, preprocessing, width)
        # Convolutions run about 1.4 times faster in this layout.
        module.to(memory_format=torch.channels_last)
        self.channels = channels
        self._grid = grid

    @property
    def grid(self) -> tuple[int, int]:
        """H' and W' of the last feature map."""
        return self._grid

    def width_of(self, role: str) -> int:
        return self.channels if role == "final.map" else self.width

    @property
    def sites(self) -> Mapping[str, Site]:
        return {}

    @property
    def finals(self) -> tuple[str, ...]:
        return ("final.pooled", "final.map")

    @property
    def cuts(self) -> tuple[str, ...]:
        return ()

    def role_of(self, parameter: str) -> str:  # noqa: ARG002 - there are no blocks to tell apart
        return IMAGES

    def _lower(self, images: Tensor, cut: str) -> Tensor:
        raise NotImplementedError(f"{self.name} has no cut {cut} inside")

    def _upper(self, cut: str, value: Tensor, reads: Sequence[str], *, checkpoint: bool) -> State:  # noqa: ARG002 - no blocks to recompute
        network = cast(_Network, self.module)
        # Pooling sums in another order in that layout; so it gives timm's bits.
        features = network.forward_features(value).contiguous()
        values: State = {}
        for role in reads:
            if role == "final.map":
                values[role] = features.flatten(2).transpose(1, 2)
            else:
                values[role] = network.forward_head(features, pre_logits=True)
        return values


@torch.no_grad()
def _measure(
    name: str, module: nn.Module, preprocessing: Preprocessing
) -> tuple[tuple[int, int, int], int]:
    """Shape (c, H', W') of the map and width of the pooled feature, tried out on a meta device."""
    shape = copy.deepcopy(module).to("meta").eval()
    network = cast(_Network, shape)
    height, width = preprocessing.size
    try:
        features = network.forward_features(torch.zeros(1, 3, height, width, device="meta"))
        pooled = network.forward_head(features, pre_logits=True)
    except (RuntimeError, AssertionError, AttributeError, TypeError, ValueError) as error:
        raise BackboneError(
            f"{name} ({type(module).__name__}) does not take images of {height} x {width} px, or is no "
            f"network that maps images to features ({error}). Leave image_size out, or choose a plain "
            "ViT, DeiT, DINOv2, or a CNN."
        ) from error
    # Some transformers keep channels last, which would pass silently for a map.
    channels = getattr(module, "num_features", None)
    if features.ndim != 4 or features.shape[1] != channels or pooled.ndim != 2:
        raise BackboneError(
            f"{name} ({type(module).__name__}) ends in features of shape {tuple(features.shape)}, whose "
            "roles petiole does not know. Choose a plain ViT, DeiT, DINOv2, or a CNN, or name its parts in a "
            "@timm_family of your own (docs/extending.md)."
        )
    _, c, rows, columns = features.shape
    return (c, rows, columns), int(pooled.shape[1])

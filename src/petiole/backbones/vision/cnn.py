"""timm networks that end in a feature map (all CNNs): map and pooled feature, no blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES, Site
from petiole.backbones.vision.trace import Trace, run_timm, traced
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError


class _Network(Protocol):
    """What every timm model answers to."""

    def forward_features(self, x: Tensor) -> Tensor: ...

    def forward_head(self, x: Tensor, *, pre_logits: bool) -> Tensor: ...


def wrap(name: str, module: nn.Module, preprocessing: Preprocessing) -> ConvNet:
    """Turn a timm CNN, its classifier removed, into a backbone.

    A network with some attention inside (BoTNet, MobileViT) is as good, since no role lies inside.

    Raises:
        BackboneError: its last features are no (B, C, H, W) map, or it does not take images of this size.
    """
    return of_trace(name, module, preprocessing, traced(name, module, run_timm, preprocessing.size))


def of_trace(name: str, module: nn.Module, preprocessing: Preprocessing, found: Trace) -> ConvNet:
    """``wrap`` where the pass has been made."""
    if not found.is_map:
        raise BackboneError(
            f"{name} ({type(module).__name__}) ends in features of shape {tuple(found.features.shape)}, which are no map. "
            "Choose a CNN, or load it by its timm name."
        )
    _, c, rows, columns = found.features.shape
    return ConvNet(name, module, preprocessing, found.vector, c, (rows, columns))


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
        if all(p.ndim < 5 for p in module.parameters()):  # torch has it for images only
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

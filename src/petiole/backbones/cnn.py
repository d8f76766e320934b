"""timm convolutional networks: a feature map and a pooled feature, no blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from petiole.backbones.base import IMAGES, Backbone, Site, State
from petiole.data.preprocessing import Preprocessing


def wrap(name: str, module: nn.Module, preprocessing: Preprocessing) -> ConvNet:
    """Turn a timm CNN, its classifier removed, into a backbone."""
    width = getattr(module, "head_hidden_size", None) or module.num_features
    return ConvNet(name, module, preprocessing, int(width))  # type: ignore[arg-type]


class ConvNet(Backbone):
    """A frozen CNN.

    Final roles: ``final.pooled`` (B, d) as timm pools it before its classifier; ``final.map``
    (B, N, d) the last feature map, its N = H'W' positions as tokens in row order.
    """

    vector = "final.pooled"
    patches = "final.map"

    def width_of(self, role: str) -> int:
        # Some networks (MobileNetV3) widen the pooled feature once more before the classifier.
        return int(self.module.num_features) if role == "final.map" else self.width  # type: ignore[arg-type]

    @property
    def sites(self) -> Mapping[str, Site]:
        return {}

    @property
    def finals(self) -> tuple[str, ...]:
        return ("final.pooled", "final.map")

    @property
    def cuts(self) -> tuple[str, ...]:
        return ()

    def role_of(self, parameter: str) -> str:
        return IMAGES

    @torch.no_grad()
    def lower(self, images: Tensor, cut: Sequence[str]) -> State:
        self.check_cut(cut)
        return {IMAGES: images} if tuple(cut) == (IMAGES,) else self.upper({IMAGES: images}, cut)

    def upper(self, state: State, reads: Sequence[str], *, checkpoint: bool = False) -> State:
        if all(role in state for role in reads):
            return {role: state[role] for role in reads}
        network: nn.Module = self.module
        features: Tensor = network.forward_features(state[IMAGES])  # type: ignore[operator]
        values: State = {}
        if "final.map" in reads:
            values["final.map"] = features.flatten(2).transpose(1, 2)
        if "final.pooled" in reads:
            values["final.pooled"] = network.forward_head(features, pre_logits=True)  # type: ignore[operator]
        return values

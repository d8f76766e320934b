"""NaFlex networks: images keep their shape, and each has a grid of its own. ``naflex/<name>`` is a NaFlexVit of timm.

    naflex/naflexvit_base_patch16_gap.e300_s576_in1k       prepared as timm does with naflex=True
    timm/naflexvit_base_patch16_gap.e300_s576_in1k         the same weights on squares

The networks are run with their patches, places and masks as their libraries do. What is stored at a cut is a block's
input with one more token behind it, which says the grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.vision.block_network import BlockNetwork
from petiole.backbones.vision.trace import Run, traced
from petiole.data.naflex import grids_of, head, patches_of, places_of
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, ConfigError

BASE = 256
"""The token behind a stream holds rows and columns in this base, which half precision keeps exactly."""


class NaFlexNetwork(BlockNetwork):
    """A frozen network of blocks on strips (B, 3, p, (P + 1) p) of patches.

    ``final.patches`` (B, P, d) holds an image's tokens in row order and behind them their mean, so that means over all P
    are those of the image's own.

    Raises:
        BackboneError: it does not run on strips.
    """

    def __init__(
        self, name: str, module: nn.Module, preprocessing: Preprocessing, run: Run
    ) -> None:
        super().__init__(
            name, module, preprocessing, run, traced(name, module, run, preprocessing.size)
        )

    @property
    def grid(self) -> tuple[int, int]:
        """There is none that all images have.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self.name} gives each image a grid of its own shape, and what is asked for needs one grid for all. Take a backbone "
            "whose images have one size."
        )

    @property
    def local_tokens(self) -> int:
        """P, most tokens of an image."""
        return self.preprocessing.budget

    def _local(self) -> tuple[tuple[int, int], int]:
        most = self.preprocessing.budget
        return (1, most), self.traced.features.shape[1] - most

    def _kept(self, images: Tensor, stream: Tensor) -> Tensor:
        grids = grids_of(images).to(stream.device)
        said = stream.new_zeros(len(stream), 1, stream.shape[2])
        said[:, 0, :4] = torch.cat([grids // BASE, grids % BASE], dim=1).to(stream)
        return torch.cat([stream, said], dim=1)

    def _resumed(self, value: Tensor) -> tuple[Tensor, Tensor]:
        stream, said = value[:, :-1], value[:, -1].float()
        images, _ = super()._resumed(stream)
        return head(images, BASE * said[:, :2] + said[:, 2:4]), stream

    def _tokens(self, images: Tensor, features: Tensor) -> Tensor:
        tokens = features[:, self._prefix :]
        _, valid = places_of(grids_of(images).to(tokens.device), tokens.shape[1])
        own = valid[..., None]
        mean = (tokens * own).sum(dim=1, keepdim=True) / own.sum(dim=1, keepdim=True)
        return torch.where(own, tokens, mean)


@loader("naflex/")
def load(request: LoadRequest) -> Backbone:
    """Load ``naflex/<architecture>[.<tag>]``; an image size s asks for (s / p)^2 patches at most.

    Raises:
        BackboneError: as for ``timm/``, or it is no NaFlexVit.
    """
    from timm.models.naflexvit import NaFlexVit

    from petiole.backbones.vision import timm_models

    name = "timm/" + request.name.removeprefix("naflex/")
    loaded = timm_models.load(replace(request, name=name, image_size=None))
    module: Any = loaded.module
    if not isinstance(module, NaFlexVit):
        raise BackboneError(
            f"{name} is a {type(module).__name__}, whose images have one size. Load it by this name; naflex/ stands before "
            "naflexvit_* of timm."
        )
    (patch, other), channels_last = module.embeds.patch_size, module.embeds.channels_last
    if patch != other or not module.embeds.is_linear or not channels_last:
        raise BackboneError(
            f"{request.name} embeds patches in a way that petiole does not prepare. Take {name}, for squares."
        )
    side = request.image_size or loaded.preprocessing.size[0]
    stated = loaded.preprocessing.naflex(patch, (side // patch) ** 2)
    return NaFlexNetwork(request.name, module, stated, run_timm)


def run_timm(module: Any, strips: Tensor) -> tuple[Tensor, Tensor]:
    """timm's own forward of patches with places and mask."""
    patches = patches_of(strips)
    places, valid = places_of(grids_of(strips), patches.shape[1])
    found = module.forward_features(
        patches, patch_coord=places, patch_valid=valid.to(strips.device)
    )
    features: Tensor = found["patches"]
    vector: Tensor = module.forward_head(
        features, pre_logits=True, patch_valid=found["patch_valid"]
    )
    return features, vector

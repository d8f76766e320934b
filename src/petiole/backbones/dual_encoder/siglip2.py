"""SigLIP 2 of the kind NaFlex (Tschannen et al., 2025) as transformers builds it: images keep their shape.

Its towers are SigLIP's. Each image has a grid of its own, so methods that look at places of patches (TextRefiner, heat
maps) find no ``final.attention`` and no grid.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.clip import fill
from petiole.backbones.dual_encoder.siglip import TEXT_PREFIXES, text_tower, tokenizer_of
from petiole.backbones.dual_encoder.towers import ImageTower, TwoTowers
from petiole.backbones.preprocessor import read_preprocessor
from petiole.backbones.registry import LoadRequest, folder_loader
from petiole.backbones.vision.naflex import NaFlexNetwork
from petiole.data.naflex import grids_of, patches_of, places_of
from petiole.data.preprocessing import Preprocessing


@folder_loader("siglip2")
def load(request: LoadRequest, config: dict[str, Any], folder: Path | None) -> Backbone:
    """A ``Siglip2Model``; an image size s asks for (s / p)^2 patches at most.

    Raises:
        BackboneError: a file is missing or does not fit.
    """
    from transformers import Siglip2Config, Siglip2Model

    with torch.device("meta" if request.meta else "cpu"):
        module = Siglip2Model(Siglip2Config(**config))
    vision = module.config.vision_config
    if folder is None:
        patch, side = vision.patch_size, request.image_size
        budget = (side // patch) ** 2 if side else vision.num_patches
        preprocessing, tokenizer = Preprocessing.symmetric(patch).naflex(patch, budget), None
    else:
        fill(module, request, folder)
        tokenizer = tokenizer_of(folder)
        preprocessing = read_preprocessor(folder, request.image_size)
    image = NaFlexNetwork(request.name, module, preprocessing, run)
    return TwoTowers(
        request.name,
        module,
        vision.hidden_size,
        ImageTower(image, nn.Identity(), looking=None),
        text_tower(module, tokenizer),
        scale=module.logit_scale,
        text_prefixes=TEXT_PREFIXES,
    )


def run(module: Any, strips: Tensor) -> tuple[Tensor, Tensor]:
    """The library's own forward of patches with mask and grids."""
    patches, grids = patches_of(strips), grids_of(strips)
    _, valid = places_of(grids, patches.shape[1])
    # A shape has no grid that the library could read, and no padding.
    mask = None if strips.is_meta else valid.int()
    out = module.vision_model(pixel_values=patches, pixel_attention_mask=mask, spatial_shapes=grids)
    return out.last_hidden_state, out.pooler_output

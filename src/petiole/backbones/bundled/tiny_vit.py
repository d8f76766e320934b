"""A small ViT with trained features that ships inside the package, for work without a network.

    image (3, 160, 160) -> convolutional stem (112, 10, 10) -> 5 x 5 tokens of width 192
                        -> + CLS, + positions -> 4 pre-norm blocks (3 heads, MLP 4x) -> LayerNorm

The stem is EfficientNet-Lite0 (Tan & Le, 2019) down to stride 16, with its ImageNet weights unchanged, and
one learned 2x2 convolution of stride 2 that merges its map into tokens. All that follows was distilled from
the whole of that network: `benchmarks/tiny_vit` has the recipe, `docs/tiny-vit.md` says how good it is. The
weights are Apache-2.0, as the network's are. It is a plain timm `VisionTransformer` with 2,572,000 parameters,
so every in-block method rides on it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.vision import vit
from petiole.backbones.weights import load_strictly, read_json, read_safetensors
from petiole.data.preprocessing import Preprocessing

WEIGHTS = Path(__file__).parent.parent / "weights" / "tiny_vit.safetensors"
SIZE = 160
STRIDE = 32


class ConvStem(nn.Module):
    """Pretrained convolutions down to stride 16, then a learned merge to stride 32.

    Takes timm's `embed_layer` arguments, of which `embed_dim` alone is free here. Its batch norms always use
    their stored statistics, even after `.train()`.
    """

    def __init__(self, embed_dim: int, **_: Any) -> None:
        super().__init__()
        whole: Any = timm.create_model("tf_efficientnet_lite0")
        self.conv_stem, self.bn1, self.stages = whole.conv_stem, whole.bn1, whole.blocks[:5]
        self.merge = nn.Conv2d(112, embed_dim, kernel_size=2, stride=2)
        self.num_patches = (SIZE // STRIDE) ** 2

    def feat_ratio(self) -> int:
        """Pixels of a token's side, as timm's own embeddings state it."""
        return STRIDE

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: the stem was frozen throughout distillation."""
        return super().train(False)

    def features(self, images: Tensor) -> Tensor:
        """The frozen part alone: (B, 3, 160, 160) to (B, 112, 10, 10)."""
        maps: Tensor = self.stages(self.bn1(self.conv_stem(images)))
        return maps

    def tokens(self, maps: Tensor) -> Tensor:
        """The learned merge: (B, 112, 10, 10) to (B, 25, D), row by row."""
        merged: Tensor = self.merge(maps)
        return merged.flatten(2).transpose(1, 2)

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, 160, 160) to (B, 25, D)."""
        return self.tokens(self.features(images))


def architecture() -> VisionTransformer:
    """The architecture without weights; builds on any device, `meta` included."""
    return VisionTransformer(
        img_size=SIZE,
        patch_size=STRIDE,
        num_classes=0,
        embed_dim=192,
        depth=4,
        num_heads=3,
        embed_layer=ConvStem,
    )


@loader("petiole/tiny-vit")
def load(request: LoadRequest) -> Backbone:
    """The packaged model, or another training of the same architecture with --weights.

    Raises:
        BackboneError: another image size than its own, or weights that do not fit.
    """
    card = read_json(WEIGHTS.with_suffix(".json"))
    stated = Preprocessing(
        **{name: card[name] for name in Preprocessing.model_fields if name in card}
    )
    request.fixed_size(stated.size[0])
    with torch.device("meta" if request.meta else "cpu"):
        module = architecture()
    if not request.meta:
        file = request.weights or WEIGHTS
        load_strictly(module, read_safetensors(file), str(file))
    return vit.wrap(request.name, module, stated)

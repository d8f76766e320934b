"""A vision encoder that is trained with the language model: the pictures that it reads, and which of its parts learn.

The ablation "CLIP frozen or not" of VL-Adapter (Sung et al., 2022). BatchNorm statistics stay those of the
pretraining whatever is trained, because the backbone stays in eval mode: the reference's --freeze_bn_statistics.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.data.image import read_image
from petiole.data.preprocessing import evaluate_transform
from petiole.errors import ConfigError, unknown
from petiole.methods.base import Changes
from petiole.methods.peft.copies import PartialFineTuning, norms
from petiole.tasks.text.grid_pool import GridPool
from petiole.tasks.text.model import VisionTower
from petiole.tasks.text.visual_base import VisualFeatures, VisualMemory

Trained = Literal["all", "last", "norms"]
"""All weights; the last block or stage and what follows it; scales and shifts of the normalisation layers."""


class PixelSource:
    """Preprocessed pictures, for ``VisionTower``.

    Args:
        images_root: names are paths below it.
        backbone: the vision encoder; states the preprocessing.
        visual_tokens: tokens that the vision encoder makes of a picture.
        memory: bytes of pictures kept in memory.
    """

    def __init__(
        self, images_root: Path, backbone: Backbone, visual_tokens: int = 36, *, memory: int = 2**29
    ) -> None:
        self.images_root, self.backbone, self.visual_tokens = images_root, backbone, visual_tokens
        self._transform = evaluate_transform(backbone.preprocessing)
        self._memory = VisualMemory(memory)

    @property
    def width(self) -> int:
        """D of the tokens that the vision encoder makes."""
        return self.backbone.width_of(self.backbone.patches)

    @property
    def digest(self) -> str:
        """Of the weights that the vision encoder starts from, the preprocessing and the number of tokens."""
        backbone = self.backbone
        parts = [
            "picture",
            backbone.fingerprint,
            backbone.preprocessing.digest(),
            self.visual_tokens,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def __call__(self, name: str) -> VisualFeatures:
        return self._memory(name, self._features)

    def _features(self, name: str) -> VisualFeatures:
        return VisualFeatures(
            self._transform(read_image(self.images_root / name))[None], self.visual_tokens
        )


def open_vision_tower(
    backbone: Backbone, visual_tokens: int = 36, train: Trained = "last"
) -> VisionTower:
    """A vision encoder, frozen or with trained copies of some weights.

    Of the chosen parameters those are trained on which the local tokens depend: not, for example, CLIP's attention
    pool, which only makes the image vector.

    Args:
        backbone: stays untouched; copies are trained.
        visual_tokens: tokens of a picture, see ``GridPool``.
        train: what of it.

    Raises:
        ConfigError: the grid cannot be pooled so, or there is nothing of that kind to train.
    """
    pool, count = GridPool(visual_tokens), backbone.local_tokens
    pool.check(count, backbone.name)
    chosen = _chosen(backbone, train)
    tune = _reached(backbone, chosen) if chosen else ()
    if not tune:
        raise ConfigError(
            f"{backbone.name} has no parameters of the kind {train!r} below its local tokens. Use train=all."
        )
    return VisionTower(backbone, Changes(tune=tune), pool)


def _chosen(backbone: Backbone, train: str) -> tuple[str, ...]:
    match train:
        case "all":
            return backbone.parameters_under()
        case "norms":
            return norms(backbone)
        case "last" if backbone.depth:
            return PartialFineTuning().names(backbone)
        case "last":
            return _last_stage(backbone)
        case _:
            raise unknown("part of the vision encoder to train", train, ("all", "last", "norms"))


def _last_stage(backbone: Backbone) -> tuple[str, ...]:
    """Of a CNN, all that comes after the last feature map but one, as timm lists its feature maps."""
    image, prefix = backbone, ""
    if isinstance(backbone, TwoTowers):
        image, prefix = backbone.image.backbone, backbone.image.prefix
    maps = [entry["module"] for entry in getattr(image.module, "feature_info", ())]
    names = [name for name, _ in image.module.named_parameters()]
    below = [i for i, name in enumerate(names) if maps[1:] and name.startswith(f"{maps[-2]}.")]
    if not below:
        raise ConfigError(
            f"{backbone.name} does not say where its last stage begins. Use train=all or train=norms."
        )
    return tuple(prefix + name for name in names[below[-1] + 1 :])


def _reached(backbone: Backbone, names: tuple[str, ...]) -> tuple[str, ...]:
    """Those parameters of which the local tokens are a function."""
    trial = VisionTower(backbone, Changes(tune=names), GridPool(backbone.local_tokens))
    picture = torch.zeros(1, 1, 3, *backbone.preprocessing.size, device=backbone.device)
    copies = trial.copies
    with torch.enable_grad():
        total = trial(picture).sum()
        gradients = torch.autograd.grad(total, list(copies.values()), allow_unused=True)
    return tuple(n for n, gradient in zip(copies, gradients, strict=True) if gradient is not None)

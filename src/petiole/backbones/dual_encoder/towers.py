"""Two towers with one joint space: images and texts become vectors whose cosine is a score.

    s(x, t) = exp(logit_scale) cos(v, e),   v = P_v image(x),   e = P_t text(t)

Either tower is one of its own: any image backbone, any ``TextTower``. The roles of both are there under their own
names. What touches only texts leaves the image's cut where it is, at the final vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone, State
from petiole.backbones.dual_encoder.text_tower import TEXT, TextTower
from petiole.backbones.frozen_network import IMAGES, Site
from petiole.backbones.hooks import observed
from petiole.backbones.vision.attention import PatchAttention
from petiole.backbones.vision.transformer import Transformer
from petiole.errors import ConfigError

LAST = "final.tokens"
"""What a projection reads: the tokens above the last block."""


@dataclass(frozen=True)
class ImageTower:
    """The half that sees.

    Attributes:
        backbone: whose vector and local tokens are read.
        project: into the joint space, one token or many.
        looking: gives ``final.attention``; without it there is none.
        prefix: what the names of its parameters start with in the whole module.
        project_prefix: what those of ``project`` start with, where they lie beside the backbone's.
    """

    backbone: Backbone
    project: nn.Module
    looking: PatchAttention | None
    prefix: str = ""
    project_prefix: str = ""


class TwoTowers(Backbone):
    """A frozen image tower and a frozen text tower.

    Final roles: ``final.image`` (B, d) the image's vector in the joint space, not normalised;
    ``final.patches`` (B, P, d) its local tokens, projected alike; ``final.attention`` (B, P) how much each of
    them matters to the vector, see ``PatchAttention``.

    Args:
        module: the frozen network with both towers.
        width: d, of the joint space.
        scale: logarithm of the logits' scale, a parameter of ``module``.
        text_prefixes: what the names of the text tower's parameters start with.
    """

    vector, patches = "final.image", "final.patches"

    def __init__(
        self,
        name: str,
        module: nn.Module,
        width: int,
        image: ImageTower,
        text: TextTower,
        *,
        scale: nn.Parameter,
        text_prefixes: tuple[str, ...],
    ) -> None:
        super().__init__(name, module, image.backbone.preprocessing, width)
        self.image, self.text = image, text
        self._scale = (scale,)  # a parameter of ``module``, not one of its own
        self._text_prefixes = text_prefixes
        backbone = image.backbone
        self._sources: dict[str, tuple[str, ...]] = {
            "final.image": (backbone.vector,),
            "final.patches": (backbone.patches,),
        }
        if image.looking:
            self._sources["final.attention"] = (backbone.vector, backbone.patches)

    @property
    def scale(self) -> Tensor:
        """exp(logit_scale), frozen."""
        return self._scale[0].detach().exp()

    @property
    def depth(self) -> int:
        """Number of blocks of the image tower."""
        return self.image.backbone.depth

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the local tokens."""
        return self.image.backbone.grid

    @property
    def local_tokens(self) -> int:
        """N, number of local tokens of an image."""
        return self.image.backbone.local_tokens

    @property
    def prefix_tokens(self) -> int:
        """Tokens before the patches in the image tower's blocks."""
        return self.image.backbone.prefix_tokens

    @property
    def stream(self) -> int:
        """Width of the image tower's blocks.

        Raises:
            ConfigError: it has none, so nothing can be prompted.
        """
        if not isinstance(self.image.backbone, Transformer):
            raise ConfigError(
                f"{self.name} sees with a network without blocks, which takes no prompts. Leave the image "
                "tower alone (image_prompts=0), or use another method."
            )
        return self.image.backbone.stream

    @property
    def entry(self) -> str:
        """Role where tokens can join those of the image: behind an embedding that gives all of them, else before the first block."""
        image = self.image.backbone
        behind = isinstance(image, Transformer) and image.parts.embeds_all
        return "embed" if behind else "block.0.in"

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        return {**self.image.backbone.sites, **self.text.sites}

    @property
    def finals(self) -> tuple[str, ...]:
        return tuple(self._sources)

    @property
    def cuts(self) -> tuple[str, ...]:
        return self.image.backbone.cuts

    def width_of(self, role: str) -> int:
        return self.local_tokens if role == "final.attention" else self.width

    def role_of(self, parameter: str) -> str:
        if parameter.startswith(self._text_prefixes):
            return f"{TEXT}tokens"
        beside = self.image.project_prefix
        if beside and parameter.startswith(beside):
            return LAST if LAST in self.image.backbone.sites else IMAGES
        return self.image.backbone.role_of(parameter.removeprefix(self.image.prefix))

    def parameters_under(self, prefix: str = "") -> tuple[str, ...]:
        """Those of the image tower, unless ``prefix`` names a part of the text tower."""
        names = super().parameters_under(prefix)
        if prefix.startswith(TEXT):
            return names
        return tuple(name for name in names if not name.startswith(self._text_prefixes))

    def cut_below(self, touched: Sequence[str], reads: Sequence[str]) -> tuple[str, ...]:
        """As for an image tower; what happens to texts happens beside it."""
        return super().cut_below([role for role in touched if not role.startswith(TEXT)], reads)

    def encode(self, ids: Tensor) -> Tensor:
        """Texts (C, T) -> vectors (C, d), not normalised.

        Raises:
            ConfigError: a text is longer than the tower's positions.
        """
        with self.lock:
            return self.text.encode(ids)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> vectors (C, d) in the joint space, not normalised.

            s(x, t) = scale cos(backbone(x), encode_text([t]))

        Raises:
            ConfigError: a text is longer than the tower's positions, or this is a shape without a tokenizer.
        """
        return self.encode(self.text.tokenise(texts))

    def _lower(self, images: Tensor, cut: str) -> Tensor:
        return self.image.backbone.lower(images, (cut,))[cut]

    def _upper(self, cut: str, value: Tensor, reads: Sequence[str], *, checkpoint: bool) -> State:
        backbone = self.image.backbone
        sources = list(dict.fromkeys(source for role in reads for source in self._sources[role]))
        looking = self.image.looking if "final.attention" in reads else None
        with observed(self, looking.roles if looking else ()) as seen:
            found = backbone.upper({cut: value}, sources, checkpoint=checkpoint)
            if backbone.patches in found:
                # Prompts that an adapter put behind the patches are left out.
                found[backbone.patches] = found[backbone.patches][:, : self.local_tokens]
            joint = {role: self.image.project(value) for role, value in found.items()}
            values = {role: joint[self._sources[role][0]] for role in reads}
            if looking:
                values["final.attention"] = looking(
                    seen, joint[backbone.vector], joint[backbone.patches]
                )
        return values

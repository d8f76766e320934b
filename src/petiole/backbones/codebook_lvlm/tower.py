"""What all language models over one codebook share: encoder, quantiser, and the heads of the contrastive loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.codebook_lvlm.codebook import CodebookSpec
from petiole.backbones.frozen_network import IMAGES
from petiole.errors import BackboneError
from petiole.layers.residual_quantiser import ResidualQuantiser


class VisionOutput(NamedTuple):
    """What a tower sees in images.

    Attributes:
        z: (B, N, d), before the quantiser.
        seen: (B, N, d): z + sg[z^ - z] where the model is discrete, else z.
        codes: (B, N, D) int64.
        partials: (D, B, N, d), z^ up to each depth.
        residual: (B, N), ||z - z^||.
    """

    z: Tensor
    seen: Tensor
    codes: Tensor
    partials: Tensor
    residual: Tensor


class ContrastHeads(nn.Module):
    """The heads of the sigmoid contrastive loss: images and texts -> one space, with scale and bias.

    Args:
        image: quantised tokens (B, N, d) -> (B, e).
        text: ids (B, L) and their mask -> (B, e).
        tokenise: a text -> its ids; ``None`` in a shape.
        pad: id that fills up.
        longest: ids of a text at most.
    """

    def __init__(
        self,
        image: nn.Module,
        text: nn.Module,
        pad: int,
        longest: int,
        tokenise: Callable[[str], list[int]] | None = None,
    ) -> None:
        super().__init__()
        self.image, self.text, self.tokenise = image, text, tokenise
        self.scale = nn.Parameter(torch.tensor(10.0).log())  # t', as SigLIP starts it
        self.bias = nn.Parameter(torch.tensor(-10.0))
        self.pad, self.longest = pad, longest

    def texts(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(B, e) of texts given as ids."""
        most = min(self.longest, max(1, *(len(row) for row in rows)))
        ids = torch.full((len(rows), most), self.pad)
        for i, row in enumerate(rows):
            cut = torch.tensor(row[:most], dtype=torch.long)
            ids[i, : len(cut)] = cut
        ids = ids.to(self.scale.device)
        vectors: Tensor = self.text(ids, ids != self.pad)
        return vectors


class Tower(nn.Module):
    """Encoder E up to the tapped block, quantiser, and perhaps the heads of the contrastive loss.

    Args:
        image_backbone: the encoder as a backbone: its local tokens (``patches``) are z.
        quantiser: frozen.
        spec: its contract.
        contrast: where the weights have it.

    Attributes:
        frequencies: (K,) how often each entry is the first code in general images; empty if unknown.
    """

    frequencies: Tensor

    def __init__(
        self,
        image_backbone: Backbone,
        quantiser: ResidualQuantiser,
        spec: CodebookSpec,
        contrast: ContrastHeads | None,
    ) -> None:
        super().__init__()
        self._image_backbone = (image_backbone,)
        self.encoder = image_backbone.module
        self.quantiser = quantiser
        self.spec = spec
        self.contrast = contrast
        self.register_buffer("frequencies", torch.zeros(spec.entries))

    @property
    def image_backbone(self) -> Backbone:
        """The encoder E."""
        return self._image_backbone[0]

    def tokens(self, pictures: Tensor) -> Tensor:
        """z (B, N, d) of preprocessed images (B, 3, H, W), as the encoder is now, with whatever changes are on it."""
        image_backbone = self.image_backbone
        return image_backbone.upper({IMAGES: pictures}, (image_backbone.patches,))[
            image_backbone.patches
        ].float()

    def quantised(self, z: Tensor, *, discrete: bool = True) -> VisionOutput:
        """What language models see of z; with ``discrete=False`` z itself."""
        quantised = self.quantiser(z)
        return VisionOutput(
            z,
            quantised.straight_through if discrete else z,
            quantised.codes,
            quantised.partials,
            quantised.residual,
        )

    def encode_images(self, pictures: Tensor, *, discrete: bool = True) -> VisionOutput:
        """``quantised`` of ``tokens``."""
        return self.quantised(self.tokens(pictures), discrete=discrete)

    @property
    def aligned(self) -> ContrastHeads:
        """The heads of the contrastive loss.

        Raises:
            BackboneError: the weights came without them.
        """
        if self.contrast is None:
            raise BackboneError(
                f"{self.image_backbone.name} came without image head, text tower or the text tower's tokenizer, so there is no "
                "contrastive loss. Set contrast=0."
            )
        return self.contrast

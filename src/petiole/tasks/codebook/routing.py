"""Which encoder an image is for: the tuned one if it looks like the domain, the original one otherwise.

    sum_i log p_domain(k_i) - log p_general(k_i) > 0,   k the first codes of the original encoder

p_domain are the original encoder's frequencies in the domain's training images, which the encoder's file keeps, p_general those
in general images, which the tower brings. Ours: the paper tunes the encoder and does not say what becomes of general
images (Wu et al., 2026).
"""

from __future__ import annotations

import torch
from torch import Tensor

from petiole.backbones.codebook_lvlm import Tower, VisionOutput
from petiole.errors import BackboneError
from petiole.tasks.codebook.adapter import Frequencies


def belongs(codes: Tensor, frequencies: Frequencies, tower: Tower) -> Tensor:
    """Whether images look like the domain, (B,) bool.

    Args:
        codes: (B, N, D) of the original encoder.
        frequencies: of the domain.
        tower: brings those of general images.

    Raises:
        BackboneError: it does not.
    """
    general = tower.frequencies
    if not bool((general > 0).all()):
        raise BackboneError(
            f"{tower.image_backbone.name} does not say how often its codes occur in general images, so images cannot be routed. "
            "Leave --route out."
        )
    domain = frequencies.original[0].to(general)
    odds = domain.log() - general.log()
    return odds[codes[..., 0]].sum(dim=-1) > 0


def routed(
    tuned: VisionOutput, original: VisionOutput, frequencies: Frequencies, tower: Tower
) -> tuple[VisionOutput, Tensor]:
    """Looks of the tuned encoder where images look like the domain, else of the original one; and which (B,)."""
    own = belongs(original.codes, frequencies, tower)
    row, token = own[:, None], own[:, None, None]
    vision_output = VisionOutput(
        torch.where(token, tuned.z, original.z),
        torch.where(token, tuned.seen, original.seen),
        torch.where(token, tuned.codes, original.codes),
        torch.where(token, tuned.partials, original.partials),
        torch.where(row, tuned.residual, original.residual),
    )
    return vision_output, own

"""Images of a folder by name, preprocessed for one tower, and what an encoder sees in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from petiole.backbones.codebook_lvlm import Tower, VisionOutput
from petiole.engine.adapted_model import evaluating
from petiole.engine.progress import progress
from petiole.methods.base import Changes
from petiole.tasks.codebook.adapter import Frequencies
from petiole.tasks.codebook.model import AdaptedCodebookModel
from petiole.tasks.codebook.routing import routed
from petiole.tasks.text.vision_tower import PixelSource

ROWS = 100
"""Images that are looked at together where nothing is learnt."""


class ImageFolder:
    """Preprocessed images.

    Args:
        root: folder that names start from.
        tower: whose preprocessing it is.
        memory: bytes of pictures kept in memory.
    """

    def __init__(self, root: Path, tower: Tower, *, memory: int = 2**30) -> None:
        rows, columns = tower.spec.grid
        self._sight = PixelSource(root, tower.image_backbone, rows * columns, memory=memory)
        self._device = tower.image_backbone.device

    def __call__(self, names: Sequence[str]) -> Tensor:
        """(B, 3, H, W).

        Raises:
            DataError: an image is missing or cannot be read.
        """
        return torch.cat([self._sight(name).tokens for name in names]).to(self._device)

    def vision_outputs(
        self, adapted: AdaptedCodebookModel, names: Sequence[str], *, quiet: bool = True
    ) -> VisionOutputs:
        """What the viewer sees in each of these images."""
        unique = list(dict.fromkeys(names))
        parts: list[VisionOutput] = []
        with evaluating(adapted), progress("looking", len(unique), quiet=quiet) as advance:
            for start in range(0, len(unique), ROWS):
                chosen = unique[start : start + ROWS]
                parts.append(adapted.encode_images(self(chosen)))
                advance(len(chosen))
        return VisionOutputs(joined(parts), {name: i for i, name in enumerate(unique)})

    def routed(
        self,
        tuned: VisionOutputs,
        adapted: AdaptedCodebookModel,
        frequencies: Frequencies,
        names: Sequence[str],
    ) -> tuple[VisionOutputs, float]:
        """What the tuned encoder makes of images like its domain, and the original one of all others; see ``routing``.

        Returns:
            Both, and the share of images that the tuned encoder has seen.
        """
        bare = AdaptedCodebookModel(adapted.model, Changes(), Changes())
        original = self.vision_outputs(bare, names)
        chosen, own = routed(tuned.all, original.all, frequencies, adapted.model.tower)
        return VisionOutputs(chosen, tuned.places), float(own.float().mean())


class VisionOutputs:
    """What an encoder makes of many images, by name."""

    def __init__(self, everything: VisionOutput, places: dict[str, int]) -> None:
        self.all, self.places = everything, places

    def __call__(self, names: Sequence[str]) -> VisionOutput:
        """Those at the named images, in order."""
        rows = torch.tensor([self.places[name] for name in names], device=self.all.z.device)
        vision_output = self.all
        return VisionOutput(
            vision_output.z[rows],
            vision_output.seen[rows],
            vision_output.codes[rows],
            vision_output.partials[:, rows],
            vision_output.residual[rows],
        )


def joined(parts: Sequence[VisionOutput]) -> VisionOutput:
    """Looks at batches as one."""
    z, seen, codes, partials, residual = zip(*parts, strict=True)
    return VisionOutput(
        torch.cat(z), torch.cat(seen), torch.cat(codes), torch.cat(partials, 1), torch.cat(residual)
    )

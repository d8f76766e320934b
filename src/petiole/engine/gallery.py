"""Images of a folder by name, preprocessed for one tower, and what an encoder sees in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from petiole.backbones.lvlm import Look, Tower
from petiole.engine.encoder_file import Frequencies
from petiole.engine.progress import progress
from petiole.engine.routing import routed
from petiole.engine.sight_eyes import PictureSight
from petiole.engine.viewer import Viewer
from petiole.methods.base import Changes

ROWS = 100
"""Images that are looked at together where nothing is learnt."""


class Gallery:
    """Preprocessed images.

    Args:
        root: folder that names start from.
        tower: whose preprocessing it is.
        memory: bytes of pictures kept in memory.
    """

    def __init__(self, root: Path, tower: Tower, *, memory: int = 2**30) -> None:
        rows, columns = tower.spec.grid
        self._sight = PictureSight(root, tower.eye, rows * columns, memory=memory)
        self._device = tower.eye.device

    def __call__(self, names: Sequence[str]) -> Tensor:
        """(B, 3, H, W).

        Raises:
            DataError: an image is missing or cannot be read.
        """
        return torch.cat([self._sight(name).tokens for name in names]).to(self._device)

    @torch.no_grad()
    def looks(self, viewer: Viewer, names: Sequence[str], *, quiet: bool = True) -> Looks:
        """What the viewer sees in each of these images."""
        unique = list(dict.fromkeys(names))
        parts: list[Look] = []
        with progress("looking", len(unique), quiet=quiet) as advance:
            for start in range(0, len(unique), ROWS):
                chosen = unique[start : start + ROWS]
                parts.append(viewer.look(self(chosen)))
                advance(len(chosen))
        return Looks(joined(parts), {name: i for i, name in enumerate(unique)})

    def routed(
        self, tuned: Looks, viewer: Viewer, frequencies: Frequencies, names: Sequence[str]
    ) -> tuple[Looks, float]:
        """Looks by the tuned encoder at what looks like its domain, by the original one elsewhere; see ``routing``.

        Returns:
            The looks, and the share of images that the tuned encoder has seen.
        """
        bare = Viewer(viewer.model, Changes(), Changes())
        original = self.looks(bare, names)
        chosen, own = routed(tuned.all, original.all, frequencies, viewer.model.tower)
        return Looks(chosen, tuned.places), float(own.float().mean())


class Looks:
    """Looks at many images, by name."""

    def __init__(self, everything: Look, places: dict[str, int]) -> None:
        self.all, self.places = everything, places

    def __call__(self, names: Sequence[str]) -> Look:
        """Those at the named images, in order."""
        rows = torch.tensor([self.places[name] for name in names], device=self.all.z.device)
        look = self.all
        return Look(
            look.z[rows],
            look.seen[rows],
            look.codes[rows],
            look.partials[:, rows],
            look.residual[rows],
        )


def joined(parts: Sequence[Look]) -> Look:
    """Looks at batches as one."""
    z, seen, codes, partials, residual = zip(*parts, strict=True)
    return Look(
        torch.cat(z), torch.cat(seen), torch.cat(codes), torch.cat(partials, 1), torch.cat(residual)
    )

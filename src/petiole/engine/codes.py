"""Which codes an encoder picks: how often each, and how far from the encoder as it was."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from petiole.backbones.lvlm import Look
from petiole.data.vl.sample import Sample
from petiole.engine.encoder_file import Frequencies
from petiole.engine.gallery import Gallery
from petiole.engine.viewer import Viewer
from petiole.layers.residual_quantiser import frequencies, perplexity
from petiole.methods.base import Changes

IMAGES = 64
"""Of a probe."""


class Probe:
    """How far an encoder has moved, by the codes of the same images each time (spec craft.md, 3.1)."""

    def __init__(self, viewer: Viewer, gallery: Gallery, samples: Sequence[Sample]) -> None:
        names = list(dict.fromkeys(sample.images[0] for sample in samples))[:IMAGES]
        self.viewer, self.pictures = viewer, gallery(names)
        with torch.no_grad():
            self.before = viewer.model.tower.look(self.pictures)

    @torch.no_grad()
    def diagnosis(self) -> dict[str, float]:
        """Share of codes that differ from the start's, perplexity of first codes, mean residual."""
        learning = self.viewer.training
        look = self.viewer.eval().look(self.pictures)  # dropout would count as movement
        self.viewer.train(learning)
        return {
            "flip_rate": float((look.codes != self.before.codes).float().mean()),
            "perplexity": perplexity(look.codes[..., 0], self.viewer.model.spec.entries),
            "residual": float(look.residual.mean()),
        }


def counts(
    viewer: Viewer, gallery: Gallery, samples: Sequence[Sample], *, quiet: bool = True
) -> Frequencies:
    """Frequencies of codes in the samples' images, each image once."""
    names = sorted({sample.images[0] for sample in samples})
    tuned = gallery.looks(viewer, names, quiet=quiet)
    original = tuned
    if viewer.changes_eye:
        bare = Viewer(viewer.model, Changes(), Changes())
        original = gallery.looks(bare, names, quiet=quiet)
    entries = viewer.model.spec.entries
    both = (code_frequencies(looks.all, entries) for looks in (tuned, original))
    return Frequencies(*both)


def code_frequencies(look: Look, entries: int) -> Tensor:
    """(D, K), add-one smoothed."""
    depths = look.codes.unbind(dim=-1)
    return torch.stack([frequencies(codes, entries) for codes in depths]).float()

"""A small CLIP whose text tower learned species names from few and partly wrong captions.

    image (3, 64, 64) -> 8 x 8 patches -> 6 blocks of width 128, trained with labels, then locked
    text -> words and syllables -> 3 blocks of width 192;   both -> 256 numbers, cosine

It was tuned as in LiT (Zhai et al., 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning"): the image tower is trained with
labels first and not touched while text tower and projections learn from captions. So its image vectors tell more than
its names do, as with CLIP itself on fine-grained data. It is transformers' ``CLIPModel``; `benchmarks/tiny_clip`
trained it, `docs/tiny-lit.md` says how good it is. The weights are ours, Apache-2.0; it has never seen a photograph.
"""

from __future__ import annotations

import re

from petiole.backbones.base import Backbone
from petiole.backbones.bundled.tiny_clip import ClipWords, built, config
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.weights import PACKAGED
from petiole.data.synthetic.scenes.species import SYLLABLES

WEIGHTS = PACKAGED / "tiny_lit.safetensors"
KNOWN = frozenset(SYLLABLES)


class SpeciesWords(ClipWords):
    """The words of tiny-clip, and one token a syllable for words that are made of nothing else."""

    def __init__(self) -> None:
        super().__init__()
        first = len(self)
        self.ids |= {syllable: first + i for i, syllable in enumerate(SYLLABLES)}

    def spelt(self, word: str) -> list[int]:
        parts = re.findall("..?", word)
        return [self.ids[p] for p in parts] if set(parts) <= KNOWN else super().spelt(word)


def shape() -> object:
    """The architecture."""
    return config(vocabulary=len(SpeciesWords()), joint=256, text_width=192, text_blocks=3)


@loader("petiole/tiny-lit")
def load(request: LoadRequest) -> Backbone:
    """The packaged model, or another training of the same architecture with --weights.

    Raises:
        BackboneError: another size is asked for, or weights do not fit.
    """
    return built(request, shape(), SpeciesWords(), WEIGHTS)

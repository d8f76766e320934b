"""A small CLIP that ships inside the package, trained on the generated world (``petiole.data.synthetic.scenes``).

    image (3, 64, 64) -> 8 x 8 patches -> 6 blocks of width 128
    text -> words -> 3 blocks of width 128;   both -> 128 numbers, cosine

It is transformers' ``CLIPModel`` with 1,869,953 parameters and a vocabulary of words. `benchmarks/tiny_clip` trained it,
`docs/tiny-clip.md` says how good it is. The weights are ours, Apache-2.0; it has never seen a photograph.
"""

from __future__ import annotations

import re
import string
from pathlib import Path
from typing import Any

import torch

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.clip import wrap
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.preprocessing import Preprocessing
from petiole.data.synthetic.scenes.grammar import words

WEIGHTS = Path(__file__).parent.parent / "weights" / "tiny_clip.safetensors"
SIZE, LONGEST = 64, 32


class ClipWords:
    """One token a word of the world's grammar; other words are spelt in letters.

    0 starts and 1 ends a text, 2 stands for what is neither word nor letter.
    """

    start, end, other = 0, 1, 2

    def __init__(self) -> None:
        letters = string.ascii_lowercase + string.digits
        known = [w for w in words() if w not in letters]
        self.ids = {word: i for i, word in enumerate([*known, *letters], start=3)}

    def __len__(self) -> int:
        return len(self.ids) + 3

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = []
        for word in re.findall(r"[a-z0-9]+|\.", text.lower()):
            ids += [self.ids[word]] if word in self.ids else self.spelt(word)
        return ids

    def spelt(self, word: str) -> list[int]:
        """The tokens of a word that is none of the grammar's."""
        return [self.ids.get(letter, self.other) for letter in word]


def config(
    *, vocabulary: int, joint: int = 128, text_width: int = 128, text_blocks: int = 3
) -> Any:
    """The architecture; the image tower is always the same."""
    from transformers import CLIPConfig

    return CLIPConfig(
        projection_dim=joint,
        text_config={
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_blocks,
            "num_attention_heads": 4,
            "vocab_size": vocabulary,
            "max_position_embeddings": LONGEST,
            "hidden_act": "quick_gelu",
            "bos_token_id": ClipWords.start,
            "eos_token_id": ClipWords.end,
            "pad_token_id": ClipWords.end,
        },
        vision_config={
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "patch_size": 8,
            "image_size": SIZE,
            "hidden_act": "quick_gelu",
        },
    )


def preprocessing() -> Preprocessing:
    """Pictures as they are, scaled to [-1, 1]."""
    return Preprocessing.symmetric(SIZE)


@loader("petiole/tiny-clip")
def load(request: LoadRequest) -> Backbone:
    """The packaged model, or another training of the same architecture with --weights.

    Raises:
        BackboneError: another size is asked for, or weights do not fit.
    """
    words = ClipWords()
    return built(request, config(vocabulary=len(words)), words, WEIGHTS)


def built(request: LoadRequest, shape: Any, words: ClipWords, weights: Path) -> Backbone:
    """A CLIP of this shape with packaged or given weights.

    Raises:
        BackboneError: another size is asked for, or weights do not fit.
    """
    from transformers import CLIPModel

    request.fixed_size(SIZE)
    with torch.device("meta" if request.meta else "cpu"):
        module = CLIPModel(shape)
    if not request.meta:
        file = request.weights or weights
        tensors = {name: t.float() for name, t in read_safetensors(file).items()}
        load_strictly(module, tensors, str(file))
    return wrap(request.name, module, preprocessing(), words)

"""A small BART that ships inside the package, to be given a vision encoder: every method of VL-Adapter without a network.

    text -> words -> 2 encoder and 2 decoder blocks of width 128;   36 visual tokens of petiole/tiny-grid beside them

Like BART it was pre-trained on text alone (sentences and questions about the generated world of ``petiole.data.synthetic.scenes``), and
has never seen a picture: its V->L block is a fresh start. `benchmarks/tiny_vl` trained it, `docs/tiny-vl.md` says how good it is.
The weights are ours, Apache-2.0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.bundled import tiny_grid
from petiole.backbones.bundled.word_list import WordList
from petiole.backbones.encoder_decoder.loading import architecture, with_visual
from petiole.backbones.encoder_decoder.model import Seq2Seq
from petiole.backbones.encoder_decoder.visual import VisualOptions
from petiole.backbones.registry import LoadRequest, loader
from petiole.backbones.weights import load_strictly, read_safetensors
from petiole.data.synthetic.scenes.language import language_words
from petiole.errors import BackboneError

WEIGHTS = Path(__file__).parent.parent / "weights" / "tiny_vl.safetensors"
LONGEST = 128
"""Tokens of a text, with the special ones."""

WORDS = "model.shared.weight"
TIED = ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", "lm_head.weight")
"""The word embedding's other names, which files leave out."""


class LanguageWords(WordList):
    """The words of the world's language, between a start and an end.

        red zebra.  ->  <s> red z ##e ##b ##r ##a . </s>

    3 stands for a sign that is not known, 4 for what denoising has hidden.
    """

    start, pad, end, unknown, mask = range(5)

    def __init__(self) -> None:
        super().__init__(language_words(), self.mask + 1, self.unknown)

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        """Ids from ``start`` to ``end``, at most LONGEST of them."""
        ids = [self.start, *self.split(text)]
        return [*ids[: min(most or LONGEST, LONGEST) - 1], self.end]


def config() -> dict[str, Any]:
    """The architecture, as BART's config.json states it."""
    depth, wide, rate = 2, 512, 0.1
    streams = {
        f"{stream}_{name}": value
        for stream in ("encoder", "decoder")
        for name, value in (("layers", depth), ("ffn_dim", wide), ("attention_heads", 4))
    }
    return {
        "model_type": "bart",
        "vocab_size": len(LanguageWords()),
        "d_model": 128,
        **streams,
        "max_position_embeddings": LONGEST,
        "dropout": rate,
        "attention_dropout": rate,
        "activation_dropout": rate,
        "bos_token_id": LanguageWords.start,
        "pad_token_id": LanguageWords.pad,
        "eos_token_id": LanguageWords.end,
        "decoder_start_token_id": LanguageWords.end,
        "forced_eos_token_id": LanguageWords.end,
    }


@loader("petiole/tiny-vl")
def load(request: LoadRequest) -> Seq2Seq:
    """The packaged model with a fresh V->L block, or another training of the same architecture with --weights.

    Raises:
        BackboneError: an image size is asked for, or weights do not fit.
        ConfigError: no such option of the V->L block.
    """
    if request.image_size:
        raise BackboneError(
            f"{request.name} sees features, not images, and has no image size. Leave it out."
        )
    with torch.device("meta" if request.meta else "cpu"):
        language, family = architecture(config())
        if not request.meta:
            fill(language.eval(), request.weights or WEIGHTS)
        model = with_visual(
            request.name,
            language,
            family,
            None if request.meta else LanguageWords(),
            vision_width=request.vision_width or tiny_grid.WIDTH,
            options=VisualOptions.of(request.options),
        )
    model.vision_backbone = "petiole/tiny-grid"
    return model


def fill(language: nn.Module, file: Path) -> None:
    """Load the language model's weights, completely.

    Raises:
        BackboneError: the file is missing, damaged, or of another architecture.
    """
    tensors = {name: tensor.float() for name, tensor in read_safetensors(file).items()}
    if WORDS in tensors:
        tensors |= dict.fromkeys(TIED, tensors[WORDS])
    load_strictly(language, tensors, str(file))


def stored(language: nn.Module) -> dict[str, Tensor]:
    """The weights as files hold them: in fp16, each once."""
    return {name: value.half() for name, value in language.state_dict().items() if name not in TIED}

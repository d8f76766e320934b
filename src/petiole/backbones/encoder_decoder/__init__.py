"""Encoder-decoder language models that can see: CLIP-BART, CLIP-T5, and BART or T5 of any size.

visual     frozen features of images -> tokens of the encoder (the V->L block)
model      the joint model: roles, encoding, logits, generation
bart, t5, bert   what differs between the families; BERT has no decoder
loading    names, folders and shapes
stored     files: transformers', ours, and VL-T5's
tokens     texts <-> ids
"""

from petiole.backbones.encoder_decoder import loading, stored
from petiole.backbones.encoder_decoder.model import Encoded, Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.tokens import LanguageTokenizer
from petiole.backbones.encoder_decoder.visual import VisualEmbedding, VisualOptions

__all__ = [
    "Encoded",
    "Inputs",
    "LanguageTokenizer",
    "Seq2Seq",
    "VisualEmbedding",
    "VisualOptions",
    "loading",
    "stored",
]

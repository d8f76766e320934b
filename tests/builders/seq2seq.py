"""Tiny BARTs and T5s whose weights are large enough that every part of them shows in the scores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.testing.encoder_decoder import build

WIDTH, SEEN, VOCABULARY = 16, 12, 40
BART: dict[str, Any] = {
    "model_type": "bart",
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "encoder_layers": 2,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 20,
    "max_position_embeddings": 32,
}
T5: dict[str, Any] = {
    "model_type": "t5",
    "vocab_size": VOCABULARY,
    "d_model": WIDTH,
    "d_kv": 5,
    "d_ff": 24,
    "num_layers": 2,
    "num_decoder_layers": 1,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}
GATED = {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
CONFIGS = {"bart": BART, "t5": T5, "t5-gated": GATED}


def model(kind: str, *, visual: bool = True, **options: Any) -> Seq2Seq:
    """One with random weights, in float32."""
    made = build(f"tiny-{kind}", CONFIGS[kind], None, SEEN if visual else 0, options)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / 2 + ("norm" in name and "weight" in name))
    return made


def inputs(*, rows: int = 3, length: int = 6, places: int = 4, images: int = 1) -> Inputs:
    """Random ids with padding behind the first row's last two; features of images, and their boxes."""
    generator = torch.Generator().manual_seed(2)
    mask = torch.ones(rows, length, dtype=torch.bool)
    mask[0, -2:] = False
    corner = torch.rand(rows, images * places, 2, generator=generator) / 2
    size = torch.rand(rows, images * places, 2, generator=generator) / 2
    return Inputs(
        ids=torch.randint(3, VOCABULARY, (rows, length), generator=generator),
        mask=mask,
        visual=torch.randn(rows, images * places, SEEN, generator=generator),
        boxes=torch.cat([corner, corner + size], dim=-1),
        images=images,
    )


def text_of(batch: Inputs) -> Inputs:
    """The same without images."""
    return replace(batch, visual=None, boxes=None)


def scores(made: Seq2Seq, batch: Inputs, length: int = 5) -> Tensor:
    """Scores of fixed answers, one of them padded."""
    labels = torch.arange(3, 3 + length).repeat(len(batch.ids), 1)
    labels[-1, -1] = -100
    with torch.no_grad():
        return made.logits(made.encode(batch), labels)


WORDS = ("what", "is", "red", "true", "false", "a", "dog", "cat", "two", "yes", "no")


def save_tokenizer(folder: Path, kind: str) -> None:
    """A tokenizer of few words with the family's own special ids, as tokenizer.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>"] if kind == "bart" else ["<pad>", "</s>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *WORDS])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    first = "<s> " if kind == "bart" else ""
    raw.post_processor = processors.TemplateProcessing(
        single=f"{first}$A </s>", special_tokens=[(token, vocabulary[token]) for token in special]
    )
    named = {"bos_token": "<s>"} if kind == "bart" else {}
    PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", **named
    ).save_pretrained(folder)

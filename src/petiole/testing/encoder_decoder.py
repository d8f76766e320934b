"""Tiny language models with images, a tokenizer of words, and tasks that live in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.encoder_decoder.loading import architecture, with_visual
from petiole.backbones.encoder_decoder.visual import VisualOptions
from petiole.data.text_sample import TextSample
from petiole.engine.run import RunSpec
from petiole.tasks.text.collator import TaskData
from petiole.tasks.text.registry import find
from petiole.tasks.text.visual import InMemoryVisuals
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace

Family = Literal["bart", "t5", "bert"]
FAMILIES: tuple[Family, ...] = ("bart", "t5")
M = TypeVar("M", bound=nn.Module)
WIDTH, SEEN, PLACES, IMAGES = 32, 16, 4, 6
VOCABULARY = ["red", "blue", "two", "true", "false", "a", "dog", "what", "is", "it", "both", "are"]

CONFIGS: dict[str, dict[str, Any]] = {
    "bart": {
        "d_model": WIDTH,
        "encoder_layers": 2,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 64,
    },
    "bert": {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "pad_token_id": 1,
    },
    "t5": {
        "d_model": WIDTH,
        "d_kv": 8,
        "d_ff": 48,
        "num_layers": 2,
        "num_heads": 4,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "bos_token_id": 0,
        "decoder_start_token_id": 1,
    },
}


class Words:
    """0 starts, 1 pads, 2 ends; then the vocabulary; 3 is everything else."""

    pad = 1

    def __init__(self) -> None:
        self.ids = {word: i for i, word in enumerate(VOCABULARY, start=4)}

    def __len__(self) -> int:
        return len(self.ids) + 4

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        ids = [self.ids.get(word, 3) for word in text.split()]
        return [0, *ids[: None if most is None else most - 2], 2]

    def decode(self, ids: Sequence[int]) -> str:
        names = {i: word for word, i in self.ids.items()}
        return " ".join(names[i] for i in ids if i in names)


def model(family: Family = "bart", *, seen: int = SEEN, **options: Any) -> Seq2Seq:
    """Random weights, the same at every call."""
    words = Words()
    config = {"model_type": family, "vocab_size": len(words), **CONFIGS[family]}
    return build(f"tiny-{family}", config, words, seen, options)


def build(
    name: str, config: dict[str, Any], words: Words | None, seen: int, options: dict[str, Any]
) -> Seq2Seq:
    """A language model of this configuration that sees features of width ``seen``; 0 for none."""
    language, reading = architecture(config)
    visual = VisualOptions(**options)
    return with_visual(name, language, reading, words, vision_width=seen, options=visual)


def strong(family: Family) -> Seq2Seq:
    """Weights large enough for every part of it to matter."""
    made = model(family)
    parts = {n: p for n, p in made.module.named_parameters() if "norm" not in n}
    _shift(parts, seed=1)
    return made


def moved(module: M, seed: int = 5) -> M:
    """With every parameter elsewhere: trained, as far as numbers can tell."""
    _shift(dict(module.named_parameters()), seed)
    return module


def _shift(parameters: dict[str, nn.Parameter], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 5)


def sight(images: int = IMAGES) -> InMemoryVisuals:
    """Random features of images i0, i1, ..."""
    generator = torch.Generator().manual_seed(7)
    return InMemoryVisuals(
        {f"i{k}": torch.randn(PLACES, SEEN, generator=generator) for k in range(images)}, "made up"
    )


def tasks(images: int = IMAGES) -> list[TaskData]:
    """VQA, pairs with true or false, captions: one sample for each image."""
    seen = sight(images)
    colours = [VOCABULARY[k % 2] for k in range(images)]
    vqa = tuple(
        TextSample(
            str(k), "what is it", (f"i{k}",), {colours[k]: 1.0, "two": 0.3}, (colours[k],) * 10
        )
        for k in range(images)
    )
    pairs = tuple(
        TextSample(
            str(k),
            "both are red",
            (f"i{k}", f"i{(k + 1) % images}"),
            {("true", "false")[k % 2]: 1.0},
            (("true", "false")[k % 2],),
            group=str(k // 2),
        )
        for k in range(images)
    )
    captions = tuple(
        TextSample(
            str(k), "", (f"i{k}",), {f"a {colours[k]} dog": 1.0}, (f"a {colours[k]} dog", "a dog")
        )
        for k in range(images)
    )
    return [
        TaskData(find(name), {"train": part, "val": part, "test": part}, seen, name)
        for name, part in (("vqa", vqa), ("nlvr", pairs), ("caption", captions))
    ]


def text_run(
    folder: Path,
    method: str = "vl-adapter",
    settings: Mapping[str, Any] | None = None,
    *,
    data: Sequence[TaskData] | None = None,
    **changes: Any,
) -> tuple[RunSpec, TextWorkspace]:
    """A run on the tiny model and these tasks, both opened; ``changes`` are of its ``RunSpec``."""
    given = tuple(tasks() if data is None else data)
    task = TextGeneration("tiny-bart", tuple(one.name for one in given), quiet=True)
    spec = RunSpec(task, method, folder, settings or {}, checkpoint_seconds=0, **changes)
    return spec, TextWorkspace(task, model(), given)

"""A tiny CLIP with random weights and a tokenizer of letters, built offline and seeded."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

from petiole.backbones.dual_encoder import clip
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.testing.random_weights import HF_PREPROCESSOR, preprocessing, seeded, shaken

VOCABULARY, LONGEST = 40, 48
CONFIG = {
    "model_type": "clip",
    "projection_dim": 18,
    "text_config": {
        "hidden_size": 20,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": LONGEST,
        "hidden_act": "quick_gelu",
        "bos_token_id": 38,
        "eos_token_id": 39,
        "pad_token_id": 39,
    },
    "vision_config": {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "patch_size": 14,
        "image_size": 28,
        "hidden_act": "quick_gelu",
    },
}


class Letters:
    """One token a letter, 1 to 26; a space is 27, a full stop 28."""

    start, end = 38, 39

    def __call__(self, text: str) -> list[int]:
        own = {" ": 27, ".": 28}
        return [own.get(c, 1 + (ord(c) - ord("a")) % 26) for c in text.lower()]


def model(seed: int = 0) -> CLIPModel:
    """Random weights, the same at every call."""
    with seeded(seed):
        module = shaken(CLIPModel(CLIPConfig(**CONFIG)))
        assert isinstance(module, CLIPModel)
        return module.eval()


def towers(seed: int = 0) -> TwoTowers:
    """The model as a backbone."""
    return clip.wrap("test/clip", model(seed), preprocessing(), Letters())


def folder(path: Path, *, tokenizer: bool = False) -> Path:
    """As Hugging Face writes it; its tokenizer knows letters, full stops and no merges."""
    path.mkdir(parents=True, exist_ok=True)
    config = json.loads(json.dumps(CONFIG))
    if tokenizer:
        letters = "abcdefghijklmnopqrstuvwxyz."
        words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
        vocabulary = {word: i for i, word in enumerate(words)}
        (path / "vocab.json").write_text(json.dumps(vocabulary))
        (path / "merges.txt").write_text("#version: 0.2\n")
        start, end = len(words) - 2, len(words) - 1
        own = {"bos_token_id": start, "eos_token_id": end, "pad_token_id": end}
        config["text_config"] |= {"vocab_size": len(words), **own}
    with seeded():
        module = shaken(CLIPModel(CLIPConfig(**config)))
    save_file(module.state_dict(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    (path / "preprocessor_config.json").write_text(json.dumps(HF_PREPROCESSOR))
    return path

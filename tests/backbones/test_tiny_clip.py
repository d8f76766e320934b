"""The packaged CLIP: that it loads as it was trained, and names what it has never seen."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import petiole
from petiole.backbones.bundled.tiny_clip import LONGEST, WEIGHTS, ClipWords
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.data.preprocessing import evaluate_transform
from petiole.data.synthetic.scenes import TASKS, class_name, compositions, render, words
from petiole.errors import BackboneError
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead


def test_the_tokenizer_spells_what_it_does_not_know() -> None:
    tokenizer = ClipWords()
    assert len(set(tokenizer.ids.values())) == len(tokenizer) - 3
    assert len(tokenizer("a photo of a striped red star.")) == 8
    assert len(tokenizer("zebra")) == 5
    assert tokenizer("Zebra 7") == tokenizer("zebra 7")
    assert min(tokenizer.ids.values()) > max(ClipWords.start, ClipWords.end, ClipWords.other)
    assert all(len(tokenizer(word)) == 1 for word in words())
    longest = max(len(tokenizer(f"a photo of a {class_name(k)}.")) for k in compositions())
    assert longest + 2 <= LONGEST


def test_it_is_small_and_takes_one_size() -> None:
    assert WEIGHTS.stat().st_size <= 8_000_000
    with pytest.raises(BackboneError, match="takes 64 px only"):
        petiole.load("petiole/tiny-clip", image_size=96)
    shape = petiole.load("petiole/tiny-clip", device="meta")
    assert shape.parameter_count == 1_869_953


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "w.safetensors"
    damaged.write_bytes(WEIGHTS.read_bytes()[:-100])
    with pytest.raises(BackboneError, match=r"w\.safetensors"):
        petiole.load("petiole/tiny-clip", weights=damaged)


def test_it_names_compositions_that_it_never_saw() -> None:
    """62.5 % in docs/tiny-clip.md, chance 2.5; the bound leaves room for 200 pictures and rounding."""
    towers = petiole.load("petiole/tiny-clip")
    assert isinstance(towers, TwoTowers)
    task, transform = TASKS["compositions"], evaluate_transform(towers.preprocessing)
    labels = [i % len(task.classes) for i in range(200)]
    pictures = torch.stack(
        [
            transform(render(task.draw(label, np.random.default_rng([i, label])), i))
            for i, label in enumerate(labels)
        ]
    )
    head = TextHead(towers, len(task.classes), SentenceTemplate())
    head.rename(task.classes)
    with torch.no_grad():
        vectors = towers.lower(pictures, ("final.image",))["final.image"]
        accuracy = float((head(vectors).argmax(1) == torch.tensor(labels)).float().mean())
    assert accuracy > 0.5

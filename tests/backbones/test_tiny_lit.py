"""The packaged locked-image CLIP: its words, its species, and that its images tell more than its names do."""

from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import torch

import petiole
from petiole.backbones.bundled.tiny_clip import ClipWords
from petiole.backbones.bundled.tiny_lit import WEIGHTS, SpeciesWords
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.data.preprocessing import evaluate_transform
from petiole.data.synthetic.scenes import TASKS, Scene, compositions, render, words
from petiole.data.synthetic.scenes.species import (
    MISNAMED,
    NAMED,
    SYLLABLES,
    alt_text,
    lookalikes,
    name_of,
    species,
)
from petiole.layers.solved import ClassMeansHead
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead


def test_species_have_names_and_kinds_of_their_own() -> None:
    kinds = species()
    assert len(kinds) == len(set(kinds.values())) == len(TASKS["species"].classes) == 120
    assert set(kinds.values()) <= set(compositions(held=False))
    assert set(kinds) <= {a + b for a, b in product(SYLLABLES, SYLLABLES)} - set(words())
    assert {name_of()[kind]: kind for kind in kinds.values()} == kinds
    for name, others in ((name, lookalikes(name)) for name in kinds):
        assert others
        own = vars(kinds[name])
        shared = [
            sum(value == own[part] for part, value in vars(kinds[other]).items())
            for other in others
        ]
        assert len(set(shared)) == 1
        assert shared[0] in (1, 2)


def test_captions_name_a_species_seldom_and_sometimes_wrongly() -> None:
    name, kind = next(iter(species().items()))
    rng, scene, drawn = np.random.default_rng(0), Scene(kind, 1, "small", "clear"), 4000
    said = Counter(
        word
        for _ in range(drawn)
        for word in alt_text(scene, rng).strip(".").split()
        if word in species()
    )
    assert set(said) == {name, *lookalikes(name)}
    assert abs(said.total() / drawn - NAMED) < 0.02
    assert abs(1 - said[name] / said.total() - MISNAMED) < 0.05
    unnamed = next(kind for kind in compositions(held=False) if kind not in name_of())
    texts = {alt_text(Scene(unnamed, 1, "small", "clear"), rng) for _ in range(200)}
    assert not any(word in species() for text in texts for word in text.strip(".").split())


def test_names_are_syllables_and_all_other_words_as_before() -> None:
    own, plain = SpeciesWords(), ClipWords()
    assert len(set(own.ids.values())) == len(own) - 3
    assert all(len(own(name)) == 2 for name in species())
    assert len({tuple(own(name)) for name in species()}) == 120
    assert not set(SYLLABLES) & set(words())
    for text in ("a photo of a striped red star.", "zebra 7", "zzz bak"):
        assert own(text) == plain(text)


@torch.no_grad()
def test_images_tell_more_than_names_do() -> None:
    """Bounds leave room: docs/tiny-lit.md has the figures."""
    assert WEIGHTS.stat().st_size < 12e6
    towers, task = petiole.load("petiole/tiny-lit"), TASKS["species"]
    assert isinstance(towers, TwoTowers)
    assert towers.width >= 256
    assert 90 < float(towers.scale) <= 100.1
    transform = evaluate_transform(towers.preprocessing)

    def vectors(seed: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
        labels = [label for label in range(0, 120, 4) for _ in range(each)]
        rngs = [np.random.default_rng([seed, i, label]) for i, label in enumerate(labels)]
        pictures = [
            transform(render(task.draw(label, rng), int(rng.integers(2**31))))
            for label, rng in zip(labels, rngs, strict=True)
        ]
        found = towers.lower(torch.stack(pictures), ("final.image",))["final.image"]
        return found, torch.tensor(labels) // 4

    (shots, taught), (tested, labels) = vectors(0, 8), vectors(1, 8)
    means, names = ClassMeansHead(towers.width, 30), TextHead(towers, 30, SentenceTemplate())
    means.solve(shots, taught, torch.ones(len(taught), dtype=torch.bool))
    names.rename(task.classes[::4])
    by_means, by_names = (
        float((head(tested).argmax(1) == labels).float().mean()) for head in (means, names)
    )
    assert by_names > 5 / 30
    assert by_means > by_names + 0.1

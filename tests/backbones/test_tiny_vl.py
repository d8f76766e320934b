"""The packaged language model and its vision: that they load as they were trained, and what each knows alone."""

from __future__ import annotations

import hashlib
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import petiole
from petiole.backbones.bundled import tiny_grid, tiny_vl
from petiole.backbones.bundled.tiny_vl import LONGEST, LanguageWords
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.loading import load_language_model
from petiole.backbones.encoder_decoder.tokens import padded
from petiole.backbones.registry import LoadRequest, load_any
from petiole.data.preprocessing import evaluate_transform
from petiole.data.synthetic.scenes.language import readings, statements
from petiole.data.synthetic.scenes.render import render_objects
from petiole.data.synthetic.scenes.scene import SEEN, SceneObject, compositions
from petiole.errors import BackboneError, ConfigError


@pytest.fixture(scope="module")
def model() -> Seq2Seq:
    return load_language_model("petiole/tiny-vl")


def said(model: Seq2Seq, texts: list[str]) -> list[str]:
    assert model.tokenizer is not None
    ids = padded([model.tokenizer(text) for text in texts], LanguageWords.pad)
    rows = model.generate(model.encode(Inputs(ids, ids != LanguageWords.pad)), longest=8)
    return [model.tokenizer.decode(row) for row in rows]


def test_every_text_of_the_world_survives_the_tokenizer() -> None:
    words = LanguageWords()
    rng = np.random.default_rng(0)
    texts = list(islice(statements(rng), 200))
    for one in islice(readings(rng), 200):
        texts += [one.question.lower().strip(), one.context, one.answer]
        assert len(words(f"how2qa: {one.question} {one.context}")) <= LONGEST
    for text in texts:
        ids = words(text)
        assert words.decode(ids) == text
        assert words.other not in ids
        assert (ids[0], ids[-1]) == (words.start, words.end)


def test_other_words_are_spelt_and_come_back() -> None:
    words = LanguageWords()
    assert words.decode(words("A zebra, 42 red x7!")) == "a zebra, 42 red x7"
    assert len(words("zebra")) == 2 + 5
    assert words.decode([words.start, words.pad, words.end]) == ""
    assert words.decode(words("zebra")[2:]) == "ebra"


def test_a_text_that_is_cut_keeps_its_end() -> None:
    words = LanguageWords()
    ids = words("one two three four red blue", 5)
    assert len(ids) == 5
    assert ids[-1] == words.end
    assert ids[:4] == words("one two three four red blue")[:4]
    assert len(words("star " * 500, 600)) == len(words("star " * 500)) == LONGEST


def test_the_ids_are_those_of_the_training() -> None:
    """The weights know words by number only, so a word more in the middle of the list would spoil them."""
    listed = "\n".join(LanguageWords().words)
    assert len(LanguageWords()) == 231
    assert hashlib.sha256(listed.encode()).hexdigest()[:16] == "748501d6c3670efe"


def test_both_are_small() -> None:
    assert tiny_grid.WEIGHTS.stat().st_size + tiny_vl.WEIGHTS.stat().st_size <= 8_000_000
    assert petiole.load("petiole/tiny-grid", device="meta").parameter_count == 563_120
    alone = load_language_model("petiole/tiny-vl", device="meta")
    assert alone.module.visual is not None
    vision = sum(p.numel() for p in alone.module.visual.parameters())
    assert alone.parameter_count - vision == 989_056


def test_the_vision_fit_the_language_model(model: Seq2Seq) -> None:
    vision = petiole.load(model.vision_backbone)
    tokens = vision.lower(torch.zeros(2, 3, 64, 64), ("final.map",))["final.map"]
    assert tokens.shape == (2, 64, model.vision_width)
    assert bool((tokens >= 0).all())
    assert vision.width_of(vision.vector) == vision.width_of(vision.patches)
    assert not model.trained_visual


def test_other_features_can_be_seen_too() -> None:
    model = load_any(LoadRequest("petiole/tiny-vl", vision_width=320, options={"norms": "sum"}))
    assert isinstance(model, Seq2Seq)
    assert model.vision_width == 320
    with pytest.raises(ConfigError, match="colour"):
        load_language_model("petiole/tiny-vl", options={"colour": 1})


@pytest.mark.parametrize("name", ["petiole/tiny-vl", "petiole/tiny-grid"])
def test_another_image_size_and_damaged_weights_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="eave"):
        load_any(LoadRequest(name, image_size=96))
    file = (tiny_vl if name.endswith("vl") else tiny_grid).WEIGHTS
    damaged = tmp_path / "w.safetensors"
    damaged.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BackboneError, match=r"w\.safetensors"):
        load_any(LoadRequest(name, weights=damaged))


def test_weights_of_the_one_are_not_the_others() -> None:
    with pytest.raises(BackboneError, match="do not fit"):
        load_any(LoadRequest("petiole/tiny-vl", weights=tiny_grid.WEIGHTS))


def test_it_reads_answers_from_texts_and_cannot_guess_them(model: Seq2Seq) -> None:
    """docs/tiny-vl.md has the numbers of single questions; the bounds leave room for 80 of them."""
    found = (one for one in readings(np.random.default_rng(77)) if one.task == "vqa")
    asked = list(islice(found, 80))
    right = [one.answer for one in asked]
    full = said(model, [f"{one.question} {one.context}" for one in asked])
    blind = said(model, [one.question for one in asked])
    assert np.mean([a == b for a, b in zip(full, right, strict=True)]) > 0.7
    assert np.mean([a == b for a, b in zip(blind, right, strict=True)]) < 0.4


def pictures(label: int, part: str, held: bool, count: int) -> Tensor:
    """Lone things of one colour or shape, anywhere."""
    transform = evaluate_transform(tiny_grid.preprocessing())
    kinds = [k for k in compositions(held=held) if getattr(k, part) == label]
    rows = []
    for i in range(count):
        rng = np.random.default_rng([label, held, i])
        x, y = rng.uniform(0.25, 0.75, 2)
        thing = SceneObject(kinds[rng.integers(len(kinds))], float(x), float(y), 0.2)
        rows.append(transform(render_objects([thing], SEEN[i % 4], i)))
    return torch.stack(rows)


def test_a_grid_gives_the_numbers_that_its_features_were_stored_with() -> None:
    ramp = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        seen = petiole.load("petiole/tiny-grid")(ramp)
    told = (seen.mean(), seen.std(), seen[0, 0], seen[0, -1])
    assert [float(value) for value in told] == pytest.approx([1.4861, 1.8114, 0.0064, 1.689], abs=2e-3)  # fmt: skip


@pytest.mark.parametrize(("part", "classes"), [("colour", 10), ("shape", 12)])
def test_the_vision_tell_colours_and_shapes_of_unseen_compositions(part: str, classes: int) -> None:
    """By ridge regression from the largest value of each channel, learned on 20 pictures a class of seen compositions."""
    vision = petiole.load("petiole/tiny-grid")

    def largest(held: bool, count: int) -> Tensor:
        images = torch.cat([pictures(label, part, held, count) for label in range(classes)])
        values = vision.lower(images, ("final.map",))["final.map"].amax(1).double()
        return torch.cat([values, torch.ones(len(values), 1)], dim=1)

    known = largest(held=False, count=20)
    wanted = torch.eye(classes).double().repeat_interleave(20, dim=0)
    gram = known.T @ known + torch.eye(known.shape[1])
    scores = largest(held=True, count=8) @ torch.linalg.solve(gram, known.T @ wanted)
    right = scores.argmax(1) == torch.arange(classes).repeat_interleave(8)
    assert float(right.float().mean()) > 0.8

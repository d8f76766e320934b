"""What makes two networks a pair: the regression by hand, sentences of any length, numbers that mean nothing, the folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.engine import pairing
from petiole.errors import ConfigError
from petiole.files import read_tensors


def test_the_ridge_solves_its_equation() -> None:
    """P (E^T E + penalty I) = W^T E."""
    generator = torch.Generator().manual_seed(0)
    e, w = (torch.randn(5, width, generator=generator) for width in (3, 2))
    found = pairing.ridge(e, w, 4.0)
    assert found.shape == (2, 3)
    left = found @ (e.T @ e + 4.0 * torch.eye(3))
    torch.testing.assert_close(left, w.T @ e, rtol=1e-4, atol=1e-5)


class Words:
    """A word a letter."""

    start, end = 7, 9

    def __call__(self, text: str) -> list[int]:
        return [int(letter) for letter in text]


def test_sentences_are_filled_up_with_their_end_and_taken_in_chunks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[list[list[int]]] = []

    def encode(ids: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        seen.append(ids.tolist())
        return ids[:, 1:3].float()

    def tower(text: Any, projection: nn.Module, words: Words) -> Any:
        assert (text, type(projection), words) == ("network", nn.Identity, given)
        return SimpleNamespace(encode=encode)

    given: Any = Words()
    monkeypatch.setattr(pairing.bert, "tower", tower)
    monkeypatch.setattr(pairing, "CHUNK", 2)
    found = pairing.sentence_vectors("network", given, ["3", "345", "12"])
    assert seen == [[[7, 3, 9, 9, 9], [7, 3, 4, 5, 9]], [[7, 1, 2, 9]]]
    wanted = torch.tensor([[3.0, 9.0], [3.0, 4.0], [1.0, 2.0]])
    torch.testing.assert_close(found, normalize(wanted, dim=1))


class Captioned:
    """A table of three pictures, two of them of a dog."""

    classes = ("a cat", "a dog")
    samples = tuple(SimpleNamespace(label=label) for label in (1, 0, 1))

    def __len__(self) -> int:
        return len(self.samples)


def test_pictures_move_the_bar_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []

    class Bar:
        def __init__(self, *of: Any, **how: Any) -> None:
            moved.append((of, how))

        def __enter__(self) -> Any:
            return moved.append

        def __exit__(self, *_: object) -> None: ...

    data = Captioned()
    image: Any = SimpleNamespace(
        preprocessing=None, vector="v", lower=lambda pixels, cut: {cut[0]: pixels}
    )
    monkeypatch.setattr(pairing, "progress", Bar)
    monkeypatch.setattr(pairing, "open_table", lambda _: data)
    monkeypatch.setattr(pairing, "evaluate_transform", lambda _: lambda label: torch.tensor([3.0, 4.0 * label]))  # fmt: skip
    monkeypatch.setattr(pairing, "load", lambda sample: sample.label)
    texts, vectors = pairing.seen(image, tmp_path, quiet=True)
    assert texts == ["a dog", "a cat", "a dog"]
    torch.testing.assert_close(vectors, torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.6, 0.8]]))
    assert moved == [(("pictures", 3), {"quiet": True}), 1, 1, 1]


@pytest.mark.parametrize(
    ("penalty", "scale", "texts", "said"),
    [
        (0.0, 1.0, 2, "penalty and scale are positive, not 0.0 and 1.0"),
        (0.5, 0.0, 2, "penalty and scale are positive, not 0.5 and 0.0"),
        (0.5, 0.5, 3, "3 texts, but 2 targets"),
    ],
)
def test_numbers_that_mean_nothing_are_refused(
    penalty: float, scale: float, texts: int, said: str
) -> None:
    image: Any = None
    with pytest.raises(ConfigError, match=said):
        pairing.make(image, Path(), ["a"] * texts, torch.ones(2, 3), penalty=penalty, scale=scale)


@pytest.mark.parametrize("projection", [True, False])
def test_what_a_pair_is_made_of(
    projection: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, image = nn.Dropout(0.5), SimpleNamespace(width=3)
    targets = torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]])
    loaded: list[Any] = []

    def vectors(text: nn.Module, tokenizer: Any, texts: list[str]) -> Tensor:
        assert loaded, "the weights are there"
        assert not text.training
        assert (tokenizer, texts) == (("words of", tmp_path), ["a", "b"])
        return torch.eye(2)

    def build(folder: Path, *, meta: bool) -> nn.Module:
        assert (folder, meta) == (tmp_path, False)
        return network

    monkeypatch.setattr(pairing.bert, "build", build)
    monkeypatch.setattr(pairing.bert, "own_tensors", lambda tensors: ("own", tensors))
    monkeypatch.setattr(pairing, "read_safetensors", lambda file: file.name)
    monkeypatch.setattr(pairing, "load_strictly", lambda *of: loaded.append(of))
    monkeypatch.setattr(pairing, "FolderTokenizer", lambda folder: ("words of", folder))
    monkeypatch.setattr(pairing, "sentence_vectors", vectors)
    monkeypatch.setattr(pairing, "join", lambda *of: of)
    towers, tensors = pairing.make(
        image, tmp_path, ["a", "b"], targets, penalty=1.0, scale=4.0, image_projection=projection  # type: ignore[arg-type]
    )  # fmt: skip
    file = str(tmp_path / "model.safetensors")
    assert loaded == [(network, ("own", "model.safetensors"), file)]
    assert towers == ("pair", image, network, tensors, ("words of", tmp_path))
    torch.testing.assert_close(tensors["text.weight"], targets.T / 2)
    assert float(tensors["logit_scale"]) == pytest.approx(math.log(4.0))
    assert ("image.weight" in tensors) == projection
    assert not projection or torch.equal(tensors["image.weight"], torch.eye(3))


@pytest.mark.parametrize("weights", [None, Path("w.safetensors")])
def test_a_folder_holds_the_text_encoder_and_says_which_images(
    weights: Path | None, tmp_path: Path
) -> None:
    text = tmp_path / "bert"
    text.mkdir()
    for name in ("config.json", "vocab.txt", "m.safetensors", "spm.model", "notes.md"):
        (text / name).write_text(name)
    folder = tmp_path / "runs" / "pair"
    tensors = {"text.weight": torch.ones(2, 3)}
    pairing.save(folder, tensors, text, image="vit", image_weights=weights, image_size=None)
    copied = {file.name: file.read_text() for file in (folder / "text").iterdir()}
    assert copied == {n: n for n in ("config.json", "vocab.txt", "m.safetensors", "spm.model")}
    assert torch.equal(
        read_tensors(folder / pairing.PROJECTIONS)[0]["text.weight"], torch.ones(2, 3)
    )
    stated = (folder / "config.json").read_text()
    wanted = {"image_weights": str(Path("w.safetensors").absolute())} if weights else {}
    assert json.loads(stated).items() >= {"image": "vit", "text": "text", **wanted}.items()
    assert "null" not in stated, "what is not chosen is left out"
    assert '\n  "image": "vit"' in stated

"""How texts are laid out, hidden and pooled, by towers without blocks whose vectors are known by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.dual_encoder.text_tower import (
    CausalTower,
    MeanTower,
    PaddedTower,
    TextTower,
)
from petiole.errors import ConfigError

START, END, PAD = 3, 1, 0


class Words:
    """Each letter is its place in the alphabet behind the marks: d is 7."""

    def __init__(self, start: int | None = START) -> None:
        self.start, self.end = start, END

    def __call__(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 4 for letter in text]


def tower(kind: type[TextTower], tokenizer: Any = None, **more: Any) -> Any:
    embed = nn.Embedding(12, 2)
    embed.weight.data = torch.arange(24.0).reshape(12, 2)

    def step(_: nn.Module, tokens: Tensor, mask: Tensor | None) -> Tensor:
        raise AssertionError((tokens, mask))

    return kind(
        embed=embed,
        place=lambda words: words,
        blocks=[],
        step=step,
        norm=nn.Identity(),
        project=nn.Identity(),
        width=2,
        longest=5,
        tokenizer=tokenizer,
        **more,
    )


def test_texts_stand_between_their_marks_and_are_filled_up_with_ends() -> None:
    marked = tower(CausalTower, Words())
    assert marked.tokenise(["ab", "c", ""]).tolist() == [[3, 4, 5, 1], [3, 6, 1, 1], [3, 1, 1, 1]]
    assert marked.first == 1
    unmarked = tower(CausalTower, Words(start=None))
    assert unmarked.tokenise(["ab", "c"]).tolist() == [[4, 5, 1], [6, 1, 1]]
    assert unmarked.first == 0
    assert tower(CausalTower).first == 1
    assert marked.tokenise([]).shape == (0,)
    with pytest.raises(ConfigError, match="only the shape of a model, which has no tokenizer"):
        tower(CausalTower).tokenise(["a"])


def test_each_kind_pools_its_own_token() -> None:
    ids = torch.tensor([[3, 4, 1, 1, 1, 1], [3, 1, 1, 1, 1, 1]])
    causal = tower(CausalTower, Words())
    assert causal.encode(ids).tolist() == [[2, 3], [2, 3]]  # of the end token
    means = tower(MeanTower, Words()).encode(ids)
    torch.testing.assert_close(means, torch.tensor([[16 / 3, 19 / 3], [4.0, 5.0]]))
    assert tower(PaddedTower, Words(), padding=PAD).encode(ids).tolist() == [[0, 1], [0, 1]]
    with pytest.raises(ConfigError, match="A text has 6 tokens, and this text tower takes 5"):
        causal.encode(ids, trimmed=True)
    assert causal.encode(ids[:, :5], trimmed=True).tolist() == [[2, 3], [2, 3]]
    # A shape has no tokenizer; its texts end at the last slot.
    assert tower(CausalTower).encode(torch.tensor([[5, 4, 2]])).tolist() == [[4, 5]]


def test_what_a_token_sees() -> None:
    tokens, ends = torch.zeros(2, 3, 2), torch.tensor([2, 0])
    low = torch.finfo(torch.float32).min
    causal = tower(CausalTower).mask(tokens, ends)
    assert causal.tolist() == [[[[0, low, low], [0, 0, low], [0, 0, 0]]]]
    half = tower(CausalTower).mask(tokens.half(), ends)
    assert half.dtype == torch.half
    assert torch.isfinite(half).all()
    assert tower(MeanTower).mask(tokens, ends).tolist() == [[[[0, 0, 0]]], [[[0, low, low]]]]
    assert tower(PaddedTower).mask(tokens, ends) is None


def test_all_slots_of_a_padded_tower_are_filled() -> None:
    ids = torch.tensor([[7, 8, 1, 1, 5, 5, 5], [7, 8, 9, 9, 9, 9, 1]])
    padded = tower(PaddedTower, Words(), padding=PAD)
    assert padded.fitted(ids, 3).tolist() == [[7, 8, 1, 0, 0], [7, 8, 9, 9, 9]]
    assert padded.fitted(ids[:, :3], 3).tolist() == [[7, 8, 1, 0, 0], [7, 8, 9, 0, 0]]
    shape = tower(PaddedTower)  # without a tokenizer a text ends with padding, which is 1
    assert shape.fitted(ids[:1, :4], 4).tolist() == [[7, 8, 1, 1, 1]]
    meta = shape.fitted(ids.to("meta"), 3)
    assert (meta.shape, meta.is_meta) == ((2, 5), True)

"""Small parts of language models: streams, masks, roles, grids and rows of ids, by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from petiole.backbones.codebook_lvlm import causal
from petiole.backbones.codebook_lvlm.codebook import _short
from petiole.backbones.codebook_lvlm.tower import ContrastHeads
from petiole.backbones.encoder_decoder.model import (
    Inputs,
    attention_sites,
    bars,
    block_role,
    joined,
    mlp_sites,
)
from petiole.backbones.encoder_decoder.tokens import padded
from petiole.backbones.encoder_decoder.visual import _cells
from petiole.errors import ConfigError


def test_text_comes_first_in_its_own_precision_and_is_dropped_out_in_training_alone() -> None:
    text, seen = torch.ones(1, 2, 3, dtype=torch.half), torch.full((1, 1, 3), 2.0)
    both = joined(text, seen, 1.0, training=False)
    assert (both.dtype, both[0, :, 0].tolist()) == (torch.half, [1, 1, 2])
    assert joined(text, None, 1.0, training=False).tolist() == text.tolist()
    assert not joined(text, seen, 1.0, training=True).any()


def test_what_is_barred_gets_the_lowest_number_of_its_type() -> None:
    for dtype in (torch.float32, torch.half):
        barred = bars(torch.tensor([[True, False, True]]), dtype)
        assert (barred.dtype, barred.tolist()) == (dtype, [[[[0, torch.finfo(dtype).min, 0]]]])


def test_roles_are_as_wide_as_their_layers() -> None:
    q, k, v, out = nn.Linear(2, 6), nn.Linear(3, 6), nn.Linear(4, 6), nn.Linear(6, 5)
    told = {
        role: (s.module, s.side, s.width) for role, s in attention_sites("a", q, k, v, out).items()
    }
    assert told == {
        "a.in": (q, "in", 2),
        "a.memory": (v, "in", 2),
        "a.q": (q, "out", 6),
        "a.k": (k, "out", 6),
        "a.v": (v, "out", 6),
        "a.out": (out, "out", 5),
    }
    told = {role: (s.module, s.side, s.width) for role, s in mlp_sites("m", q, out).items()}
    assert told == {"m.in": (q, "in", 2), "m.hidden": (q, "out", 6), "m.out": (out, "out", 5)}
    names = ["model", "layers", "7", "fc1", "weight"]
    assert block_role(names, "decoder", "layers") == "decoder.block.7"
    assert block_role(names, "decoder", "block") == "decoder"
    blocks = nn.Module()
    blocks.short, blocks.long = (nn.ModuleList(nn.Identity() for _ in range(n)) for n in (1, 2))
    assert causal.blocks(blocks)[0] == "long"
    ends = {role: (s.module, s.side, s.width) for role, s in causal.sites(blocks, 9).items()}
    first, last = blocks.long
    assert ends == {
        "language.block.0.in": (first, "in", 9),
        "language.block.0.out": (first, "out", 9),
        "language.block.1.in": (last, "in", 9),
        "language.block.1.out": (last, "out", 9),
    }


def test_cells_of_a_square_grid_row_by_row() -> None:
    half = [[0, 0, 0.5, 0.5], [0.5, 0, 1, 0.5], [0, 0.5, 0.5, 1], [0.5, 0.5, 1, 1]]
    assert _cells(4).tolist() == half
    assert _cells(1).tolist() == [[0, 0, 1, 1]]
    for count in (3, 5):
        with pytest.raises(ConfigError, match=f"a square grid of features, not {count}"):
            _cells(count)


def test_rows_are_filled_up_behind_or_cut() -> None:
    assert padded([[1], [2, 3], []], 9).tolist() == [[1, 9], [2, 3], [9, 9]]
    seen: list[Any] = []

    class Text(nn.Module):
        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            seen.append((ids.tolist(), mask.tolist()))
            return ids

    heads = ContrastHeads(nn.Identity(), Text(), pad=8, longest=2)
    heads.texts([[1, 2, 3], [4]])
    heads.texts([[]])
    assert seen == [([[1, 2], [4, 8]], [[True, True], [True, False]]), ([[8]], [[False]])]
    assert heads.scale.exp().item() == pytest.approx(10)
    assert heads.bias.item() == -10
    assert (_short("x" * 12), _short("x" * 13)) == ("x" * 12, "x" * 12 + "...")


def test_a_batch_moves_as_a_whole() -> None:
    ids = torch.zeros(1, 2, dtype=torch.long)
    moved = Inputs(ids, ids > 0, absent=ids > 1, images=2).to(torch.device("meta"))
    assert moved.ids.is_meta
    assert moved.mask.is_meta
    assert moved.absent is not None
    assert moved.absent.is_meta
    assert (moved.visual, moved.boxes, moved.padding, moved.images) == (None, None, None, 2)

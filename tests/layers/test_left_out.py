"""Left-out logits of solved heads against fits by hand, and parts that hold one image of each class."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from petiole.data.splits import class_folds
from petiole.errors import DataError
from petiole.layers.logistic import LogisticHead
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import ClassMeansHead, KNNHead, SolvedHead

Make = Callable[[], SolvedHead]
HEADS: list[Make] = [
    lambda: ClassMeansHead(4, 3),
    lambda: KNNHead(4, 3, k=2),
    lambda: LogisticHead(4, 3, grid=(1.0,)),
    lambda: RidgeHead(4, 3, grid=(1.0,)),
]


def problem(shots: int, sources: int) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat(shots + sources)
    is_target = torch.arange(len(y)) >= 3 * sources
    x = 2 * torch.randn(3, 4, generator=g)[y] + torch.randn(len(y), 4, generator=g)
    order = torch.randperm(len(y), generator=g)
    return x[order], y[order], is_target[order]


@pytest.mark.parametrize("make", HEADS)
@pytest.mark.parametrize("sources", [0, 2])
def test_left_out_logits_are_those_of_a_fit_without_the_part(make: Make, sources: int) -> None:
    x, y, is_target = problem(4, sources)
    head = make()
    head.solve(x, y, is_target)
    before = {name: b.clone() for name, b in head.named_buffers()}
    got = head.left_out(x, y, is_target, folds=4)
    assert got is not None
    rows = torch.nonzero(is_target).flatten()
    for place, row in enumerate(rows):
        rank = int((y[rows[:place]] == y[row]).sum())
        part = [r for i, r in enumerate(rows) if int((y[rows[:i]] == y[r]).sum()) == rank]
        kept = torch.ones(len(y), dtype=torch.bool)
        kept[torch.stack(part)] = False
        other = make()
        other.solve(x[kept], y[kept], is_target[kept])
        assert torch.allclose(got[place], other(x[row][None])[0], atol=1e-5)
    for name, buffer in head.named_buffers():
        assert torch.equal(buffer, before[name]), name


@pytest.mark.parametrize("make", HEADS)
def test_one_shot_a_class_leaves_nothing_out(make: Make) -> None:
    assert make().left_out(*problem(1, 3)) is None
    x, y, is_target = problem(2, 0)
    assert make().left_out(x, y, ~is_target) is None


def test_the_chosen_penalty_stays_in_left_out_fits_and_the_grid_comes_back() -> None:
    x, y, is_target = problem(2, 0)
    head = RidgeHead(4, 3)
    head.solve(x, y, is_target)
    fixed = RidgeHead(4, 3, grid=(float(head.chosen_alpha),))
    want, got = fixed.left_out(x, y, is_target), head.left_out(x, y, is_target)
    assert want is not None
    assert got is not None
    assert torch.equal(want, got)
    assert len(head.grid) == 7


def test_parts_hold_one_image_of_each_class() -> None:
    labels = np.array([0, 1, 0, 1, 0, 1, 2])
    assert class_folds(labels, 5).tolist() == [0, 0, 1, 1, 2, 2, 0]
    assert class_folds(labels, 2).tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert class_folds(labels[:0], 5).tolist() == []
    with pytest.raises(DataError, match="2 or more"):
        class_folds(labels, 1)

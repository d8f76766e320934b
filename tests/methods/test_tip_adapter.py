"""Tip-Adapter against its equation written out, and what it does with names it has no shots of."""

from __future__ import annotations

import math

import pytest
import torch

from petiole.methods.prompt_learning.tip_adapter import TipHead
from petiole.methods.registry import create
from petiole.testing import dual_encoder as clips


def head(**settings: object) -> TipHead:
    plan = create("tip-adapter", settings).plan(clips.towers(), 3)
    assert isinstance(plan.head, TipHead)
    plan.head.rename(["cat", "dog", "lion"])
    return plan.head


def unit(v: list[float]) -> list[float]:
    norm = math.sqrt(sum(x * x for x in v))
    return [x / norm for x in v]


def test_logits_are_those_of_the_equation() -> None:
    tip = head(alpha=2.0, beta=3.0)
    generator = torch.Generator().manual_seed(0)
    shots, x = (torch.randn(n, tip.width, generator=generator) for n in (6, 4))
    labels = torch.tensor([0, 0, 1, 2, 1, 2])
    tip.solve(shots, labels, torch.ones(6, dtype=torch.bool))
    with torch.no_grad():
        got, zero = tip(x), tip.text(x)
    for i, v in enumerate(x.tolist()):
        for c in range(3):
            want = float(zero[i, c])
            for f, y in zip(shots.tolist(), labels.tolist(), strict=True):
                cosine = sum(a * b for a, b in zip(unit(v), unit(f), strict=True))
                want += 2.0 * math.exp(-3.0 * (1 - cosine)) if y == c else 0.0
            assert float(got[i, c]) == pytest.approx(want, abs=1e-4)


def test_shots_vote_for_their_own_names_only() -> None:
    tip = head()
    x = torch.randn(2, tip.width, generator=torch.Generator().manual_seed(1))
    tip.solve(x, torch.tensor([0, 2]), torch.ones(2, dtype=torch.bool))
    with torch.no_grad():
        before = tip(x)
        tip.rename(["lion", "fox", "cat"])
        after, zero = tip(x), tip.text(x)
        torch.testing.assert_close(after[:, [2, 0]], before[:, [0, 2]])
        torch.testing.assert_close(after[:, 1], zero[:, 1])
        tip.rename(["fox", "owl"])
        torch.testing.assert_close(tip(x), tip.text(x))

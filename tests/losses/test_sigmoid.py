"""The sigmoid contrastive loss against its double sum, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.losses.sigmoid import sigmoid_contrastive


def naive(
    u: list[list[float]], v: list[list[float]], scale: float, bias: float, groups: list[int]
) -> float:
    total = 0.0
    for i, a in enumerate(u):
        for j, b in enumerate(v):
            if i != j and groups[i] == groups[j]:
                continue
            lengths = math.hypot(*a) * math.hypot(*b)
            cosine = sum(x * y for x, y in zip(a, b, strict=True)) / lengths
            y = 1 if i == j else -1
            total += math.log1p(math.exp(-y * (math.exp(scale) * cosine + bias)))
    return total / len(u)


@given(
    groups=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    scale=st.floats(-1, 2.5),
    bias=st.floats(-10, 2),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_loss_is_its_double_sum(
    groups: list[int], scale: float, bias: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = 3 * torch.randn(len(groups), 5, generator=generator)
    texts = torch.randn(len(groups), 5, generator=generator)
    same = torch.tensor([[a == b for b in groups] for a in groups])
    got = sigmoid_contrastive(images, texts, torch.tensor(scale), torch.tensor(bias), same)
    want = naive(images.tolist(), texts.tolist(), scale, bias, groups)
    assert float(got) == pytest.approx(want, rel=1e-4, abs=1e-6)


def test_a_pair_of_one_meaning_pushes_nothing() -> None:
    """All of one label: only the diagonal acts, so row 0 depends on text 0 alone."""
    images, texts = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    one = torch.ones(3, 3, dtype=torch.bool)
    scale, bias = torch.tensor(1.0), torch.tensor(-1.0)
    loss = sigmoid_contrastive(images, texts, scale, bias, one)
    assert float(loss.detach()) == pytest.approx(
        sum(
            naive([a], [b], 1.0, -1.0, [0])
            for a, b in zip(images.tolist(), texts.tolist(), strict=True)
        )
        / 3
    )
    apart = sigmoid_contrastive(images, texts, scale, bias, torch.eye(3, dtype=torch.bool))
    assert bool(apart > loss)


def test_lengths_do_not_matter_and_large_scales_stay_finite() -> None:
    images, texts = torch.randn(4, 6), torch.randn(4, 6)
    same, bias = torch.eye(4, dtype=torch.bool), torch.tensor(-10.0)
    a = sigmoid_contrastive(images, texts, torch.tensor(5.0), bias, same)
    b = sigmoid_contrastive(7 * images, 0.1 * texts, torch.tensor(5.0), bias, same)
    torch.testing.assert_close(a, b)
    assert torch.isfinite(sigmoid_contrastive(images, -images, torch.tensor(9.0), bias, same))

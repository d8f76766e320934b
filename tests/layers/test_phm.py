"""PHM layers against Kronecker products written out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petiole.errors import ConfigError
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.phm import PHM, Rule


def by_hand(layer: PHM, rule: Tensor, x: Tensor) -> Tensor:
    """x sum_i A_i (x) B_i + b, each product by torch.kron."""
    terms = layer.left @ layer.right if layer.rank else layer.terms
    matrix = sum(
        (torch.kron(a, b) for a, b in zip(rule, terms, strict=True)),
        start=torch.zeros(x.shape[-1], len(layer.bias), dtype=x.dtype),
    )
    return x @ matrix + layer.bias


@given(
    k=st.integers(1, 4),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    rank=st.integers(0, 2),
    common=st.booleans(),
)
def test_it_is_a_sum_of_kronecker_products(
    k: int, rows: int, columns: int, rank: int, common: bool
) -> None:
    torch.manual_seed(0)
    rule = Rule(k, std=1.0).double() if common else None
    layer = PHM(k * rows, k * columns, k, rank=rank, rule=rule).double()
    with torch.no_grad():
        layer.bias.copy_(torch.randn_like(layer.bias))
    used = rule if common else layer.rule
    assert isinstance(used, Rule)
    x = torch.randn(2, 3, k * rows, dtype=torch.float64)
    want = by_hand(layer, used.value, x)
    torch.testing.assert_close(layer(x), want, rtol=1e-12, atol=1e-12)
    assert layer.matrix().shape == (k * rows, k * columns)
    terms = rank * k * (rows + columns) if rank else k * rows * columns
    size = sum(p.numel() for p in layer.parameters())
    assert size == terms + k * columns + (0 if common else k**3)


@pytest.mark.parametrize(
    ("k", "rank", "size"),
    [(2, 0, 2 * (768 * 96 // 2 + 8) + 96 + 768), (4, 1, 2 * (768 + 96 + 64) + 96 + 768)],
)
def test_sizes_of_the_published_adapter(k: int, rank: int, size: int) -> None:
    made = Bottleneck(768, 96, projection=lambda a, b: PHM(a, b, k, rank=rank))
    assert sum(p.numel() for p in made.parameters()) == size
    assert size in (74_608, 2_720)


def test_a_common_rule_is_held_by_nobody_and_learns_from_all() -> None:
    torch.manual_seed(0)
    rule = Rule(2)
    one, two = PHM(4, 6, 2, rule=rule), PHM(6, 4, 2, rule=rule)
    names = [name for layer in (one, two) for name in layer.state_dict()]
    assert set(names) == {"terms", "bias"}
    x = torch.randn(3, 4)
    one(x).sum().backward()
    assert rule.value.grad is not None
    first = rule.value.grad.clone()
    two(one(x)).sum().backward()
    assert not torch.equal(rule.value.grad, first)
    with torch.no_grad():
        rule.value.zero_()
    assert not one(x).any()
    assert not two(torch.randn(3, 6)).any()


def test_the_start_is_normal_and_glorot() -> None:
    torch.manual_seed(0)
    layer = PHM(400, 200, 2)
    assert layer.rule is not None
    bound = 2**0.5 * (6 / (200 + 100)) ** 0.5
    assert layer.terms.abs().max() <= bound
    assert float(layer.terms.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layer.bias.any()
    assert float(Rule(20).value.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_factors_start_by_their_own_shape_where_that_is_asked_for() -> None:
    """Compacter's code applies xavier_uniform_ of gain sqrt(2) to each k-th factor, (rows, r) and (r, columns)."""
    torch.manual_seed(0)
    layer = PHM(4000, 2000, 4, rank=1, drawn="factors")
    for factor, fans in ((layer.left, 1000 + 1), (layer.right, 1 + 500)):
        assert float(factor.detach().std()) == pytest.approx((2 * 2 / fans) ** 0.5, rel=0.05)
    joint = PHM(4000, 2000, 4, rank=1)
    for factor in (joint.left, joint.right):
        assert float(factor.detach().std()) == pytest.approx((2 * 2 / 1500) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ((5, 4, 2), "k=2 must divide both widths of a PHM layer, 5 and 4"),
        ((4, 5, 2), "k=2 must divide"),
        ((4, 4, 0), "k must be at least 1"),
        ((0, 4, 2), "width must be at least 1"),
    ],
)
def test_impossible_sizes_are_refused(sizes: tuple[int, int, int], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PHM(*sizes)

"""Layers that train by gradient, each against a loop in float64 written out from its equation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.averaged_ridge import domain_ridge
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.heads import CosineHead, LinearHead
from petiole.layers.lowrank import LowRank
from petiole.layers.pool import AttentionPool, Concat, First, Mean
from petiole.layers.residual import Residual

SIZES = st.integers(1, 7)
SEEDS = st.integers(0, 10_000)
quick = settings(max_examples=15, deadline=None)


def filled(module: nn.Module, seed: int) -> nn.Module:
    """In float64 and away from every special initial value."""
    generator = torch.Generator().manual_seed(seed)
    module.double().requires_grad_(False)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return module


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- LowRank -------------------------------------------------------------------------------------


@quick
@given(SIZES, SIZES, SIZES, SEEDS)
def test_low_rank_is_its_equation(width: int, rank: int, out: int, seed: int) -> None:
    layer = filled(LowRank(width, rank, scale=0.7, out=out), seed)
    assert isinstance(layer, LowRank)
    x = normal(seed + 1, 3, width)
    got = layer(x)
    for row in range(3):
        for i in range(out):
            want = 0.7 * sum(
                float(layer.b[i, r]) * float(layer.a[r, j]) * float(x[row, j])
                for r in range(rank)
                for j in range(width)
            )
            assert float(got[row, i]) == pytest.approx(want, abs=1e-9)


@quick
@given(SEEDS)
def test_low_rank_has_the_rank_that_it_says(seed: int) -> None:
    layer = filled(LowRank(9, 2), seed)
    assert torch.linalg.matrix_rank(layer(torch.eye(9).double())) <= 2


def test_low_rank_starts_at_exactly_zero_with_live_gradients() -> None:
    torch.manual_seed(0)
    layer = LowRank(6, 3)
    out = layer(torch.randn(4, 5, 6))
    assert torch.equal(out, torch.zeros(4, 5, 6))
    bound = 1 / math.sqrt(6)  # Kaiming-uniform with a = sqrt(5) draws from +-1 / sqrt(width)
    assert 0.5 * bound < layer.a.abs().max() <= bound
    (out * torch.randn_like(out)).sum().backward()
    assert layer.b.grad is not None
    assert layer.a.grad is not None
    assert layer.b.grad.abs().min() > 0
    assert torch.equal(layer.a.grad, torch.zeros_like(layer.a))


# --- Bottleneck ----------------------------------------------------------------------------------


@quick
@given(SIZES, SIZES, SEEDS, st.sampled_from(["gelu", "relu"]))
def test_bottleneck_is_its_equation(width: int, size: int, seed: int, activation: str) -> None:
    layer = filled(Bottleneck(width, size, scale=1.3, activation=activation), seed)  # type: ignore[arg-type]
    assert isinstance(layer, Bottleneck)
    x = normal(seed + 1, width)

    def act(v: float) -> float:
        return max(v, 0.0) if activation == "relu" else v * (1 + math.erf(v / math.sqrt(2))) / 2

    hidden = [act(float(layer.down.bias[m] + layer.down.weight[m] @ x)) for m in range(size)]
    for i in range(width):
        up = sum(float(layer.up.weight[i, m]) * hidden[m] for m in range(size))
        want = 1.3 * (up + float(layer.up.bias[i]))
        assert float(layer(x)[i]) == pytest.approx(want, abs=1e-9)


@quick
@given(SIZES, SIZES)
def test_bottleneck_counts_2dm_plus_m_plus_d(width: int, size: int) -> None:
    count = sum(p.numel() for p in Bottleneck(width, size).parameters())
    assert count == 2 * width * size + size + width


def test_bottleneck_starts_at_exactly_zero_with_live_gradients() -> None:
    torch.manual_seed(0)
    layer = Bottleneck(6, 4)
    out = layer(torch.randn(5, 6))
    assert torch.equal(out, torch.zeros(5, 6))
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        moves = name.startswith("up.")
        assert bool(parameter.grad.any()) == moves, name


def test_dropout_works_in_training_only() -> None:
    layer = filled(Bottleneck(6, 64, dropout=0.5), 0)
    x = normal(1, 2, 6)
    assert not torch.equal(layer.train()(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    low = filled(LowRank(6, 3, dropout=0.5), 0)
    assert not torch.equal(low.train()(x), low(x))
    assert torch.equal(low.eval()(x), low(x))


# --- Residual ------------------------------------------------------------------------------------


def naive_layer_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    rows = []
    for row in x:
        mean = sum(map(float, row)) / len(row)
        variance = sum((float(v) - mean) ** 2 for v in row) / len(row)
        rows.append([(float(v) - mean) / math.sqrt(variance + eps) for v in row])
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("norm", ["ln", "ln_frozen", "none"])
def test_residual_adds_its_branches_and_normalises(norm: str) -> None:
    branches = [filled(Bottleneck(6, 3), 1), filled(LowRank(6, 2), 2)]
    layer = Residual(6, branches, norm).double()  # type: ignore[arg-type]
    h = normal(3, 4, 6)
    total = h + branches[0](h) + branches[1](h)
    want = total if norm == "none" else naive_layer_norm(total)
    torch.testing.assert_close(layer(h), want, rtol=1e-9, atol=1e-9)
    affine = [n for n, _ in layer.named_parameters() if n.startswith("norm.")]
    assert bool(affine) == (norm == "ln")


def test_a_fresh_residual_is_the_norm_alone_and_without_norm_the_identity() -> None:
    h = torch.randn(4, 6)
    for norm in ("ln", "ln_frozen", "none"):
        fresh = Residual(6, [Bottleneck(6, 3), LowRank(6, 2)], norm)  # type: ignore[arg-type]
        bare = nn.Identity() if norm == "none" else nn.LayerNorm(6, eps=1e-6)
        assert torch.equal(fresh(h), bare(h))


def test_without_norm_a_linear_head_on_lora_is_only_another_linear_head() -> None:
    """W (I + (a/r) B A) h + b is a K x d linear head."""
    lora, head = filled(LowRank(12, 4, scale=0.5), 1), filled(LinearHead(12, 5), 2)
    refine = Residual(12, [lora], "none")
    h = normal(3, 40, 12)
    assert isinstance(lora, LowRank)
    assert isinstance(head, LinearHead)
    equal = head.weight @ (torch.eye(12).double() + 0.5 * lora.b @ lora.a)
    want = h @ equal.T + head.bias
    torch.testing.assert_close(head(refine(h)), want, rtol=1e-10, atol=1e-10)
    # With LN it is not: the logits are no affine function of h.
    normed = Residual(12, [lora], "ln_frozen").double()
    design = torch.cat([h, torch.ones(40, 1).double()], dim=1)
    logits = head(normed(h))
    fit = design @ torch.linalg.lstsq(design, logits).solution
    assert (fit - logits).abs().max() > 1e-2


# --- pools ---------------------------------------------------------------------------------------


def test_simple_pools() -> None:
    vector, tokens = normal(1, 2, 4), normal(2, 2, 3, 5)
    assert First()(vector) is vector
    want = torch.stack([sum(t[i] for i in range(3)) / 3 for t in tokens])
    torch.testing.assert_close(Mean()(tokens), want)
    torch.testing.assert_close(Concat()(vector, tokens), torch.cat([vector, want], dim=1))


@quick
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), SEEDS)
def test_attention_pool_is_its_equation(heads: int, each: int, n: int, seed: int) -> None:
    d = heads * each
    layer = filled(AttentionPool(d, heads), seed)
    assert isinstance(layer, AttentionPool)
    tokens = normal(seed + 1, 2, n, d)
    got = layer(tokens)
    for b in range(2):
        keys = [layer.key.weight @ t + layer.key.bias for t in tokens[b]]
        values = [layer.value.weight @ t + layer.value.bias for t in tokens[b]]
        mixed = []
        for h in range(heads):
            part = slice(h * each, (h + 1) * each)
            scores = [float(layer.query[part] @ k[part]) / math.sqrt(each) for k in keys]
            shares = [math.exp(s - max(scores)) for s in scores]
            mixed.append(
                sum(w / sum(shares) * v[part] for w, v in zip(shares, values, strict=True))
            )
        want = layer.out.weight @ torch.cat(mixed) + layer.out.bias  # type: ignore[arg-type]
        torch.testing.assert_close(got[b], want, rtol=1e-9, atol=1e-9)


def test_attention_pool_forgets_the_order_of_tokens_and_counts_443904() -> None:
    layer = filled(AttentionPool(6, 2), 0)
    tokens = normal(1, 1, 5, 6)
    torch.testing.assert_close(layer(tokens), layer(tokens[:, [3, 1, 4, 0, 2]]))
    with torch.device("meta"):
        big = AttentionPool(384)
    assert sum(p.numel() for p in big.parameters()) == 443_904


# --- heads ---------------------------------------------------------------------------------------


def test_linear_head_starts_small_and_unbiased() -> None:
    torch.manual_seed(0)
    head = LinearHead(500, 20)
    assert float(head.weight.detach().std()) == pytest.approx(0.01, rel=0.05)
    assert not head.bias.any()


@quick
@given(SIZES, SIZES, SEEDS)
def test_cosine_head_is_its_equation(width: int, classes: int, seed: int) -> None:
    head = CosineHead(width, classes).double().requires_grad_(False)
    h = normal(seed, 3, width)
    got = head(h)
    for row in range(3):
        for k in range(classes):
            w = head.weight[k]
            cosine = float(h[row] @ w) / (float(h[row].norm()) * float(w.norm()))
            assert float(got[row, k]) == pytest.approx(10 * cosine, rel=1e-6, abs=1e-6)


@quick
@given(SEEDS, st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_cosine_head_does_not_see_lengths(seed: int, of_h: float, of_w: float) -> None:
    head = CosineHead(5, 4).double()
    h = normal(seed, 6, 5)
    want = head(h)
    with torch.no_grad():
        head.weight[2] *= of_w
    torch.testing.assert_close(head(of_h * h), want)


def test_cosine_head_clamps_tau_to_1_and_100() -> None:
    head = CosineHead(5, 4)
    h = torch.randn(3, 5)
    base = head(h) / 10
    for stored, used in ((0.1, 1.0), (55.0, 55.0), (1e6, 100.0)):
        with torch.no_grad():
            head.log_scale.fill_(math.log(stored))
        torch.testing.assert_close(head(h), used * base)
    for tau in (0.5, 101.0, math.nan):
        with pytest.raises(ConfigError, match=r"tau must lie in \[1, 100\]"):
            CosineHead(5, 4, scale=tau)


def test_cosine_head_may_keep_tau_fixed_and_then_saves_it() -> None:
    head = CosineHead(5, 4, scale=20.0, learn_scale=False)
    assert [n for n, _ in head.named_parameters()] == ["weight"]
    assert float(head.state_dict()["log_scale"].exp()) == pytest.approx(20)


def test_cosine_head_starts_with_variance_2_over_d() -> None:
    torch.manual_seed(0)
    std = float(CosineHead(400, 50).weight.detach().std())
    assert std == pytest.approx(math.sqrt(2 / 400), rel=0.03)


def test_imprinting_points_every_class_at_its_mean_direction() -> None:
    head = CosineHead(4, 3).double()
    untouched = head.weight[1].clone()
    h, labels = normal(0, 5, 4), torch.tensor([0, 0, 2, 0, 2])
    head.imprint(h, labels)
    for k in (0, 2):
        mean = sum(v / v.norm() for v, y in zip(h, labels, strict=True) if y == k)
        assert isinstance(mean, Tensor)
        torch.testing.assert_close(head.weight[k] / head.weight[k].norm(), mean / mean.norm())
    assert torch.equal(head.weight[1], untouched)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: LowRank(4, 0), "rank must be at least 1"),
        (lambda: LowRank(0, 4), "width"),
        (lambda: Bottleneck(4, -1), "bottleneck"),
        (lambda: LinearHead(4, 0), "classes"),
        (lambda: CosineHead(4, 0), "classes"),
        (
            lambda: AttentionPool(7, 2),
            r"2 attention heads do not divide a width of 7\. Use one of 1, 7",
        ),
        (lambda: AttentionPool(7, 0), "heads must be at least 1"),
    ],
)
def test_impossible_sizes_are_named(make: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()  # type: ignore[operator]


def test_tau_moves_with_its_own_rate() -> None:
    """Trained as theta, tau changes by a share of itself; its factor is the module's to state."""
    head = CosineHead(5, 4, scale=10.0, scale_lr=10.0)
    assert head.lr_factors == {"log_scale": 10.0}
    optimizer = torch.optim.AdamW([head.log_scale], lr=1e-2, weight_decay=0.0)
    head(torch.randn(8, 5))[:, 0].sum().backward()
    optimizer.step()
    assert abs(math.log(float(head.scale.detach()) / 10)) == pytest.approx(1e-2, rel=1e-2)


def test_domain_ridge_is_the_minimum_of_its_equation() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    is_target = torch.arange(60) < 12
    weight, bias = domain_ridge(x, y, is_target, 3)
    t = torch.nn.functional.one_hot(y, 3).double()
    near, far = x[is_target].double(), x[~is_target].double()
    centred = far - far.mean(0)  # classes are balanced, so all source images weigh alike
    s2 = centred.square().mean()
    w = weight.double().requires_grad_(True)
    loss = (
        ((near - near.mean(0)) @ w.T - (t[is_target] - t[is_target].mean(0))).square().sum()
        + 0.03 * (centred @ w.T - (t[~is_target] - t[~is_target].mean(0))).square().sum()
        + 0.1 * 4 * s2 * w.square().sum()
    )
    (gradient,) = torch.autograd.grad(loss, w)
    assert float(gradient.abs().max()) < 1e-4
    torch.testing.assert_close(
        bias.double(), t[is_target].mean(0) - weight.double() @ near.mean(0), atol=1e-5, rtol=0
    )

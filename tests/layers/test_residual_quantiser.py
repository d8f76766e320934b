"""The residual quantiser against the loop that its equations describe, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from petiole.errors import ConfigError, DataError
from petiole.layers import residual_quantiser as module
from petiole.layers.residual_quantiser import (
    ResidualQuantiser,
    commitment,
    frequencies,
    perplexity,
)


def naive(codebooks: Tensor, z: Tensor, depth: int) -> tuple[list[list[int]], list[list[Tensor]]]:
    """Codes and partial sums of tokens (n, d), one token, depth and entry at a time."""
    codes, partials = [], []
    for token in z.double():
        rest, chosen, sums = token, [], []
        for d in range(depth):
            table = codebooks[min(d, len(codebooks) - 1)].double()
            distances = [
                sum((a - b) ** 2 for a, b in zip(rest.tolist(), c, strict=True))
                for c in table.tolist()
            ]
            k = distances.index(min(distances))
            chosen.append(k)
            sums.append(table[k] + (sums[-1] if sums else 0))
            rest = rest - table[k]
        codes.append(chosen)
        partials.append(sums)
    return codes, partials


@given(
    entries=st.integers(1, 9),
    width=st.integers(1, 4),
    depth=st.integers(1, 4),
    shared=st.booleans(),
    held=st.integers(1, 30),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_quantising_is_the_loop(
    entries: int, width: int, depth: int, shared: bool, held: int, seed: int
) -> None:
    """Whole numbers have exact distances, with many ties; tokens come in parts of any size."""
    generator = torch.Generator().manual_seed(seed)
    rq = ResidualQuantiser(entries, width, depth, shared)
    rq.codebooks.copy_(torch.randint(-3, 4, rq.codebooks.shape, generator=generator))
    z = torch.randint(-6, 7, (2, 3, width), generator=generator).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DISTANCES", held)
        got = rq(z)
    codes, partials = naive(rq.codebooks, z.flatten(0, 1), depth)
    assert got.codes.dtype == torch.int64
    assert got.codes.flatten(0, 1).tolist() == codes
    want = torch.stack([torch.stack(p) for p in partials], dim=1).view(depth, 2, 3, width)
    assert torch.equal(got.partials.double(), want)
    torch.testing.assert_close(
        got.residual.double(), (z - want[-1]).norm(dim=-1), rtol=1e-6, atol=0
    )
    assert torch.equal(got.straight_through.double(), want[-1])
    assert torch.equal(rq.embed(got.codes), got.straight_through)


def test_real_numbers_under_autocast() -> None:
    torch.manual_seed(0)
    rq = ResidualQuantiser(200, 8, 3, shared=False)
    rq.codebooks[0] += 10
    z = 10 + torch.randn(20, 8)
    with torch.autocast("cpu", torch.bfloat16):
        got = rq(z)
    codes, partials = naive(rq.codebooks, z, 3)
    assert got.codes.tolist() == codes
    torch.testing.assert_close(got.partials[-1].double(), torch.stack([p[-1] for p in partials]))
    half = rq(z.bfloat16())
    assert half.straight_through.dtype == torch.bfloat16
    assert torch.equal(half.straight_through, rq.embed(half.codes).bfloat16())


def test_the_gradient_passes_straight_through() -> None:
    rq = ResidualQuantiser(6, 4, 2)
    z = torch.randn(2, 5, 4, requires_grad=True)
    got = rq(z)
    upstream = torch.randn(2, 5, 4)
    (grad,) = torch.autograd.grad(got.straight_through, z, upstream)
    assert torch.equal(grad, upstream)
    assert not got.partials.requires_grad
    assert not got.residual.requires_grad


def test_commitment_is_the_mean_over_depths() -> None:
    rq = ResidualQuantiser(6, 4, 3, shared=False)
    z = torch.randn(2, 5, 4, requires_grad=True)
    got = rq(z)
    partials = got.partials.requires_grad_()
    loss = commitment(z, partials)
    want = torch.zeros((), dtype=torch.float64)
    slope = torch.zeros(2, 5, 4, dtype=torch.float64)
    for partial in partials.detach().double():
        want += (z.detach().double() - partial).square().sum() / 40 / 3
        slope += 2 * (z.detach().double() - partial) / 40 / 3
    torch.testing.assert_close(loss.detach().double(), want, rtol=1e-5, atol=0)
    grad, none = torch.autograd.grad(loss, [z, partials], allow_unused=True)
    assert none is None
    torch.testing.assert_close(grad.double(), slope, rtol=1e-5, atol=1e-7)


def test_training_leaves_the_codebook_as_it_was() -> None:
    """In training mode as well, and with everything that can be trained given to the optimiser."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), ResidualQuantiser(8, 4, 2)).train()
    assert not list(model[1].parameters())
    before = model[1].codebooks.numpy().tobytes()
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.1)
    start = model[0].weight.detach().clone()
    for _ in range(5):
        x = torch.randn(16, 4)
        got = model(x)
        loss = got.straight_through.square().mean() + commitment(model[0](x), got.partials)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    assert not torch.equal(start, model[0].weight)
    assert model[1].codebooks.numpy().tobytes() == before


def test_keep_restricts_to_the_most_frequent_entries() -> None:
    torch.manual_seed(0)
    rq = ResidualQuantiser(8, 3, 2)
    z = torch.randn(50, 3)
    p = torch.tensor([1.0, 5, 2, 5, 0, 9, 2, 1])
    state = torch.get_rng_state()
    small = rq.keep(p, 0.5)  # 5, then 1 and 3, then 2 before 6
    assert torch.equal(state, torch.get_rng_state())
    stay = [1, 2, 3, 5]
    codes, _ = naive(rq.codebooks[:, stay], z, 2)
    assert small(z).codes.tolist() == [[stay[k] for k in row] for row in codes]
    assert torch.equal(small.codebooks, rq.codebooks)
    assert torch.equal(rq.keep(p, 1.0)(z).codes, rq(z).codes)
    assert rq.keep(p, 0.01)(z).codes.unique().tolist() == [5]
    again = ResidualQuantiser(8, 3, 2)
    again.load_state_dict(small.state_dict())
    assert torch.equal(again(z).codes, small(z).codes)
    by_depth = rq.keep(torch.eye(8)[:2], 1 / 8)(z).codes
    assert by_depth.unique(dim=0).tolist() == [[0, 1]]
    own = torch.randperm(16).reshape(2, 8).float()
    each = rq.keep(own, 0.5)(z).codes
    for depth in range(2):
        stay = own[depth].topk(4).indices.tolist()
        assert set(each[:, depth].tolist()) <= set(stay), "each depth keeps its own most frequent"


@given(
    codes=st.lists(st.integers(0, 4), min_size=1, max_size=40), smoothing=st.sampled_from([0, 1, 3])
)
def test_frequencies_and_perplexity(codes: list[int], smoothing: int) -> None:
    got = frequencies(torch.tensor(codes), 5, smoothing).tolist()
    for k in range(5):
        assert got[k] == pytest.approx((codes.count(k) + smoothing) / (len(codes) + 5 * smoothing))
    shares = [codes.count(k) / len(codes) for k in set(codes)]
    want = math.exp(-sum(p * math.log(p) for p in shares))
    assert perplexity(torch.tensor(codes), 5) == pytest.approx(want)


def test_impossible_requests_are_refused() -> None:
    rq = ResidualQuantiser(4, 3, 2)
    with pytest.raises(ConfigError, match="depth must be at least 1"):
        ResidualQuantiser(4, 3, 0)
    with pytest.raises(ConfigError, match="5 wide but entries 3"):
        rq(torch.randn(2, 5))
    with pytest.raises(ConfigError, match="3 codes but the quantiser is 2 deep"):
        rq.embed(torch.zeros(2, 3, dtype=torch.long))
    for bad in (-1, 4):
        with pytest.raises(DataError, match="the codebook has 4 entries"):
            rq.embed(torch.tensor([[0, bad]]))
    with pytest.raises(ConfigError, match=r"in \(0, 1\], not 0"):
        rq.keep(torch.ones(4), 0.0)
    with pytest.raises(ConfigError, match=r"\(4,\) or \(2, 4\), not \(3,\)"):
        rq.keep(torch.ones(3), 0.5)
    with pytest.raises(DataError, match="No codes to count"):
        perplexity(torch.zeros(0, dtype=torch.long), 4)


@pytest.mark.parametrize("shared", [True, False])
def test_agrees_with_vector_quantize_pytorch(shared: bool) -> None:
    library: Any = pytest.importorskip(
        "vector_quantize_pytorch", reason="vector-quantize-pytorch is not installed"
    )
    torch.manual_seed(0)
    theirs = library.ResidualVQ(
        dim=8,
        num_quantizers=3,
        codebook_size=20,
        shared_codebook=shared,
        rotation_trick=False,
        commitment_weight=1.0,
    ).train()
    ours = ResidualQuantiser(20, 8, 3, shared)
    for d, layer in enumerate(theirs.layers):
        layer._codebook.embed.data.copy_(ours.codebooks[0 if shared else d][None])
    z = torch.randn(2, 7, 8, requires_grad=True)
    quantised, codes, losses = theirs(z, freeze_codebook=True)
    got = ours(z)
    assert torch.equal(got.codes, codes)
    torch.testing.assert_close(got.straight_through, quantised)
    torch.testing.assert_close(commitment(z, got.partials), losses.mean())
    upstream = torch.randn(2, 7, 8)
    (grad,) = torch.autograd.grad(quantised, z, upstream)
    (ours_grad,) = torch.autograd.grad(got.straight_through, z, upstream)
    # Theirs passes straight through at every depth, so that the gradient of the sum counts three times.
    torch.testing.assert_close(grad, 3 * ours_grad)

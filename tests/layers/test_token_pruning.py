"""Pruning by rarity against a bisection over gamma and a greedy loop, one token at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from petiole.errors import ConfigError, DataError, PetioleError
from petiole.layers.residual_quantiser import frequencies
from petiole.layers.token_pruning import Mode, Pruning, within_quota

MODES: tuple[Mode, ...] = ("random", "uniform", "rarity", "rarity+residual", "full")


def quotas(counts: dict[Any, int], p: dict[Any, float], gamma: float) -> dict[Any, int]:
    return {k: min(n, math.ceil(gamma / p[k])) for k, n in counts.items()}


def smallest(counts: dict[Any, int], p: dict[Any, float], wanted: int) -> float:
    """The upper end of a bisection, where at least ``wanted`` enter."""
    low, high = 0.0, max(n * p[k] for k, n in counts.items())
    for _ in range(40):
        middle = (low + high) / 2
        enough = sum(quotas(counts, p, middle).values()) >= wanted
        low, high = (low, middle) if enough else (middle, high)
    return high


def naive(
    pruning: Pruning, codes: Tensor, residual: Tensor, p_table: Tensor, grid: tuple[int, int]
) -> list[int]:
    """CRAFT's pruning score (Wu et al., 2026) for one image: codes (N, D), residual (N,), frequencies (D, K)."""
    depths = codes.shape[1] if pruning.entry_depth == "joint" else 1
    entry = [tuple(row[:depths]) for row in codes.tolist()]
    members = {k: [i for i, e in enumerate(entry) if e == k] for k in sorted(set(entry))}
    p = {k: math.prod(float(p_table[d, c]) for d, c in enumerate(k)) for k in members}
    counts = {k: len(m) for k, m in members.items()}
    wanted = max(1, round(pruning.keep * len(entry)))
    quota = quotas(counts, p, smallest(counts, p, wanted))
    ranked = {k: ranking(pruning, m, residual.tolist(), grid) for k, m in members.items()}
    kept = {k: ranked[k][: quota[k]] for k in members}
    for spared in (1, 0):
        for k in sorted(members, key=lambda k: (-p[k], k)):
            equals = [other for other in members if p[other] == p[k]]
            while sum(map(len, kept.values())) > wanted:
                most = max(equals, key=lambda other: len(kept[other]))
                if len(kept[most]) <= spared:
                    break
                kept[most].pop()
    return sorted(i for chosen in kept.values() for i in chosen)


def ranking(
    pruning: Pruning, members: list[int], residual: list[float], grid: tuple[int, int]
) -> list[int]:
    """Tokens of one entry, best first."""
    if pruning.mode == "rarity+residual":
        return sorted(members, key=lambda i: (-residual[i], i))
    low, high = min(residual[i] for i in members), max(residual[i] for i in members)
    e = {i: (residual[i] - low) / (high - low) if high > low else 0.0 for i in members}
    diag = max(1.0, math.dist((0, 0), (grid[0] - 1, grid[1] - 1)))
    place = {i: divmod(i, grid[1]) for i in members}
    chosen: list[int] = []
    while len(chosen) < len(members):
        score = {}
        for i in members:
            if i not in chosen:
                near = min((math.dist(place[i], place[j]) for j in chosen), default=0.0)
                score[i] = e[i] + pruning.spread * near / diag
        chosen.append(max(score, key=lambda i: (score[i], -i)))
    return chosen


@st.composite
def images(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """Codes (B, N, D), residuals, frequencies (D, K) and the grid; few entries, so that they are crowded."""
    grid = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    batch, depth, entries = (
        draw(st.integers(1, 4)),
        draw(st.integers(1, 3)),
        draw(st.integers(1, 6)),
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    codes = torch.randint(entries, (batch, grid[0] * grid[1], depth), generator=generator)
    residual = torch.rand(codes.shape[:2], generator=generator)
    # Powers of two, with equal ones: ties of j p_k are ties in floating point as well.
    p = 2.0 ** -torch.randint(1, 5, (depth, entries), generator=generator).double()
    return codes, residual, p, grid


@given(
    images=images(),
    keep=st.floats(0.02, 1.0),
    mode=st.sampled_from(["rarity+residual", "full"]),
    entry_depth=st.sampled_from(["first", "joint"]),
    spread=st.sampled_from([0.0, 1.0, 2.5]),
)
@settings(max_examples=150, deadline=None)
def test_selection_is_the_loop(
    images: Any, keep: float, mode: Mode, entry_depth: Any, spread: float
) -> None:
    codes, residual, p, grid = images
    pruning = Pruning(keep, mode, entry_depth, spread)
    got = pruning.select(codes, residual, p, grid)
    want = [naive(pruning, c, r, p, grid) for c, r in zip(codes, residual.double(), strict=True)]
    assert got.tolist() == want


@given(
    images=images(), keep=st.floats(0.02, 1.0), mode=st.sampled_from(MODES), seed=st.integers(0, 9)
)
@settings(max_examples=150, deadline=None)
def test_properties_of_every_mode(images: Any, keep: float, mode: Mode, seed: int) -> None:
    codes, residual, p, grid = images
    tokens = codes.shape[1]
    pruning = Pruning(keep, mode, seed=seed)
    got = pruning.select(codes, residual, p, grid)
    wanted = max(1, round(keep * tokens))
    assert got.dtype == torch.int64
    assert got.shape == (len(codes), wanted)
    assert 0 <= int(got.min()) <= int(got.max()) < tokens
    assert bool((got.diff(dim=1) > 0).all())
    for b in range(len(codes)):  # an image alone loses the same tokens
        alone = pruning.select(codes[b : b + 1], residual[b : b + 1], p, grid)
        assert torch.equal(alone[0], got[b])
        present, left = codes[b, :, 0].unique(), codes[b, got[b], 0].unique()
        if mode not in ("random", "uniform") and wanted >= len(present):
            assert torch.equal(present, left)
    everything = Pruning(1.0, mode).select(codes, residual, p, grid)
    assert torch.equal(everything, torch.arange(tokens).expand(len(codes), -1))


@given(
    counts=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    seen=st.lists(st.integers(1, 40), min_size=6, max_size=6),
    data=st.data(),
)
@settings(max_examples=150, deadline=None)
def test_quotas(counts: list[int], seen: list[int], data: st.DataObject) -> None:
    """They grow with gamma, reach M at gamma* and not before; exactly M tokens then stay."""
    p = {k: seen[k] / sum(seen) for k in range(len(counts))}
    by_entry = dict(enumerate(counts))
    wanted = data.draw(st.integers(1, sum(counts)))
    gamma = smallest(by_entry, p, wanted)
    at = quotas(by_entry, p, gamma)
    assert sum(at.values()) >= wanted
    before, after = (quotas(by_entry, p, f * gamma) for f in (0.999, 1.001))
    assert all(before[k] <= at[k] <= after[k] for k in at)
    assert sum(before.values()) < wanted or wanted <= len(counts)
    entry = np.repeat(np.arange(len(counts)), counts)[None]
    got = within_quota(entry, np.array(list(p.values()))[entry], wanted)
    assert got.sum() == wanted
    for k in at:
        stays = int(got[entry == k].sum())
        assert stays <= at[k]
        assert got[entry == k][:stays].all()  # the best ones


def test_by_hand() -> None:
    """Six of nine tokens. p of A, B, C is 1/2, 1/4, 1/8; A has five tokens, B three, C one.

    j p_k is 0 .5 1 1.5 2 for A, 0 .25 .5 for B, 0 for C: the sixth smallest is .5, which two tokens share. All
    six with at most .5 enter: two of A, three of B, one of C. For five, the frequent A loses one.
    """
    codes = torch.tensor([0, 0, 1, 0, 2, 0, 1, 0, 1])[None, :, None]
    residual = torch.tensor([[0.5, 0.9, 0.1, 0.8, 0.0, 0.1, 0.2, 0.7, 0.3]])
    p = torch.tensor([0.5, 0.25, 0.125])

    def kept(tokens: int, mode: Mode, **settings: Any) -> list[int]:
        pruning = Pruning(tokens / 9, mode, **settings)
        found = pruning.select(codes, residual, p, (3, 3))[0].tolist()
        of_training = residual.clone().requires_grad_(), p.clone().requires_grad_()
        assert pruning.select(codes, *of_training, (3, 3))[0].tolist() == found
        return found

    assert kept(6, "rarity+residual") == [1, 2, 3, 4, 6, 8]
    # A begins at 1, (0, 1); 3 scores .875 + sqrt 2 / sqrt 8, but 7 .75 + 2 / sqrt 8, which is more.
    assert kept(6, "full") == [1, 2, 4, 6, 7, 8]
    assert kept(6, "full", spread=0.0) == [1, 2, 3, 4, 6, 8]
    assert kept(5, "rarity+residual") == [1, 2, 4, 6, 8]
    assert kept(2, "full") == [4, 8]  # fewer than entries: the most frequent goes
    assert kept(4, "uniform") == [1, 3, 7, 8]


def test_rounding_does_not_break_ties() -> None:
    """1 x .3 and 3 x .1 are the same threshold; of the two tokens the frequent entry's goes."""
    entry = np.array([[0, 0, 1, 1, 1, 1]])
    assert 3 * 0.1 > 0.3
    kept = within_quota(entry, np.array([0.3, 0.1])[entry], 5)
    assert kept.tolist() == [[True, False, True, True, True, True]]


def test_joint_entries_are_tuples() -> None:
    """Tokens of one first code but two tuples, of which the rarer keeps both its tokens."""
    codes = torch.tensor([[0, 0], [0, 0], [0, 0], [0, 1], [0, 1], [0, 0]])[None]
    residual = torch.tensor([[6.0, 5, 4, 2, 1, 3]])
    p = torch.tensor([[0.9, 0.1], [0.8, 0.2]])
    first = Pruning(0.5, "rarity+residual").select(codes, residual, p, (2, 3))
    joint = Pruning(0.5, "rarity+residual", "joint").select(codes, residual, p, (2, 3))
    assert first.tolist() == [[0, 1, 2]]
    assert joint.tolist() == [[0, 3, 4]]


def test_random_choices_follow_the_seed() -> None:
    codes = torch.randint(3, (8, 36, 2), generator=torch.Generator().manual_seed(0))
    residual, p = torch.rand(8, 36), frequencies(codes[..., 0], 3)
    for mode in ("random", "rarity"):
        one, same, two = (
            Pruning(0.5, mode, seed=s).select(codes, residual, p, (6, 6)) for s in (1, 1, 2)
        )
        assert torch.equal(one, same)
        assert not torch.equal(one, two)
    share = torch.zeros(36)
    for seed in range(100):
        share[Pruning(0.5, "random", seed=seed).select(codes, residual, p, (6, 6))[0]] += 0.01
    assert float(share.min()) > 0.3
    assert float(share.max()) < 0.7


@pytest.mark.parametrize("grid", [(6, 6), (4, 9), (16, 16), (1, 7), (7, 1)])
@pytest.mark.parametrize("keep", [0.1, 0.25, 0.5, 0.8])
def test_uniform_tokens_cover_the_grid(grid: tuple[int, int], keep: float) -> None:
    tokens = grid[0] * grid[1]
    codes = torch.zeros(1, tokens, 1, dtype=torch.long)
    chosen = Pruning(keep, "uniform").select(codes, torch.zeros(1, tokens), torch.ones(1), grid)[0]
    per_row = torch.bincount(chosen // grid[1], minlength=grid[0])
    assert int(per_row.max() - per_row.min()) <= 1
    if grid[0] > 1 and grid[1] > 1 and len(chosen) > 1:
        per_column = torch.bincount(chosen % grid[1], minlength=grid[1])
        assert int(per_column.max()) <= math.ceil(2 * len(chosen) / grid[1])


def test_position_ids() -> None:
    chosen = torch.tensor([[0, 2, 5], [1, 2, 3]])
    assert torch.equal(Pruning().position_ids(chosen), chosen)
    assert Pruning(positions="compact").position_ids(chosen).tolist() == [[0, 1, 2], [0, 1, 2]]


def test_impossible_requests_are_refused() -> None:
    settings: list[tuple[dict[str, Any], str]] = [
        ({"keep": 0.0}, "keep must lie in"),
        ({"keep": 1.1}, "keep must lie in"),
        ({"mode": "ful"}, "Did you mean full"),
        ({"entry_depth": "second"}, "Unknown entry_depth"),
        ({"positions": "gaps"}, "Unknown positions"),
        ({"spread": -1.0}, "not negative"),
        ({"seed": -1}, "not negative"),
    ]
    for wrong, message in settings:
        with pytest.raises(ConfigError, match=message):
            Pruning(**wrong)
    codes, residual, p = torch.zeros(1, 4, 2, dtype=torch.long), torch.ones(1, 4), torch.ones(2, 3)
    cases: list[tuple[type[PetioleError], str, tuple[Any, ...]]] = [
        (ConfigError, "does not hold 4 tokens", (codes, residual, p, (2, 3))),
        (ConfigError, r"not \(1, 4, 2\) and \(1, 5\)", (codes, torch.ones(1, 5), p, (2, 2))),
        (ConfigError, "or \\(2, K\\)", (codes, residual, torch.ones(3, 3), (2, 2))),
        (ConfigError, "one row a depth", (codes, residual, p[0], (2, 2))),
        (DataError, "smoothing of 1", (codes, residual, p - 1, (2, 2))),
        (DataError, "but there are 3 frequencies", (codes + 3, residual, p, (2, 2))),
        (DataError, "not finite", (codes, residual / 0, p, (2, 2))),
    ]
    for error, message, arguments in cases:
        with pytest.raises(error, match=message):
            Pruning(entry_depth="joint").select(*arguments)


def test_a_row_with_a_surplus_is_thinned_as_it_is_alone() -> None:
    """Entries that are equally frequent enter together, so that some rows have too many and others have not."""
    rng = np.random.default_rng(0)
    entry = np.sort(rng.integers(0, 4, (40, 9)), axis=1)
    p = np.array([0.1, 0.1, 0.1, 0.7])[entry]
    for wanted in (1, 3, 5, 9):
        together = within_quota(entry, p, wanted)
        alone = [within_quota(e[None], q[None], wanted)[0] for e, q in zip(entry, p, strict=True)]
        assert np.array_equal(together, np.stack(alone))
        assert (together.sum(1) == wanted).all()

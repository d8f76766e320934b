"""TextRefiner's cache against the loop that its equation describes, in float64."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from builders.processes import start, two_ranks
from petiole.errors import ConfigError
from petiole.layers.local_cache import LocalCache
from petiole.layers.token_alignment import TokenAlignment, salient


def written(entries: Tensor, tokens: Tensor, m: float, *, by_entries: bool, mean: bool) -> Tensor:
    """One token and one entry at a time."""
    unit = [t / t.norm() for t in tokens]
    s = [[float(t @ a / a.norm()) for a in entries] for t in unit]
    assigned = [max(range(len(entries)), key=lambda j, row=row: row[j]) for row in s]  # type: ignore[misc]
    out = []
    for j, a in enumerate(entries):
        members = [i for i, chosen in enumerate(assigned) if chosen == j]
        if not members:
            out.append(a)
            continue
        total = torch.zeros_like(a)
        for i in members:
            if by_entries:
                w = math.exp(s[i][j]) / sum(math.exp(v) for v in s[i])
            else:
                w = math.exp(s[i][j] - max(row[j] for row in s))
            total = total + w * unit[i]
        if mean:
            total = total / len(members)
        out.append(m * a + (1 - m) * total)
    return torch.stack(out)


@given(
    entries=st.integers(1, 7),
    tokens=st.integers(1, 30),
    momentum=st.sampled_from([0.0, 0.8, 1.0]),
    by_entries=st.booleans(),
    mean=st.booleans(),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=60, deadline=None)
def test_writing_is_the_loop(
    entries: int, tokens: int, momentum: float, by_entries: bool, mean: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    cache = LocalCache(
        entries,
        5,
        momentum=momentum,
        weights="entries" if by_entries else "tokens",
        reduce="mean" if mean else "sum",
    )
    start = normalize(torch.randn(entries, 5, generator=generator), dim=-1)
    x = (3 * torch.randn(tokens, 5, generator=generator)).requires_grad_()  # as in training
    cache.entries.copy_(start)
    chosen = cache.assign(x)
    cache.write(x)
    assert not cache.entries.requires_grad
    x = x.detach()
    want = written(start.double(), x.double(), momentum, by_entries=by_entries, mean=mean)
    torch.testing.assert_close(
        cache.entries.double(), normalize(want, dim=-1), rtol=1e-5, atol=1e-5
    )
    untouched = [j for j in range(entries) if j not in chosen]
    torch.testing.assert_close(cache.entries[untouched], start[untouched])
    torch.testing.assert_close(cache.entries.norm(dim=-1), torch.ones(entries))


def test_the_paper_leaves_entries_as_long_as_they_become() -> None:
    cache = LocalCache(2, 3, momentum=0.5, weights="entries", unit=False)
    start = cache.entries.clone()
    x = torch.randn(6, 3)
    cache.write(x)
    want = written(start.double(), x.double(), 0.5, by_entries=True, mean=False)
    torch.testing.assert_close(cache.entries.double(), want, rtol=1e-5, atol=1e-6)


def test_reading_blends_by_similarity_and_gives_entries_no_gradient() -> None:
    cache = LocalCache(4, 3, temperature=0.5)
    queries = torch.randn(5, 3, requires_grad=True)
    got = cache.read(queries)
    for c, query in enumerate(queries.detach()):
        cosines = [float(query @ a / (query.norm() * a.norm())) for a in cache.entries]
        shares = [math.exp(v / 0.5) for v in cosines]
        want = sum(w * a for w, a in zip(shares, cache.entries, strict=True)) / sum(shares)
        torch.testing.assert_close(got[c].detach(), want)
    cache.write(torch.randn(9, 3))  # between reading and the backward pass, as in training
    torch.autograd.backward(got.square().sum())
    assert queries.grad is not None
    assert not cache.entries.requires_grad


def test_entries_start_close_together_as_in_the_authors_code() -> None:
    """TextRefiner's released code: uniform positive numbers have a pairwise cosine of about 0.75."""
    torch.manual_seed(0)
    positive, normal = (LocalCache(200, 512, start=s).entries for s in ("positive", "normal"))
    off = ~torch.eye(200, dtype=torch.bool)
    assert float((positive @ positive.T)[off].mean()) == pytest.approx(0.75, abs=0.01)
    assert float((normal @ normal.T)[off].mean()) == pytest.approx(0.0, abs=0.01)


def test_writing_is_in_full_precision_under_autocast() -> None:
    torch.manual_seed(0)
    one, two = LocalCache(4, 6), LocalCache(4, 6)
    two.entries.copy_(one.entries)
    x = torch.randn(20, 6)
    one.write(x)
    with torch.autocast("cpu", torch.bfloat16):
        two.write(x)
    assert torch.equal(one.entries, two.entries)


def test_impossible_caches_are_refused() -> None:
    with pytest.raises(ConfigError, match="entries must be at least 1"):
        LocalCache(0, 3)
    with pytest.raises(ConfigError, match="momentum must lie in"):
        LocalCache(2, 3, momentum=1.5)
    with pytest.raises(ConfigError, match="read_temperature be positive"):
        LocalCache(2, 3, temperature=0.0)


def test_alignment_is_two_convolutions_around_a_batch_norm() -> None:
    torch.manual_seed(0)
    align = TokenAlignment(4, 6)
    x = torch.randn(3, 5, 4)
    one = torch.nn.Conv2d(4, 6, 1)
    two = torch.nn.Conv2d(6, 6, 1)
    one.weight.data, one.bias.data = align.first.weight.data[..., None, None], align.first.bias.data  # type: ignore[union-attr]
    two.weight.data, two.bias.data = (
        align.second.weight.data[..., None, None],
        align.second.bias.data,
    )  # type: ignore[union-attr]
    image = x.permute(0, 2, 1)[..., None]
    want = two(torch.nn.BatchNorm2d(6)(one(image)).relu())[..., 0].permute(0, 2, 1)
    torch.testing.assert_close(align(x), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mean", "count"), [(True, 7), (False, 6)])
def test_salient_tokens_of_an_image(mean: bool, count: int) -> None:
    """TextRefiner: seven vectors in the code, six on the slides."""
    tokens, attention = torch.randn(2, 10, 3), torch.rand(2, 9)
    got = salient(tokens, attention, 5, mean=mean)
    assert got.shape == (2, count, 3)
    for b in range(2):
        best = sorted(range(9), key=lambda p: -float(attention[b, p]))[:5]
        want = [tokens[b, 0], *(tokens[b, 1 + p] for p in best)]
        if mean:
            want.append(tokens[b].mean(0))
        torch.testing.assert_close(got[b], torch.stack(want))


WRITE = """
import sys
import torch
from petiole.files import write_tensors
from petiole.layers.local_cache import LocalCache
from pathlib import Path

rank = int(sys.argv[2])
torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
torch.manual_seed(0)
cache = LocalCache(5, 6)
tokens = torch.randn(31, 6)
cache.write(tokens[:20] if rank == 0 else tokens[20:])
write_tensors(Path(sys.argv[1]) / f"rank{rank}", {"entries": cache.entries})
torch.distributed.destroy_process_group()
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_write_what_one_does(tmp_path: Path) -> None:
    """Each has its own share of a batch, of another size; both end with the same entries."""
    from safetensors.torch import load_file

    runs = [
        start(WRITE, tmp_path, rank, environment=environment)
        for rank, environment in enumerate(two_ranks())
    ]
    errors = [run.communicate()[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = LocalCache(5, 6)
        alone.write(torch.randn(31, 6))
    first, second = (load_file(tmp_path / f"rank{rank}")["entries"] for rank in (0, 1))
    assert torch.equal(first, second)
    torch.testing.assert_close(first, alone.entries)

"""Averaged ridge against the equations solved by brute force."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from petiole.errors import DataError
from petiole.layers import averaged_ridge as module
from petiole.layers.averaged_ridge import AveragedRidgeHead, blocks_of

CLASSES, WIDTH = 4, 7


def images(shots: int, source: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors around class means; the target's lie elsewhere and classes of the source are uneven."""
    draw = torch.Generator().manual_seed(seed)
    means = torch.randn(CLASSES, WIDTH, generator=draw)
    uneven = [c for c in range(CLASSES) for _ in range(source + 3 * c if source else 0)]
    labels = torch.tensor(uneven + [c for c in range(CLASSES) for _ in range(shots)])
    is_target = torch.arange(len(labels)) >= len(uneven)
    shift = torch.randn(WIDTH, generator=draw)
    noise = torch.randn(len(labels), WIDTH, generator=draw)
    return means[labels] + is_target[:, None] * shift + 0.7 * noise, labels, is_target


def brute_force(
    x: Tensor, y: Tensor, is_target: Tensor, m: float, gamma: float, out: Sequence[int] = ()
) -> np.ndarray:
    """Scores W'z + b of all images from normal equations of the stacked least squares, shots ``out`` left out."""
    x = normalize(x.double(), dim=-1)
    t = torch.nn.functional.one_hot(y, CLASSES).double()
    xs, ts = x[~is_target], t[~is_target]
    if len(xs):
        counts = ts.sum(0)
        w = torch.tensor([len(xs) / (CLASSES * counts[c]) for c in y[~is_target]])
        mu, prior = (w[:, None] * xs).sum(0) / len(xs), (w[:, None] * ts).sum(0) / len(xs)
        sigma = ((w[:, None] * (xs - mu) ** 2).sum() / (len(xs) * WIDTH)).sqrt()
    else:
        sigma = ((x - x.mean(0)) ** 2).mean().sqrt()
    z = x / sigma
    keep = is_target.clone()
    keep[torch.nonzero(is_target).flatten()[list(out)]] = False
    zt, tt = z[keep], t[keep]
    rows, aims = [zt - zt.mean(0)], [tt - tt.mean(0)]
    if len(xs) and m:
        root = (m * CLASSES / len(xs) * w).sqrt()[:, None]
        rows.append(root * (z[~is_target] - mu / sigma))
        aims.append(root * (ts - prior))
    rows.append(math.sqrt(gamma * WIDTH) * torch.eye(WIDTH, dtype=torch.float64))
    aims.append(torch.zeros(WIDTH, CLASSES, dtype=torch.float64))
    weight = torch.linalg.lstsq(torch.cat(rows), torch.cat(aims)).solution
    return ((z - zt.mean(0)) @ weight + tt.mean(0)).numpy()


@pytest.mark.parametrize("shots", [1, 5])  # fewer shots than features, and more
@pytest.mark.parametrize("source", [0, 6])
def test_one_cell_is_ridge(shots: int, source: int) -> None:
    x, y, is_target = images(shots, source)
    m, gamma = (0.6 if source else 0.0), 0.1
    head = AveragedRidgeHead(WIDTH, CLASSES, [m], [gamma])
    head.solve(x, y, is_target)
    assert torch.allclose(
        head(x).double() / head.scale,
        torch.tensor(brute_force(x, y, is_target, m, gamma)),
        atol=1e-5,
    )
    assert head.weight.abs().max() > 0.1


@pytest.mark.parametrize("shots", [2, 5])
def test_average_and_what_is_left_out(shots: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y, is_target = images(shots, 6)
    n = shots * CLASSES
    cells = list(product((0.0, 0.6, 6.0), (0.03, 0.3)))
    targets = torch.nn.functional.one_hot(y[is_target], CLASSES).double().numpy()
    place = np.flatnonzero(is_target.numpy())
    losses, whole, blocks = [], [], []
    for m, gamma in cells:
        whole.append(brute_force(x, y, is_target, m, gamma))
        left = [
            targets[i] - brute_force(x, y, is_target, m, gamma, [i])[place[i]] for i in range(n)
        ]
        prior = math.log((m or 0.06) / 3) ** 2 + math.log(gamma / 0.1) ** 2
        mean = np.mean([np.sum(r**2) for r in left])
        losses.append(n / 2 * math.log(mean) + prior / (2 * math.log(3.3) ** 2))
        scores = np.zeros((n, CLASSES))
        for block in blocks_of(y[is_target], 0):
            rows = block.tolist()
            scores[rows] = brute_force(x, y, is_target, m, gamma, rows)[place[rows]]
        blocks.append(scores)
    weights = np.exp(-(np.array(losses) - min(losses)))
    weights /= weights.sum()
    monkeypatch.setattr(module, "PARTITIONS", 1)
    head = AveragedRidgeHead(WIDTH, CLASSES, (0.0, 0.6, 6.0), (0.03, 0.3))
    head.solve(x, y, is_target)
    expected = np.tensordot(weights, np.array(whole), 1)
    assert np.allclose(head(x).numpy() / float(head.scale), expected, atol=1e-5)
    left_out = head.left_out(x, y, is_target)
    assert left_out is not None
    expected = np.tensordot(weights, np.array(blocks), 1)
    assert np.allclose(left_out.numpy() / float(head.scale), expected, atol=1e-4)
    assert float(head.mean_source_shots) == pytest.approx(sum(weights * [m for m, _ in cells]))


@pytest.mark.parametrize(("shots", "block"), [(4, 2), (60, 3), (60, 6), (60, 25), (60, 40)])
def test_blocks_are_left_out_through_the_smaller_matrix(shots: int, block: int) -> None:
    """M_QQ^-1 E, M = I - U (D + U'U)^-1 U' - r r'/n: fewer shots than features, small blocks, blocks beyond the features."""
    draw = torch.Generator().manual_seed(shots + block)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    weights = normal(shots).exp()
    targets = torch.nn.functional.one_hot(torch.arange(shots) % 3, 3).double()
    source = module._source(normal(0, 5), targets[:0], normal(9, 5))
    kept = module._Shots(normal(shots, 5), targets, source, weights / weights.mean())
    ridge, left = normal(5).exp(), normal(block, 3)
    u, r = kept.inputs, kept.root
    whole = (
        torch.eye(shots) - u @ torch.inverse(torch.diag(ridge) + u.T @ u) @ u.T - r @ r.T / shots
    )
    rows = torch.randperm(shots, generator=draw)[:block]
    wanted = torch.linalg.solve(whole[rows][:, rows], left)
    torch.testing.assert_close(
        module._Annihilator(kept, ridge).undone(rows, left), wanted, rtol=1e-6, atol=1e-7
    )


def test_the_scale_is_the_likeliest_under_its_prior() -> None:
    """argmin of n CE(s scores, labels) + (ln s - ln 3 sqrt K)^2 / (2 0.25^2), by a search over a grid."""
    x, y, is_target = images(2, 6, seed=2)
    head = AveragedRidgeHead(WIDTH, CLASSES)
    head.solve(x, y, is_target)
    left_out = head.left_out(x, y, is_target)
    assert left_out is not None
    scores, labels = left_out / head.scale, y[is_target]
    scales = torch.linspace(math.log(2), math.log(100), 4000).exp()
    # Of several partitions the mean is given, whose likelihood lies near theirs.
    loss = [
        len(labels) * float(cross_entropy(s * scores, labels))
        + (math.log(s) - math.log(3 * math.sqrt(CLASSES))) ** 2 / (2 * 0.25**2)
        for s in scales.tolist()
    ]
    assert float(head.scale) == pytest.approx(float(scales[int(np.argmin(loss))]), rel=0.02)


def test_one_shot_has_nothing_to_leave_out() -> None:
    x, y, is_target = images(1, 6)
    head = AveragedRidgeHead(WIDTH, CLASSES)
    head.solve(x, y, is_target)
    assert head.left_out(x, y, is_target) is None
    assert float(head.scale) == pytest.approx(3 * math.sqrt(CLASSES))


def test_a_class_without_shots_keeps_its_source() -> None:
    x, y, is_target = images(5, 30)
    keep = ~(is_target & (y == 2))
    head = AveragedRidgeHead(WIDTH, CLASSES, [2.0], [0.1])
    head.solve(x[keep], y[keep], is_target[keep])
    shots = head(x[~keep]).argmax(1)
    assert (shots == 2).float().mean() > 0.5


def test_blocks_hold_one_of_each() -> None:
    labels = torch.tensor([0] * 5 + [1] * 2 + [2] * 3)
    blocks = [labels[b].tolist() for b in blocks_of(labels)]
    assert [len(b) for b in blocks] == [3, 3, 2, 1, 1]
    assert all(len(set(b)) == len(b) for b in blocks)
    assert sorted(torch.cat(blocks_of(labels)).tolist()) == list(range(10))


def test_no_images_are_refused() -> None:
    with pytest.raises(DataError, match="at least one"):
        AveragedRidgeHead(3, 2).solve(
            torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.bool)
        )

"""Balanced classes: as many copies of an image as its class lacks would give the same head."""

import pytest
import torch
from torch import Tensor

from petiole.errors import ConfigError
from petiole.layers.averaged_ridge import AveragedRidgeHead, blocks_of
from petiole.layers.logistic import LogisticHead
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import KNNHead, balanced
from petiole.losses.classification import domain_cross_entropy

WIDTH, K = 6, 3


def uneven(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Eight, four and two target images of three classes, and five source images of each."""
    draw = torch.Generator().manual_seed(seed)
    y = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [0, 1, 2] * 5)
    x = torch.randn(K, WIDTH, generator=draw)[y] + torch.randn(len(y), WIDTH, generator=draw)
    return x, y, torch.arange(len(y)) < 14


def copied(x: Tensor, y: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    times = torch.where(is_target, 8 // torch.tensor([8, 4, 2])[y], 1)
    rows = torch.arange(len(y)).repeat_interleave(times)
    return x[rows], y[rows], is_target[rows]


def test_ridge_and_logistic_regression_equal_copies() -> None:
    x, y, t = (part[:14] for part in uneven())
    for make, scale in (
        # Weights have a mean of 1, so 14 weighted images weigh against the penalty what 24 copies do at 14 / 24 of it.
        (lambda s: RidgeHead(WIDTH, K, grid=(1.0 / s,)), 14 / 24),
        (lambda s: LogisticHead(WIDTH, K, grid=(1.0 * s,)), 14 / 24),
    ):
        one, other, plain = make(1.0), make(scale), make(1.0)
        one.weigh("balanced")
        one.solve(x, y, t)
        if isinstance(one, RidgeHead):
            other.solve(*copied(x, y, t))
            torch.testing.assert_close(one.weight, other.weight)
        plain.solve(x, y, t)
        assert not torch.allclose(one.weight, plain.weight, atol=1e-3)
        rare = torch.softmax(one(x), 1)[y == 2, 2], torch.softmax(plain(x), 1)[y == 2, 2]
        assert rare[0].mean() > rare[1].mean()


def test_averaged_ridge_equals_copies_and_leaves_out_exactly() -> None:
    x, y, t = uneven()
    one = AveragedRidgeHead(WIDTH, K, (3.0,), (0.1,))
    one.weigh("balanced")
    one.solve(x, y, t)
    other = AveragedRidgeHead(WIDTH, K, (3.0 * 24 / 14,), (0.1 * 24 / 14,))
    other.solve(*copied(x, y, t))
    torch.testing.assert_close(one.weight / one.scale, other.weight / other.scale)
    torch.testing.assert_close(one.bias / one.scale, other.bias / other.scale)

    found = one.left_out(x, y, t)
    posterior = one._posterior(x, y, t)
    shots = posterior.shots
    rows = blocks_of(y[t])[0]
    kept = torch.ones(14, dtype=torch.bool)
    kept[rows] = False
    weights = shots.root[kept].squeeze(1) ** 2
    # The block by refitting: unweighted coordinates, the mean of what is left, the same penalty.
    z = shots.inputs / shots.root
    r = shots.residual / shots.root
    zm, rm = ((weights[:, None] * v[kept]).sum(0) / weights.sum() for v in (z, r))
    source = shots.source
    rho = 3.0 * K / source.count
    ridge = torch.diag(rho * source.values + 0.1 * WIDTH)
    a = (z[kept] - zm) * shots.root[kept]
    b = (r[kept] - rm) * shots.root[kept]
    w = torch.linalg.solve(ridge + a.T @ a, rho * source.cross + a.T @ b)
    wanted = (z[rows] - zm) @ w + rm + shots.prior
    torch.testing.assert_close(posterior.left_out()[0][rows], wanted, atol=1e-6, rtol=1e-6)
    assert found.shape == (14, K)


def test_weights_of_the_loss_and_heads_without_a_use_for_them() -> None:
    y = torch.tensor([0, 0, 0, 1])
    assert balanced(y, 3).tolist() == pytest.approx([2 / 3, 2.0, 0.0])
    z = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    target = torch.ones(4, dtype=torch.bool)
    ce = -z.log_softmax(-1)[torch.arange(4), y]
    loss = domain_cross_entropy(z, y, target, class_weights=balanced(y, 3).float())
    assert loss == pytest.approx(float((ce[:3].mean() + ce[3]) / 2))
    with pytest.raises(ConfigError, match="KNNHead does not weigh images"):
        KNNHead(2, 2).weigh("balanced")

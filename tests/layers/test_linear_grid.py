"""The tuned linear head: every candidate is SGD with momentum, and held-back images choose."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from petiole.errors import ConfigError
from petiole.layers.linear_grid import BATCH, MOMENTUM, LinearGridHead


def problem(per_class: int = 12, noise: float = 0.5) -> tuple[Tensor, Tensor]:
    """Three classes in the last two of four columns; the first two say nothing."""
    g = torch.Generator().manual_seed(0)
    y = torch.arange(3).repeat(per_class)
    centres = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]], dtype=torch.float64)
    seen = centres[y] + noise * torch.randn(len(y), 2, generator=g, dtype=torch.float64)
    return torch.cat([torch.randn(len(y), 2, generator=g, dtype=torch.float64), seen], 1), y


@pytest.mark.parametrize("domains", [False, True])
def test_a_candidate_is_sgd_with_momentum_on_the_weighted_loss(domains: bool) -> None:
    """Against autograd and torch's own optimiser, on the same batches."""
    x, y = problem()
    is_target = torch.arange(len(y)) % 3 != 0 if domains else y == y
    n, rate, iterations = len(y), 0.05, 7
    head = LinearGridHead(4, 3, [slice(0, 4)], rates=[rate], iterations=iterations, folds=1)
    head.double()
    torch.manual_seed(3)
    head.solve(x, y, is_target)

    torch.manual_seed(3)
    weight = (0.01 * torch.empty(3, 4, dtype=torch.float64).normal_()).requires_grad_()
    order = torch.randperm(n)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    share = torch.ones(n, dtype=torch.float64)
    if domains:
        t = int(is_target.sum())
        share = torch.where(is_target, n / (2 * t), n / (2 * (n - t))).double()
    optimizer = torch.optim.SGD([weight, bias], lr=1.0, momentum=MOMENTUM)
    for step in range(iterations):
        decay = (1 + math.cos(math.pi * step / iterations)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate * n / BATCH * decay
        losses = cross_entropy(x[order] @ weight.T + bias, y[order], reduction="none")
        optimizer.zero_grad()
        (losses * share[order]).mean().backward()
        optimizer.step()
        order = torch.randperm(n)  # one batch is a whole pass
    torch.testing.assert_close(head.weight, weight.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(head.bias, bias.detach(), rtol=1e-6, atol=1e-9)


def test_held_back_images_choose_input_and_rate() -> None:
    x, y = problem()
    head = LinearGridHead(4, 3, [slice(0, 2), slice(2, 4)], rates=[1e-9, 3.0], iterations=60)
    head.double().solve(x, y, y == y)
    assert int(head.chosen_input) == 1
    assert float(head.chosen_rate) == pytest.approx(3.0)
    assert not head.weight[:, :2].any()
    assert head.weight[:, 2:].any()
    assert (head(x).argmax(1) == y).double().mean() > 0.95


def test_log_loss_chooses_where_hits_would_not() -> None:
    """Both rates are right on every held-back image; the larger one is surer of it."""
    x, y = problem(noise=0.0)
    for rate in (0.1, 3.0):
        alone = LinearGridHead(4, 3, [slice(2, 4)], rates=[rate], iterations=200)
        alone.double().solve(x, y, y == y)
        assert (alone(x).argmax(1) == y).all()
    head = LinearGridHead(4, 3, [slice(2, 4)], rates=[0.1, 3.0], iterations=200)
    head.double().solve(x, y, y == y)
    assert float(head.chosen_rate) == pytest.approx(3.0)


def test_every_target_image_is_held_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = problem()
    is_target = torch.arange(len(y)) % 2 == 0
    head = LinearGridHead(4, 3, [slice(2, 4)], rates=[0.1, 0.2], iterations=2, folds=3).double()
    sizes = []
    train = head._train

    def watched(x: Tensor, *rest: object) -> object:
        sizes.append(len(x))
        return train(x, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(head, "_train", watched)
    head.solve(x, y, is_target)
    assert sizes == [30, 30, 30, 36]  # 18 target images in three folds, the source always kept


def test_one_image_a_class_leaves_nothing_to_choose_on() -> None:
    x, y = problem(per_class=1)
    head = LinearGridHead(4, 3, [slice(2, 4), slice(0, 4)], rates=[0.1, 0.2, 0.3], iterations=3)
    head.double().solve(x, y, y == y)
    assert (int(head.chosen_input), float(head.chosen_rate)) == (0, pytest.approx(0.2))


def test_the_grid_is_dinov2s() -> None:
    rates = LinearGridHead(4, 3, [slice(0, 4)]).rates
    assert len(rates) == 13
    assert rates[0] == pytest.approx(1e-5)
    assert rates[-1] == pytest.approx(0.1)
    assert [round(b / a, 6) for a, b in itertools.pairwise(rates)][:3] == [2, 2.5, 2]


@pytest.mark.parametrize("rates", [(), (0.1, 0.0), (float("nan"),)])
def test_rates_must_be_positive(rates: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="must be positive"):
        LinearGridHead(4, 3, [slice(0, 4)], rates=rates)

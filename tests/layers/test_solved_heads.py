"""Solved heads against naive loops, closed forms and the optimality of their objectives."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from petiole.errors import ConfigError, DataError
from petiole.layers.averaged_ridge import AveragedRidgeHead
from petiole.layers.linear_grid import LinearGridHead
from petiole.layers.logistic import LogisticHead
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import (
    ClassMeansHead,
    KNNHead,
    SolvedHead,
    domain_weights,
    judging,
)

Make = Callable[[int, int], SolvedHead]
ALL: list[Make] = [
    ClassMeansHead,
    KNNHead,
    LogisticHead,
    RidgeHead,
    lambda d, k: LogisticHead(d, k, grid=(1.0,)),
]


def problem(
    seed: int = 0, *, classes: int = 3, per_class: int = 6, width: int = 5, sources: float = 0.5
) -> tuple[Tensor, Tensor, Tensor]:
    """Overlapping Gaussian classes; the first ``sources`` of each class are of the source."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(classes).repeat_interleave(per_class)
    centres = torch.randn(classes, width, generator=g)
    x = 1.5 * centres[y] + torch.randn(len(y), width, generator=g) + 2.0
    rank = torch.arange(per_class).repeat(classes)
    return x, y, rank >= round(sources * per_class)


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_domain_weights_have_mean_one_and_equal_sums(domains: list[bool]) -> None:
    is_target = torch.tensor(domains)
    w = domain_weights(is_target)
    assert float(w.mean()) == pytest.approx(1)
    assert bool((w > 0).all())
    if len(set(domains)) == 2:
        assert float(w[is_target].sum()) == pytest.approx(float(w[~is_target].sum()))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 30))
def test_knn_is_its_loop(seed: int, k: int) -> None:
    x, y, is_target = problem(seed)
    query = torch.randn(4, 5, generator=torch.Generator().manual_seed(seed + 1))
    head = KNNHead(5, 3, k=k, temperature=0.2).double()
    head.solve(x.double(), y, is_target)
    got = head(query.double())
    for row, q in enumerate(query.double()):
        similar = [float(q @ v / (q.norm() * v.norm())) for v in x.double()]
        near = sorted(range(len(x)), key=lambda i: -similar[i])[:k]
        votes = [sum(math.exp(similar[i] / 0.2) for i in near if int(y[i]) == c) for c in range(3)]
        for c in range(3):
            want = math.log(max(votes[c] / sum(votes), 1e-12))
            assert float(got[row, c]) == pytest.approx(want, rel=1e-5, abs=1e-5)


def test_class_means_weigh_both_domains_alike() -> None:
    x, y, is_target = problem(3, per_class=6, sources=5 / 6)
    head = ClassMeansHead(5, 3, scale=7.0).double()
    head.solve(x.double(), y, is_target)
    for c in range(3):
        total = torch.zeros(5, dtype=torch.float64)
        for domain in (False, True):
            for v, label, t in zip(x.double(), y, is_target, strict=True):
                if int(label) == c and bool(t) is domain:
                    total += v / v.norm() / int((is_target == domain).sum())
        q = x[0].double()
        want = 7 * float(q @ total) / float(q.norm() * total.norm())
        assert float(head(q[None])[0, c]) == pytest.approx(want, rel=1e-6)


@pytest.mark.parametrize("is_joint", [True, False])
def test_ridge_is_the_closed_form_at_the_penalty_that_leave_one_out_prefers(
    is_joint: bool,
) -> None:
    x, y, is_target = problem(1)
    is_target = is_target if is_joint else torch.ones_like(is_target)
    grid = (0.1, 1.0, 10.0)
    head = RidgeHead(5, 3, grid=grid).double()
    head.solve(x.double(), y, is_target)
    data, w = x.double().numpy(), domain_weights(is_target).numpy()
    targets = 2.0 * np.eye(3)[y.numpy()] - 1

    def solve(rows: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
        # Normal equations of the weighted problem with an unpenalised column of ones.
        z = np.hstack([data[rows], np.ones((len(rows), 1))])
        penalty = alpha * np.diag([1.0] * 5 + [0.0])
        solution = np.linalg.solve(
            z.T @ (w[rows, None] * z) + penalty, z.T @ (w[rows, None] * targets[rows])
        )
        return solution[:-1].T, solution[-1]

    every = np.arange(len(data))
    judged = np.flatnonzero(judging(is_target).numpy())
    assert (len(judged) < len(every)) == is_joint
    losses = []
    for alpha in grid:
        loss = 0.0
        for i in judged:
            weight, bias = solve(np.delete(every, i), alpha)
            loss += w[i] * ((weight @ data[i] + bias - targets[i]) ** 2).sum()
        losses.append(loss)
    best = grid[int(np.argmin(losses))]
    assert float(head.chosen_alpha) == pytest.approx(best)
    weight, bias = solve(every, best)
    np.testing.assert_allclose(head.weight.numpy(), weight, atol=1e-8)
    np.testing.assert_allclose(head.bias.numpy(), bias, atol=1e-8)


@pytest.mark.parametrize("c", [0.01, 1.0])
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_logistic_solution_is_stationary(c: float, classes: int) -> None:
    x, y, is_target = problem(2, classes=classes)
    head = LogisticHead(5, classes, grid=(c,)).double()
    head.solve(x.double(), y, is_target)
    assert float(head.chosen_c) == pytest.approx(c)
    mean = x.double().mean(0)
    sd = (x.double() - mean).square().mean().sqrt()
    z = (x.double() - mean) / sd
    weight = (head.weight * sd).clone().requires_grad_()
    bias = (head.bias + head.weight @ mean).clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(z @ weight.T + bias, y, reduction="none")
    penalty = (
        (weight[1] - weight[0]).square().sum() if classes == 2 else weight.square().sum()
    ) / 2
    total = c * (domain_weights(is_target) * loss).sum() + penalty
    gradients = torch.autograd.grad(total, (weight, bias))
    scale = c * len(y)
    if classes == 2:  # the binary form has one free row
        gradients = tuple(g[1] - g[0] for g in gradients)  # type: ignore[assignment]
    assert max(float(g.abs().max()) for g in gradients) < 2e-3 * max(scale, 1)


def test_logistic_choice_of_c_is_that_of_a_naive_search() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    x, y, is_target = problem(5, per_class=8)
    y = torch.tensor([0, 2, 4])[y]  # classes 1 and 3 have no images
    grid = (1e-3, 1e-1, 10.0)
    head = LogisticHead(5, 5, grid=grid, folds=4)
    head.solve(x, y, is_target)
    z = x.double() - x.double().mean(0)
    z = (z / z.square().mean().sqrt()).numpy()
    labels, w = y.numpy(), domain_weights(is_target).numpy()
    judged = np.flatnonzero(is_target.numpy())
    losses = []
    for c in grid:
        loss = 0.0
        folds = StratifiedKFold(4, shuffle=True, random_state=0)
        for _, held in folds.split(z[judged], labels[judged]):
            test = set(judged[held].tolist())
            train = [i for i in range(len(z)) if i not in test]
            model = LogisticRegression(C=c, max_iter=2000).fit(z[train], labels[train], w[train])
            p = dict(zip(sorted(test), model.predict_log_proba(z[sorted(test)]), strict=True))
            loss -= sum(p[i][list(model.classes_).index(labels[i])] for i in test)
        losses.append(loss)
    assert float(head.chosen_c) == pytest.approx(grid[int(np.argmin(losses))])


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("present", [(0, 2), (1, 3, 4)])
def test_a_class_without_images_never_wins(make: Make, present: tuple[int, ...]) -> None:
    x, y, is_target = problem(7, classes=len(present))
    y = torch.tensor(present)[y]
    head = make(5, 6)
    head.solve(x, y, is_target)
    far = 30 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    logits = head(torch.cat([far, -x]))
    assert logits.shape == (len(far) + len(x), 6)
    assert torch.isfinite(logits).all()
    assert set(logits.argmax(-1).tolist()) <= set(present)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_all_heads_learn_from_few_images(make: Make, classes: int, per_class: int) -> None:
    y = torch.arange(classes).repeat_interleave(per_class)
    g = torch.Generator().manual_seed(0)
    x = 4 * torch.eye(classes, 6)[y] + 0.1 * torch.randn(len(y), 6, generator=g) + 0.5
    head = make(6, classes)
    head.solve(x, y, torch.ones(len(y), dtype=torch.bool))
    assert torch.equal(head(x).argmax(-1), y)


@pytest.mark.parametrize("make", ALL)
def test_the_order_of_images_does_not_matter(make: Make) -> None:
    x, y, is_target = problem(4)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(1))
    if make is LogisticHead:  # its folds are drawn from the order; fits see canonical data sets
        make = ALL[-1]
    one, two = make(5, 3), make(5, 3)
    one.solve(x, y, is_target)
    two.solve(x[order], y[order], is_target[order])
    torch.testing.assert_close(one(x), two(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("make", ALL)
def test_the_solution_is_saved_whole(make: Make) -> None:
    x, y, is_target = problem(4)
    head, fresh = make(5, 3), make(5, 3)
    head.solve(x, y, is_target)
    assert not any(p.requires_grad for p in head.parameters())
    fresh.load_state_dict(head.state_dict(), strict=True)
    assert torch.equal(fresh(x), head(x))
    assert fresh.solution_size == head.solution_size > 0
    with pytest.raises(RuntimeError, match="Missing key"):
        fresh.load_state_dict({}, strict=True)


@pytest.mark.parametrize("make", [*ALL, AveragedRidgeHead])
def test_a_solution_and_what_it_says_of_left_out_images_need_no_gradient(make: Make) -> None:
    x, y, is_target = problem(4)
    head, asked = make(5, 3), x.requires_grad_()
    head.solve(asked.detach(), y, is_target)
    left_out = head.left_out(asked, y, is_target)
    assert left_out is not None
    assert not left_out.requires_grad
    assert not any(value.requires_grad for value in head.state_dict(keep_vars=True).values())


def test_logistic_regression_converges_on_wide_separable_features() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.arange(10).repeat_interleave(10)
    x = torch.randn(10, 200, generator=g)[y] + 0.5 * torch.randn(100, 200, generator=g)
    head = LogisticHead(200, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        head.solve(x, y, torch.ones(100, dtype=torch.bool))
    assert torch.equal(head(x).argmax(-1), y)


def test_wrong_settings_are_named() -> None:
    for grid in ((), (0.0, 1.0), (-1.0,), (math.nan,)):
        with pytest.raises(ConfigError, match="grid of C"):
            LogisticHead(4, 2, grid=grid)
        with pytest.raises(ConfigError, match="grid of alpha"):
            RidgeHead(4, 2, grid=grid)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        KNNHead(4, 2, k=0)
    with pytest.raises(ConfigError, match="temperature"):
        KNNHead(4, 2, temperature=0.0)
    with pytest.raises(DataError, match="at least two classes"):
        LogisticHead(4, 2).solve(torch.randn(3, 4), torch.zeros(3).long(), torch.ones(3).bool())


def test_fewer_images_than_features_give_the_solution_of_the_full_space() -> None:
    """The rotation into the span of the images changes nothing but the cost."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(24, 60, generator=generator)
    y = torch.arange(24) % 3
    head = LogisticHead(60, 3, grid=(0.5,))
    head.solve(x, y, torch.ones(24, dtype=torch.bool))
    z = (x - x.mean(0)).double().numpy()
    scale = float(np.sqrt((z**2).mean()))
    want = LogisticRegression(C=0.5, max_iter=5000, tol=1e-8).fit(z / scale, y.numpy())
    got = head.weight.double().numpy() * scale
    assert np.abs(got - want.coef_).max() < 1e-3


def test_the_target_chooses_the_penalty_whatever_the_source_prefers() -> None:
    rng = torch.Generator().manual_seed(0)
    y = torch.arange(2).repeat(30)
    is_target = torch.arange(60) < 20
    x = torch.randn(60, 8, generator=rng, dtype=torch.float64)
    x[~is_target, 0] += 20.0 * (
        2 * y[~is_target] - 1
    )  # the source is easy, and the target is noise
    alone, joint = RidgeHead(8, 2).double(), RidgeHead(8, 2).double()
    alone.solve(x[~is_target], y[~is_target], torch.zeros(40, dtype=torch.bool))
    joint.solve(x, y, is_target)
    assert 10 * float(alone.chosen_alpha) <= float(joint.chosen_alpha)


def test_one_image_is_no_error() -> None:
    head = RidgeHead(4, 2)
    head.solve(torch.ones(1, 4), torch.tensor([1]), torch.tensor([True]))
    assert head(torch.ones(1, 4)).argmax() == 1


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda grid: LogisticHead(5, 3, grid=grid), "C"),
        (lambda grid: RidgeHead(5, 3, grid=grid), "alpha"),
        (
            lambda grid: LinearGridHead(5, 3, [slice(0, 5)], rates=grid, iterations=30),
            "learning rate",
        ),
        (lambda grid: AveragedRidgeHead(5, 3, penalties=grid), "mean gamma"),
    ],
)
def test_a_setting_at_the_end_of_its_grid_is_remarked_on(
    make: Callable[[Sequence[float]], SolvedHead], name: str
) -> None:
    x, y, is_target = problem(3, classes=3, per_class=8)
    ends, whole = make((1e-9, 2e-9, 3e-9)), make((1e-9, 0.3, 1e9))
    ends.solve(x, y, is_target)
    (told,) = ends.remarks()
    assert told.startswith(f"{name}=")
    assert "an end of the grid" in told
    if name != "learning rate":  # whose middle one need not be best
        whole.solve(x, y, is_target)
        assert whole.remarks() == []
    assert make((1e-9, 2e-9)).remarks() == []

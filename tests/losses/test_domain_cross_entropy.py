import math

import pytest
import torch
from torch import Tensor

from petiole.errors import ConfigError
from petiole.losses.classification import domain_cross_entropy


def batch(targets: int, sources: int, classes: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(targets * 100 + sources)
    n = targets + sources
    logits = torch.randn(n, classes, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes, (n,), generator=generator)
    return logits, labels, torch.arange(n) < targets


def by_loop(logits: Tensor, labels: Tensor, rows: list[int], smoothing: float = 0.0) -> float:
    total = 0.0
    for i in rows:
        z = logits[i].tolist()
        normaliser = math.log(sum(math.exp(v) for v in z))
        hard = normaliser - z[int(labels[i])]
        uniform = sum(normaliser - v for v in z) / len(z)
        total += (1 - smoothing) * hard + smoothing * uniform
    return total / len(rows)


@pytest.mark.parametrize("weight", [0.0, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_weighs_domains_not_samples(weight: float, smoothing: float) -> None:
    logits, labels, is_target = batch(targets=3, sources=9)
    expected = weight * by_loop(logits, labels, [0, 1, 2], smoothing) + (1 - weight) * by_loop(
        logits, labels, list(range(3, 12)), smoothing
    )
    got = domain_cross_entropy(logits, labels, is_target, weight, smoothing)
    assert got.item() == pytest.approx(expected)


@pytest.mark.parametrize(("targets", "sources"), [(6, 0), (0, 6), (1, 0)])
def test_one_domain_is_plain_cross_entropy(targets: int, sources: int) -> None:
    logits, labels, is_target = batch(targets, sources)
    got = domain_cross_entropy(logits, labels, is_target, target_weight=0.3)
    assert got.item() == pytest.approx(by_loop(logits, labels, list(range(targets + sources))))


def test_gradient_reaches_both_domains_by_their_weights() -> None:
    logits, labels, is_target = batch(targets=2, sources=10)
    logits.requires_grad_()
    domain_cross_entropy(logits, labels, is_target, target_weight=1.0).backward()
    assert logits.grad is not None
    assert logits.grad[:2].abs().min() > 0
    assert (logits.grad[2:] == 0).all()


def test_unusable_values_are_refused() -> None:
    logits, labels, is_target = batch(2, 2)
    with pytest.raises(ConfigError, match="target_weight"):
        domain_cross_entropy(logits, labels, is_target, target_weight=1.5)
    with pytest.raises(ValueError, match="non-empty batch"):
        domain_cross_entropy(logits[:0], labels[:0], is_target[:0])
    with pytest.raises(ValueError, match="non-empty batch"):
        domain_cross_entropy(logits, labels[:3], is_target)


@pytest.mark.parametrize(("targets", "sources"), [(1, 5), (5, 1), (1, 1)])
def test_one_image_of_a_domain_is_a_domain(targets: int, sources: int) -> None:
    logits, labels, is_target = batch(targets, sources)
    rows = list(range(targets + sources))
    for weights in (
        torch.ones(4, dtype=torch.float64),
        torch.full((4,), 0.25, dtype=torch.float64),
    ):
        got = domain_cross_entropy(logits, labels, is_target, 0.3, class_weights=weights)
        wanted = 0.3 * by_loop(logits, labels, rows[:targets]) + 0.7 * by_loop(logits, labels, rows[targets:])  # fmt: skip
        assert got.item() == pytest.approx(wanted), (
            "shares of a domain, whatever its weights sum to"
        )


@pytest.mark.parametrize("weighed", [True, False])
def test_a_domain_whose_classes_weigh_nothing_adds_nothing(weighed: bool) -> None:
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    labels, first = torch.tensor([0, 0, 1, 1]), torch.tensor([True, True, False, False])
    is_target = first if weighed else ~first
    got = domain_cross_entropy(
        logits, labels, is_target, 0.3, class_weights=torch.tensor([1.0, 0.0, 1.0])
    )
    share = 0.3 if weighed else 0.7
    torch.testing.assert_close(got, share * torch.nn.functional.cross_entropy(logits[:2], labels[:2]))  # fmt: skip

"""Adversaries stay where they may be, and do what they are for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError
from petiole.methods.adversary import (
    PGD,
    attack,
    climbed,
    clipped,
    fgsm,
    perturb,
    pixel_gradient,
    radius,
)

SPEC = Preprocessing(
    size=(6, 6),
    crop=1.0,
    interpolation="bicubic",
    mean=(0.48, 0.46, 0.41),
    std=(0.27, 0.26, 0.28),
)
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (SPEC.mean, SPEC.std))
NET = torch.nn.Conv2d(3, 4, 3)


def images(seed: int = 0) -> Tensor:
    """With pixels at both ends of the scale."""
    generator = torch.Generator().manual_seed(seed)
    pixels = (torch.rand(2, 3, 6, 6, generator=generator) * 1.4 - 0.2).clamp(0, 1)
    return (pixels - MEAN) / STD


def loss(x: Tensor) -> Tensor:
    return (NET(x).sin() ** 2).mean()


@given(epsilon=st.floats(0, 0.5), seed=st.integers(0, 20))
def test_it_stays_in_the_ball_and_in_valid_pixels(epsilon: float, seed: int) -> None:
    before = images(seed)
    after = perturb(loss, before, SPEC, epsilon) * STD + MEAN
    assert float((after - (before * STD + MEAN)).abs().max()) <= epsilon + 1e-6
    assert -1e-6 <= float(after.min()) <= float(after.max()) <= 1 + 1e-6


def test_a_change_is_left_without_a_graph() -> None:
    delta = torch.zeros_like(images())
    assert pixel_gradient(lambda d: loss(images() + d), delta).abs().max() > 0
    assert not delta.requires_grad


def test_no_radius_is_no_change_to_the_bit() -> None:
    assert torch.equal(perturb(loss, images(), SPEC, 0.0), images())
    with pytest.raises(ConfigError, match="epsilon"):
        perturb(loss, images(), SPEC, -0.1)


def test_fgsm_is_the_sign_of_the_gradient_and_raises_the_loss() -> None:
    before = images().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(before), before)
    pixels = before.detach() * STD + MEAN
    want = (pixels + 0.01 * gradient.sign()).clamp(0, 1)
    after = perturb(loss, before, SPEC, 0.01)
    torch.testing.assert_close(after * STD + MEAN, want, rtol=0, atol=1e-6)
    assert loss(after) > loss(before)
    assert not after.requires_grad
    assert all(p.grad is None for p in NET.parameters())


def test_another_adversary_is_held_to_the_same_bounds() -> None:
    after = perturb(loss, images(), SPEC, 0.1, lambda _, pixels, __: torch.full_like(pixels, 9.0))
    want = ((images() * STD + MEAN) + 0.1).clamp(max=1)
    torch.testing.assert_close(after * STD + MEAN, want, rtol=0, atol=1e-6)
    learned = torch.full((), 0.05, requires_grad=True)
    assert not perturb(
        loss, images(), SPEC, 0.1, lambda _, x, __: learned.expand_as(x)
    ).requires_grad


def test_pgd_is_the_descent_written_out() -> None:
    """On pixels, without normalised images anywhere (Madry et al., 2018)."""
    net = torch.nn.Conv2d(3, 4, 3).double()
    before, epsilon, mean, std = images().double(), 0.1, MEAN.double(), STD.double()
    pixels = (before * std + mean).clamp(0, 1)

    def double(x: Tensor) -> Tensor:
        return (net(x).sin() ** 2).mean()

    start = torch.rand(pixels.shape, generator=torch.Generator().manual_seed(5)).double()
    changed = (pixels + (2 * start - 1) * epsilon).clamp(0, 1)
    for _ in range(4):
        changed.requires_grad_()
        (gradient,) = torch.autograd.grad(double((changed - mean) / std), changed)
        climbed = changed.detach() + 2.5 * epsilon / 4 * gradient.sign()
        changed = torch.clamp(climbed, pixels - epsilon, pixels + epsilon).clamp(0, 1)
    after = perturb(double, before, SPEC, epsilon, PGD(steps=4, seed=5))
    torch.testing.assert_close(after * std + mean, changed, rtol=0, atol=1e-7)
    one_step = perturb(double, before, SPEC, epsilon)
    assert double(after) > double(one_step) > double(before)


def test_attacks_go_by_name() -> None:
    assert attack("fgsm") is fgsm
    assert attack("pgd", steps=1, seed=3) == PGD(1, 3)
    assert PGD() == PGD(10, 0)
    for name, options, words in (
        ("pgm", {}, "pgd"),
        ("pgd", {"step": 3}, "option of the attack pgd"),
        ("fgsm", {"steps": 1}, "option of the attack fgsm"),
        ("pgd", {"steps": 0}, "pgd takes at least 1 step, not 0"),
    ):
        with pytest.raises(ConfigError, match=words):
            attack(name, **options)


@pytest.mark.parametrize(
    ("stated", "value"),
    [("0", 0.0), ("1", 1.0), ("10/255", 10 / 255), ("0.25", 0.25), ("2/2", 1.0)],
)
def test_a_radius_is_a_number_or_a_fraction(stated: str, value: float) -> None:
    assert radius(stated, "epsilon") == value


@pytest.mark.parametrize("stated", ["-1/255", "2", "256/255", "1/0", "nan", "a/b", ""])
def test_what_is_no_radius_is_refused(stated: str) -> None:
    with pytest.raises(ConfigError, match="epsilon"):
        radius(stated, "epsilon")


def test_a_change_is_put_back_into_the_ball_and_into_the_pixels_on_both_sides() -> None:
    delta = torch.tensor([-0.9, -0.3, 0.0, 0.3, 0.9])
    pixels = torch.tensor([0.1, 0.5, 0.5, 0.5, 0.9])
    torch.testing.assert_close(
        clipped(delta, pixels, 0.4), torch.tensor([-0.1, -0.3, 0.0, 0.3, 0.1])
    )
    torch.testing.assert_close(
        clipped(delta, pixels, 0.2), torch.tensor([-0.1, -0.2, 0.0, 0.2, 0.1])
    )
    start = climbed(lambda d: d.sum(), pixels, 0.2, 0, torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]))
    torch.testing.assert_close(start, torch.tensor([-0.1, -0.1, 0.0, 0.1, 0.1]))
    first = climbed(lambda d: d.sum(), pixels, 0.2, 5, torch.zeros(5))  # steps of 0.1 to the bound
    torch.testing.assert_close(first, torch.tensor([0.2, 0.2, 0.2, 0.2, 0.1]))


def test_what_cannot_be_attacked_is_said() -> None:
    with pytest.raises(ConfigError, match="epsilon must not be negative, but is nan"):
        perturb(loss, images(), SPEC, float("nan"))
    with pytest.raises(ConfigError, match="strips of patches, which attacks do not know"):
        perturb(loss, images(), SPEC.naflex(2, 4), 0.1)
    for blind in (lambda _: torch.ones(()), lambda _: torch.ones(1, requires_grad=True).sum()):
        with pytest.raises(ConfigError, match="no gradient to the pixels"):
            perturb(blind, images(), SPEC, 0.1)
    with torch.no_grad():
        assert perturb(loss, images(), SPEC, 0.1).ne(images()).any()

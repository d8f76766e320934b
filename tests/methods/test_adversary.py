"""Adversaries stay where they may be, and do what they are for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError
from petiole.methods.adversary import PGD, perturb, pixel_gradient

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

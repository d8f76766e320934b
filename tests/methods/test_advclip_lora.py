"""AdvCLIP-LoRA: its inner maximisation, and CLIP-LoRA where it has no room."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from petiole.backbones.frozen_network import IMAGES
from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.adversary import PGD, perturb
from petiole.methods.peft.advclip_lora import OwnPerturbations, SharedPerturbation
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import check_method
from petiole.testing import dual_encoder as clips
from petiole.testing.image_case import ImageCase
from petiole.testing.random_weights import images as noise
from petiole.testing.random_weights import preprocessing, seeded, shaken


def trained(name: str, **settings: object) -> dict[str, Tensor]:
    case = ImageCase(name, clips.towers(), None, settings)  # type: ignore[arg-type]
    return case.train().state_dict()


def test_a_ball_without_room_is_clip_lora_to_the_bit() -> None:
    """Although the adversary draws, and asks for gradients under dropout."""
    plain = trained("clip-lora")
    for settings in ({}, {"compat": True}, {"perturbation": "each"}):
        none = trained("advclip-lora", attack_epsilon="0", attack_steps=2, **settings)
        assert all(torch.equal(value, none[name]) for name, value in plain.items())
    other = trained("advclip-lora", attack_epsilon="10/255", attack_steps=2)
    assert any(not torch.equal(value, other[name]) for name, value in plain.items())


def attacked() -> tuple[AdaptedClassifier, Tensor, Tensor]:
    towers = clips.towers()
    with seeded(0):
        adapted = AdaptedClassifier(towers, create("clip-lora").plan(towers, 3))
        shaken(adapted)
    return adapted.eval(), noise(towers, 6), torch.arange(6) % 3


@pytest.mark.parametrize("compat", [False, True])
def test_inner_steps_raise_the_loss_and_stay_in_the_ball(compat: bool) -> None:
    adapted, images, labels = attacked()
    preprocessing = adapted.backbone.preprocessing
    epsilon = 10 / 255

    def loss(changed: Tensor) -> Tensor:
        return cross_entropy(adapted({IMAGES: changed}).logits, labels)

    found = []
    for steps in (1, 4, 16):
        adversary = SharedPerturbation(preprocessing, epsilon, steps, compat=compat)
        adversary.lasts(10, 10)
        with seeded(1):
            changed = adversary(loss, images)
        found.append(loss(changed).item())
        away = (changed - images).abs()
        if compat:
            assert away.max() <= epsilon + 1e-6
            assert torch.allclose(changed - images, adversary.delta.expand_as(images), atol=1e-6)
        else:
            mean, std = preprocessing.statistics()
            inside = (images * std + mean >= 0) & (images * std + mean <= 1)
            pixels = changed * std + mean
            assert ((away * std)[inside] <= epsilon + 1e-6).all()
            assert (pixels[inside] >= -1e-6).all()
            assert (pixels[inside] <= 1 + 1e-6).all()
    with seeded(1):
        start = loss(
            adversary.changed(images, (2 * torch.rand_like(adversary.delta) - 1) * epsilon)
        )
    assert start.item() < found[0] < found[1] <= found[2] + 1e-3


def test_the_perturbation_is_kept_between_batches_and_drawn_anew_at_a_pass() -> None:
    adapted, images, labels = attacked()
    adversary = SharedPerturbation(adapted.backbone.preprocessing, 0.1, 1, lr=0.0)
    adversary.lasts(10, 3)
    seen = []
    with seeded(2):
        for _ in range(4):
            adversary(lambda x: cross_entropy(adapted({IMAGES: x}).logits, labels), images)
            seen.append(adversary.delta.clone())
    assert torch.equal(seen[0], seen[2])
    assert not torch.equal(seen[2], seen[3])


def test_each_image_has_a_perturbation_of_its_own_that_raises_its_loss() -> None:
    """By projected gradient descent: in the ball, and not a matter of the images beside it."""
    adapted, images, labels = attacked()
    preprocessing, epsilon = adapted.backbone.preprocessing, 4 / 255
    adversary = OwnPerturbations(preprocessing, epsilon, 3)

    def losses(changed: Tensor) -> Tensor:
        logits = adapted({IMAGES: changed}).logits
        return cross_entropy(logits, labels[: len(changed)], reduction="none")

    with seeded(1):
        together = adversary(lambda changed: losses(changed).mean(), images)
    with seeded(1):
        alone = adversary(lambda changed: losses(changed).mean(), images[:1])
    torch.testing.assert_close(together[:1], alone)
    std = preprocessing.statistics()[1]
    deltas = (together - images) * std
    assert deltas.abs().max() <= epsilon + 1e-6
    assert not torch.equal(deltas[0], deltas[1])
    with torch.no_grad():
        assert (losses(together) > losses(images)).all()


def test_the_contract_holds_with_a_perturbation_for_each_image() -> None:
    check_method("advclip-lora", ["clip"], settings={"perturbation": "each", "attack_steps": 2})


def test_robust_accuracy_is_that_of_a_pgd_written_out() -> None:
    """The library's attack from the same start, in its own code and in raw pixels."""
    adapted, images, labels = attacked()
    mean, std = adapted.backbone.preprocessing.statistics()
    images = ((images * std + mean).clamp(0, 1) - mean) / std
    epsilon, steps = 8 / 255, 5
    x0 = images * std + mean
    x = x0 + (2 * torch.rand(x0.shape, generator=torch.Generator().manual_seed(0)) - 1) * epsilon
    x = torch.min(torch.max(x, x0 - epsilon), x0 + epsilon).clamp(0, 1)
    for _ in range(steps):
        x = x.detach().requires_grad_()
        logits = adapted({IMAGES: (x - mean) / std}).logits
        cross_entropy(logits, labels, reduction="sum").backward()
        x = x + 2.5 * epsilon / steps * x.grad.sign()
        x = torch.min(torch.max(x, x0 - epsilon), x0 + epsilon).clamp(0, 1)

    def loss(changed: Tensor) -> Tensor:
        return cross_entropy(adapted({IMAGES: changed}).logits, labels, reduction="sum")

    with torch.no_grad():
        want = adapted({IMAGES: (x - mean) / std}).logits
        ours = perturb(loss, images, adapted.backbone.preprocessing, epsilon, PGD(steps))
        got = adapted({IMAGES: ours}).logits
    assert torch.equal(got.argmax(1), want.argmax(1))
    assert cross_entropy(got, labels).item() == pytest.approx(
        cross_entropy(want, labels).item(), rel=0.02
    )


def test_what_it_costs_and_what_it_refuses() -> None:
    towers = clips.towers()
    plain, twice = (
        ledger(towers, create(name, more), 3)
        for name, more in (("clip-lora", {}), ("advclip-lora", {"attack_steps": 2}))
    )
    assert twice.flops_training == 3 * plain.flops_training
    assert twice.trainable == plain.trainable
    for bad in (
        {"attack_epsilon": "1/0"},
        {"attack_steps": 0},
        {"perturbation": "each", "compat": True},
    ):
        with pytest.raises(ConfigError):
            create("advclip-lora", bad).plan(towers, 3)


def test_the_released_code_bounds_a_channel_by_the_extremes_of_the_whole_batch() -> None:
    """No image is beyond [0, 1] behind the normalisation, whatever delta was: by loops over channels."""
    how = preprocessing().model_copy(update={"mean": (0.1, 0.4, 0.7), "std": (0.2, 0.5, 0.9)})
    module = SharedPerturbation(how, 0.5, 1, compat=True)
    images = torch.randn(4, 3, *how.size, generator=torch.Generator().manual_seed(0)) / 4
    for sign in (1.0, -1.0):
        found = module._bounded(torch.full((3, *how.size), 9 * sign), images)
        for channel, (mean, std) in enumerate(zip(how.mean, how.std, strict=True)):
            own = images[:, channel]
            wanted = (1 - mean) / std - own.min() if sign > 0 else -mean / std - own.max()
            torch.testing.assert_close(found[channel], wanted.expand(*how.size))


def test_steps_grow_from_one_over_the_length_to_one() -> None:
    module = SharedPerturbation(preprocessing(), 0.5, 1, ramp=4)
    delta = torch.full((3, *preprocessing().size), 0.5)
    found = []
    for passed in (0, 1, 4, 9):
        module.passed.fill_(passed)
        found.append(float(module._eta(delta)))
    length = float(delta.norm())
    assert found == pytest.approx([1 / length, 0.75 / length + 0.25, 1, 1])
    assert float(SharedPerturbation(preprocessing(), 0.5, 1, ramp=0)._eta(delta)) == pytest.approx(
        1 / length
    )

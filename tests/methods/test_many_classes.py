"""Texts in parts, recomputed in the backward pass: the same numbers in less memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from methods.test_prompts import adapted, batch, shaken
from petiole.backbones.frozen_network import IMAGES
from petiole.errors import ConfigError
from petiole.methods.prompt_learning.class_names import NamedTexts
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.testing import backbones as tiny

NAMES = ("ash", "birch", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine")


def texts_of(built: AdaptedClassifier) -> NamedTexts:
    """The host's head."""
    head = getattr(built.head, "host", built.head)
    assert isinstance(head, NamedTexts)
    return head


def trained(name: str, at_once: int, **settings: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss, and gradients by parameter."""
    built = shaken(adapted(name, names=NAMES, **settings)).train()
    texts_of(built).at_once = at_once
    state, labels = batch(built)
    loss_module = ClassificationLoss(built, 0.5, 0.0).train()
    with tiny.seeded(7), built.attached():
        loss = loss_module(state, labels, torch.ones(6, dtype=torch.bool))
        torch.autograd.backward(loss)
    grads = {n: p.grad for n, p in loss_module.named_parameters() if p.requires_grad}
    assert all(g is not None for g in grads.values())
    return loss.detach(), {n: g for n, g in grads.items() if g is not None}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("coop", {"phrase": "", "class_specific": True}),
        ("coop+textrefiner", {}),
        ("cocoop", {}),
        ("cocoop+textrefiner", {}),
        ("maple", {}),
        ("promptsrc", {}),
        ("clip-lora", {"dropout": 0.0}),
    ],
)
@pytest.mark.parametrize("at_once", [1, 4])
def test_texts_in_parts_give_the_same_loss_and_gradients(
    name: str, settings: dict[str, Any], at_once: int
) -> None:
    loss, grads = trained(name, at_once, **settings)
    want, wanted = trained(name, 0, **settings)
    torch.testing.assert_close(loss, want, rtol=1e-5, atol=1e-5)
    assert grads.keys() == wanted.keys()
    for parameter, gradient in wanted.items():
        if not parameter.endswith("align.first.bias"):  # a batch norm takes it out: rounding only
            torch.testing.assert_close(grads[parameter], gradient, rtol=1e-3, atol=1e-5)


def test_dropout_is_the_same_when_a_part_is_computed_again() -> None:
    """A step along the gradient explains the loss only if both passes dropped the same values."""
    built = shaken(adapted("clip-lora", names=NAMES, dropout=0.5)).train()
    texts_of(built).at_once = 3
    state, labels = batch(built)
    loss_module = ClassificationLoss(built, 0.5, 0.0).train()
    parameters = [p for p in loss_module.parameters() if p.requires_grad]

    def loss() -> Tensor:
        with tiny.seeded(7):
            out: Tensor = loss_module(state, labels, torch.ones(6, dtype=torch.bool))
            return out

    with built.attached():
        before = loss()
        grads = torch.autograd.grad(before, parameters)
        size = float(sum(g.square().sum() for g in grads))
        step = 1e-2 * float(before.detach()) / size
        with torch.no_grad():
            for p, g in zip(parameters, grads, strict=True):
                p -= step * g
        after = loss()
    assert float((before - after).detach()) == pytest.approx(step * size, rel=0.1)


def test_parts_keep_the_activations_of_one_part_at_most() -> None:
    def kept(at_once: int) -> int:
        built = adapted("coop", names=[f"{a} {b}" for a in NAMES for b in NAMES[:4]]).train()
        texts_of(built).at_once = at_once
        sizes: list[int] = []
        with (
            built.attached(),
            saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t),
        ):
            texts_of(built).embeddings()  # type: ignore[operator]
        return sum(sizes)

    assert kept(5) < 0.2 * kept(0)


@torch.no_grad()
def test_prediction_in_parts_is_the_same() -> None:
    for name in ("zero-shot-ensemble", "cocoop", "ivlp"):
        built = shaken(adapted(name, names=NAMES))
        images = tiny.images(built.backbone, 5)
        whole = built({IMAGES: images}).logits
        texts_of(built).at_once = 3
        torch.testing.assert_close(built({IMAGES: images}).logits, whole, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_contexts_of_their_own_belong_to_their_classes() -> None:
    built = adapted("coop", names=NAMES, phrase="", class_specific=True)
    built.name(NAMES[:4])
    with pytest.raises(
        ConfigError, match="10 classes has learned its own context; the 4 named now"
    ):
        built({IMAGES: tiny.images(built.backbone)})

"""OGEN's losses against their equations, its phases, and the names it reads beside the data's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, normalize

from petiole.errors import ConfigError
from petiole.methods.base import LossInputs
from petiole.methods.prompt_learning.class_names import TextHead
from petiole.methods.prompt_learning.ogen import RECONSTRUCTION, UnknownClasses
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import dual_encoder as clips
from petiole.testing.random_weights import seeded

NAMES = ("ash", "birch", "cedar", "elm", "fir")
NEW = ("oak", "pine", "yew", "willow")


def ready(host: str = "coop", **settings: object) -> tuple[AdaptedClassifier, UnknownClasses]:
    """A host with OGEN that knows its classes' statistics, without dropout."""
    towers = clips.towers()
    method = create("coop+ogen", {"host": host, "self_distillation": 0, **settings})
    with seeded(0):
        plan = method.plan(towers, len(NAMES))
        adapted = AdaptedClassifier(towers, plan)
        adapted.name(NAMES)
        assert plan.start
        labels = torch.arange(5).repeat(3)
        plan.start(torch.randn(15, towers.width), labels, torch.ones(15, dtype=torch.bool))
    (loss,) = (one for one in plan.losses if isinstance(one, UnknownClasses))
    return adapted, loss.eval()


def inputs(adapted: AdaptedClassifier) -> LossInputs:
    labels = torch.tensor([0, 3, 3])
    with seeded(1):
        vector = torch.randn(3, adapted.backbone.width)
    logits = adapted.head(vector)
    return LossInputs(
        vector,
        logits,
        labels,
        labels > -1,
        {},
        {},
        supervised=lambda: cross_entropy(logits, labels),
    )


def by_hand(adapted: AdaptedClassifier, loss: UnknownClasses, step: LossInputs) -> Tensor:
    """Sample by sample."""
    head, phi = adapted.head, loss.generator
    assert isinstance(head, TextHead)
    texts = head.embeddings()
    with head.reading(NEW):
        new = head.embeddings()
    share = torch.rand(())
    total = {name: torch.zeros(()) for name in ("a", "b", "ca", "cb", "cn")}
    for vector, label in zip(step.vector, step.labels.tolist(), strict=True):
        own, mean = normalize(vector, dim=0), normalize(loss.mean, dim=1)
        others = sorted(
            (c for c in range(5) if c != label), key=lambda c: -float(mean[c] @ mean[label])
        )
        near = torch.tensor(others[:3])
        known = loss.mean[near] + share * loss.spread[near]
        u = texts[label][None]
        a = phi(u[None], texts[near][None], known[None])[0, 0]
        b = torch.stack([phi(texts[c][None, None], u[None], own[None, None])[0, 0] for c in near])
        closest = (new @ u[0]).topk(3).indices
        n = torch.stack([phi(new[c][None, None], u[None], own[None, None])[0, 0] for c in closest])
        total["a"] += mse_loss(a, own) / 3
        total["b"] += mse_loss(b, known) / 3
        total["ca"] += cross_entropy(head.scale * texts @ a, step.labels.new_tensor(label)) / 3
        total["cb"] += cross_entropy(head.scale * b @ texts.T, near) / 3
        total["cn"] += cross_entropy(head.scale * n @ new.T, closest) / 3
    assert step.supervised
    named = (total["ca"] + total["cb"] + step.supervised()) / 4 + total["cn"] / 2
    return RECONSTRUCTION * (total["a"] + total["b"]) + named


@pytest.mark.parametrize("host", ["coop", "maple", "clip-lora"])
def test_the_loss_is_that_of_the_equations_on_any_host(host: str) -> None:
    adapted, loss = ready(host, unknown_names=", ".join(NEW))
    adapted.eval()
    with adapted.attached():
        step = inputs(adapted)
        with seeded(2):
            got = loss(step)
        with seeded(2):
            want = by_hand(adapted, loss, step)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_the_generator_learns_alone_in_the_first_fifth() -> None:
    adapted, loss = ready()
    loss.train().lasts(10, 1)
    moves = []
    with adapted.attached():
        for _ in range(4):
            adapted.zero_grad()
            adapted.head.forget()
            loss(inputs(adapted)).backward()
            moves.append(any(p.grad is not None and p.grad.any() for p in adapted.parameters()))
            assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert moves == [False, False, True, True]


def test_other_names_are_read_and_gone_again() -> None:
    """The names within are those of ``rename``, and what was known of the class vectors is still known."""
    adapted, _ = ready()
    head = adapted.eval().head
    assert isinstance(head, TextHead)
    with adapted.attached(), torch.no_grad():
        own = head.embeddings()
        with head.reading(NEW):
            new = head.embeddings()
        assert head.embeddings() is own
        head.rename(NEW)
        assert torch.equal(head.embeddings(), new)


def test_gradients_of_texts_that_are_computed_again_are_those_of_the_names_that_were_read() -> None:
    grads = []
    for at_once in (256, 2):
        adapted, _ = ready()
        head = adapted.head
        assert isinstance(head, TextHead)
        head.at_once = at_once
        with adapted.attached():
            with head.reading(NEW):
                new = head.embeddings()
            (new[:, 0].sum() + head.embeddings()[:, 1].sum()).backward()
        grads.append(next(adapted.parameters()).grad)
    torch.testing.assert_close(grads[0], grads[1])


@pytest.mark.parametrize("host", ["promptkd", "coop+textrefiner", "lora-qkv"])
def test_a_host_that_cannot_name_any_class_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="OGEN needs a host"):
        create("coop+ogen", {"host": host}).plan(clips.towers(), 3)


def test_new_classes_teach_no_class_that_is_known() -> None:
    adapted, loss = ready(unknown_names=",".join(NEW))
    step = inputs(adapted)
    texts = adapted.head.embeddings().detach().requires_grad_()  # type: ignore[operator]
    loss._new(step, texts, normalize(step.vector, dim=1)).backward()
    assert texts.grad is None
    assert any(p.grad is not None for p in loss.generator.parameters())

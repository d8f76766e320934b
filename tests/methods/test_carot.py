"""CaRot's losses against their equations, and what it trains."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from petiole.engine.weight_average import ExponentialAverage
from petiole.errors import ConfigError
from petiole.methods.base import LossInputs
from petiole.methods.prompt_learning.carot import Contrastive, Orthogonal, ToTeacher
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips


def inputs(taught: torch.Tensor | None = None) -> LossInputs:
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 3), torch.tensor([2, 0, 2, 1])
    again = (lambda: (torch.zeros(4, 1), taught)) if taught is not None else None
    return LossInputs(torch.zeros(4, 1), logits, labels, labels > -1, {}, {}, again=again)


def test_the_contrast_is_of_images_and_their_captions() -> None:
    step = inputs()
    want = 0.0
    for i, label in enumerate(step.labels):
        row = torch.stack([step.logits[i, c] for c in step.labels])
        column = torch.stack([step.logits[j, label] for j in range(4)])
        want += (
            float(cross_entropy(row, torch.tensor(i)) + cross_entropy(column, torch.tensor(i))) / 8
        )
    assert Contrastive()(step).item() == pytest.approx(want, rel=1e-6)


def test_the_teacher_is_followed_from_the_second_step_on() -> None:
    taught = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    loss, step = ToTeacher(1.5).train(), inputs(taught)

    class Average:
        weights = staticmethod(nullcontext)

    loss.learn_from(Average())
    first, second = loss(step).item(), loss(step).item()
    s, t = step.logits[:, step.labels], taught[:, step.labels]
    rows = -(t.softmax(1) * s.log_softmax(1)).sum(1).mean()
    columns = -(t.softmax(0) * s.log_softmax(0)).sum(0).mean()
    assert (first, second) == (0.0, pytest.approx(float(rows + columns) / 2, rel=1e-6))


@pytest.mark.parametrize("tune", ["all", "image", "projection"])
def test_the_projection_is_kept_orthogonal_where_its_copy_is_trained(tune: str) -> None:
    towers = clips.towers()
    plan = create("carot", {"tune": tune, "host": "clip-lora"}).plan(towers, 3)
    adapted = AdaptedClassifier(towers, plan)
    (loss,) = (one for one in plan.losses if isinstance(one, Orthogonal))
    copy = adapted.copies["visual_projection.weight"]
    with torch.no_grad():
        copy.mul_(1.5)
    with adapted.attached():
        got = loss(inputs())
    assert got.item() == pytest.approx((copy @ copy.T - torch.eye(18)).norm().item(), rel=1e-5)
    got.backward()
    assert copy.grad is not None
    texts = [name for name in adapted.copies if name.startswith("text")]
    assert bool(texts) == (tune == "all")
    assert "logit_scale" not in adapted.copies
    assert (len(adapted.copies) == 1) == (tune == "projection")


def test_the_momentum_rises() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = ExponentialAverage(model, 0.9, first=0.5, rise=4)
    average.begin()
    want = model.weight.item()
    for step, decay in enumerate((0.5, 0.6, 0.7, 0.8, 0.9, 0.9)):
        with torch.no_grad():
            model.weight.add_(1)
        average.after(step)
        want = decay * want + (1 - decay) * model.weight.item()
    with average.weights():
        assert model.weight.item() == pytest.approx(want, rel=1e-5)


def test_what_it_does_not_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="classes are sentences"):
        create("carot", {"host": "lora-qkv"}).plan(clips.towers(), 3)
    with pytest.raises(ConfigError, match="has none"):
        create("carot").plan(tiny.plain(), 3)
    with pytest.raises(ConfigError, match="average_rise"):
        create("carot", {"average_decay": 0})

"""The moving average of the weights, as a result and as a teacher."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import IMAGES
from petiole.engine.best_step import BestStep
from petiole.engine.weight_average import (
    ExponentialAverage,
    GaussianAverage,
    Teacher,
    WindowedAverage,
    make_average,
)
from petiole.errors import ConfigError
from petiole.methods.base import SelfTeacher
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.methods.self_distillation import SelfDistillation
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.testing import backbones as tiny
from petiole.testing import image_case as contract
from training_for_tests import Regression, descend, learned, regression, same

EMA = {"average_decay": 0.8, "average_as": "teacher"}


def test_the_average_is_that_of_the_steps() -> None:
    """theta_bar = d theta_bar + (1 - d) theta, from theta_0 on."""
    model = regression()
    average = ExponentialAverage(model, 0.8)
    average.begin()
    want = model.net[0].weight.detach().double()
    for step in range(5):
        with torch.no_grad():
            model.net[0].weight.mul_(1.3)
        average.after(step)
        want = 0.8 * want + 0.2 * model.net[0].weight.detach().double()
    own = model.net[0].weight.detach().clone()
    with average.weights():
        torch.testing.assert_close(model.net[0].weight.double(), want, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.net[0].weight, own)
    assert not any(kept.requires_grad for kept in average.buffers())
    average.finish()
    torch.testing.assert_close(model.net[0].weight.detach().double(), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "exact"), [(40, True), (400, False)])
def test_the_window_grows_from_few_steps_to_all(steps: int, exact: bool) -> None:
    """The mean of the last m(t) weights; in long trainings of so many, rounded up to where a sum was kept."""
    model = nn.Linear(1, 1, bias=False)
    average = WindowedAverage(model, 3, steps)
    average.begin()
    values: list[float] = []
    for step in range(steps):
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[float(step * step % 17)]]))
        values.append(model.weight.item())
        average.after(step)
        m = average.window(step + 1)
        begin = (step + 1 - m) // average.every * average.every
        assert begin == step + 1 - m or not exact
        want = sum(values[begin:]) / (step + 1 - begin)
        with average.weights():
            assert model.weight.item() == pytest.approx(want, rel=1e-4)
    assert not any(kept.requires_grad for kept in average.buffers())
    assert average.window(1) == 1
    assert average.window(steps // 8) < steps // 16 + 4
    assert average.window(steps) == steps


def test_windows_by_the_equation_and_how_many_sums_are_kept() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WindowedAverage(model, 3, 40)
    grown = [math.ceil((1 - math.cos(math.pi * t / 40)) / 2 * 37) for t in range(1, 41)]
    windows = [min(t, 3 + more) for t, more in enumerate(grown, 1)]
    assert [average.window(t) for t in range(1, 41)] == windows
    latest = max(t - m for t, m in enumerate(windows, 1))
    assert (average.every, average.marks) == (1, latest + 1)
    long = WindowedAverage(model, 3, 4000)
    latest = max(t - long.window(t) for t in range(1, 4001))
    assert long.every == -(-latest // 32) > 1
    assert len(long.get_buffer("before_0")) == long.marks == latest // long.every + 1
    for steps in (0, 1, 2):
        short = WindowedAverage(model, 3, steps)
        assert (short.first, short.every, short.marks) == (min(3, steps), 1, 1)


def test_epochs_weigh_as_a_gaussian_says_and_no_others_do() -> None:
    recipe = Recipe(batch_size=4, epochs=3.0, average_mean=2.5, average_sd=0.8)
    average = GaussianAverage(nn.Linear(1, 1), recipe, 2)
    heights = [math.exp(-(((epoch - 2.5) / 0.8) ** 2) / 2) for epoch in (1, 2, 3)]
    assert average.of_epoch == pytest.approx([height / sum(heights) for height in heights])


def test_a_recipe_says_how_the_decay_rises() -> None:
    recipe = Recipe(steps=10, average_decay=0.9, average_from=0.5, average_rise=0.4)
    average = make_average(nn.Linear(1, 1), recipe, 2)
    assert isinstance(average, ExponentialAverage)
    assert (average.decay, average.first, average.rise) == (0.9, 0.5, 4)
    assert make_average(nn.Linear(1, 1), Recipe(steps=10), 2) is None


class Taught(Regression):
    """Also drawn to its teacher, which is asked in the midst of the student's graph."""

    teacher: SelfTeacher

    def learn_from(self, teacher: SelfTeacher) -> None:
        self.teacher = teacher

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        loss = super().forward(x, y)
        with self.teacher.weights():
            target = self.net[3](torch.relu(self.net[0](x)))[:, 0]
        assert not target.requires_grad
        return loss + ((self.net[3](torch.relu(self.net[0](x)))[:, 0] - target) ** 2).mean()


def taught() -> Taught:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Taught()


def test_a_run_that_teaches_itself_resumes_to_the_same_bits(tmp_path: Path) -> None:
    whole = descend(taught(), checkpoint=tmp_path / "whole", **EMA)
    with pytest.raises(KeyboardInterrupt):
        descend(taught(), checkpoint=tmp_path / "parts", stop=3, **EMA)
    assert same(descend(taught(), checkpoint=tmp_path / "parts", **EMA), whole)
    assert learned(whole, taught().state_dict())
    assert not same(descend(regression(), **EMA), whole)  # the teacher had its say


def test_a_teacher_leaves_the_weights_and_a_result_takes_their_place() -> None:
    plain = descend(regression())
    assert same(descend(regression(), **EMA), plain)
    assert not same(descend(regression(), **EMA | {"average_as": "result"}), plain)


def test_who_wants_a_teacher_is_told_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match="average_decay"):
        descend(taught())


def test_what_is_kept_of_the_best_step_has_no_graph() -> None:
    best = BestStep(regression(), Recipe(steps=6), lambda: 0.0)
    assert len(list(best.buffers())) > 1
    assert not any(kept.requires_grad for kept in best.buffers())


@pytest.mark.parametrize(("a_pass", "steps"), [(0.4, 1), (1.0, 1), (3.7, 3)])
def test_what_changes_on_the_way_is_told_how_long_a_pass_lasts(a_pass: float, steps: int) -> None:
    told: list[tuple[int, int]] = []
    timed = regression()
    timed.net[1].lasts = lambda *lengths: told.append(lengths)  # type: ignore[assignment]
    descend(timed, a_pass=a_pass)
    assert told == [(6, steps)]


def test_self_distillation_is_zero_at_the_teacher_and_pulls_towards_it() -> None:
    """On an adapted backbone, gradients of the student as without a teacher's forward between."""
    backbone = tiny.plain()
    method = create("lora-qkv", contract.RECIPE)
    with tiny.seeded(0):
        adapted = AdaptedClassifier(backbone, method.plan(backbone, 3))
        tiny.shaken(adapted)
    loss_module = ClassificationLoss(adapted, 0.5, 0.0).eval()
    distils = SelfDistillation()
    object.__setattr__(adapted.plan, "losses", (distils,))
    average = ExponentialAverage(loss_module, 0.5)
    average.begin()
    distils.learn_from(Teacher(average))
    labels, target = torch.tensor([0, 1, 2]), torch.ones(3, dtype=torch.bool)
    state = {IMAGES: tiny.images(backbone)}
    with adapted.attached():
        with_teacher = loss_module(state, labels, target)
        gradients = torch.autograd.grad(with_teacher, _trained(loss_module), allow_unused=True)
        object.__setattr__(adapted.plan, "losses", ())
        plain = loss_module(state, labels, target)
        wanted = torch.autograd.grad(plain, _trained(loss_module), allow_unused=True)
        torch.testing.assert_close(with_teacher, plain, rtol=0, atol=1e-6)
        for got, want in zip(gradients, wanted, strict=True):
            assert (got is None) == (want is None)
            if want is not None:
                torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            for parameter in _trained(loss_module):
                parameter.add_(0.1 * torch.randn_like(parameter))
        object.__setattr__(adapted.plan, "losses", (distils,))
        assert loss_module(state, labels, target) > 1e-3


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad]

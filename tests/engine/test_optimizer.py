"""The prompt learners' training: rates by epoch, SGD, passes without a rest, averaged weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.engine.best_step import BestStep
from petiole.engine.optimizer import learning_rate, make_optimizer, parameter_groups
from petiole.engine.weight_average import GaussianAverage
from petiole.errors import ConfigError
from petiole.methods.recipe import PROMPT_LEARNING, Recipe
from petiole.methods.registry import create
from petiole.tasks.classification import training
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.tasks.classification.sampler import Sampler
from petiole.testing import dual_encoder as clips
from petiole.testing import image_case as contract


def test_rates_of_ten_epochs() -> None:
    """Dassl's rates of ten epochs, epoch by epoch, for lr 0.002."""
    recipe = Recipe(**PROMPT_LEARNING | {"epochs": 10})  # type: ignore[arg-type]
    got = [learning_rate(epoch * 25 + 24, recipe, 25) for epoch in range(10)]
    want = [
        1e-5,
        0.002,
        0.001951,
        0.001809,
        0.001588,
        0.001309,
        0.001,
        0.000691,
        0.000412,
        0.000191,
    ]
    np.testing.assert_allclose(got, want, atol=5e-7)
    first = [learning_rate(epoch * 25, recipe, 25) for epoch in range(10)]
    assert first == got  # one rate all through an epoch


@pytest.mark.parametrize(
    ("images", "epochs", "steps"),
    [(800, 10, 250), (304, 10, 90), (80, 10, 20), (3184, 10, 990), (20, 10, 10)],
)
def test_steps_of_the_published_table(images: int, epochs: int, steps: int) -> None:
    """As Dassl's loader: a pass drops its rest, unless that is all there is."""
    recipe = Recipe(**PROMPT_LEARNING | {"epochs": epochs})  # type: ignore[arg-type]
    assert recipe.resolved(images, 50).steps == steps


@given(images=st.integers(1, 60), size=st.integers(1, 20), seed=st.integers(0, 99))
def test_a_pass_without_a_rest_shows_no_image_twice(images: int, size: int, seed: int) -> None:
    data = contract.dataset(0, -(-images // 3))
    recipe = Recipe(batch_size=size, drop_last=True, epochs=2.0, train_on="target", views=0)
    sampler = Sampler(data, recipe, seed)
    a_pass = int(recipe.a_pass(len(data), 3))
    for epoch in range(2):
        batches = [sampler(epoch * a_pass + i)[0] for i in range(a_pass)]
        assert {len(b) for b in batches} == {min(size, len(data))}
        rows = torch.cat(batches).tolist()
        assert len(set(rows)) == len(rows)


def test_what_counts_epochs_needs_them() -> None:
    with pytest.raises(ConfigError, match="set epochs"):
        Recipe(schedule="epochs")
    with pytest.raises(ConfigError, match="set epochs"):
        Recipe(average_mean=3.0, epochs=2.5, batch_size=4)
    for bound in (
        "min_steps",
        "max_steps",
    ):  # the weights of all epochs, or the rates, are of whole ones
        for asked in ({"schedule": "epochs"}, {"average_mean": 1.0}):
            with pytest.raises(ConfigError, match=rf"{bound}=9.*set min_steps=0 and max_steps=0"):
                Recipe(**asked, **{bound: 9}, epochs=2, batch_size=4)  # type: ignore[arg-type]
    # A length in steps replaces a preset in epochs.
    assert create("coop", {"steps": 7}).recipe.resolved(100, 3).steps == 7


def loss_module() -> ClassificationLoss:
    towers: TwoTowers = clips.towers()
    torch.manual_seed(0)
    return ClassificationLoss(
        AdaptedClassifier(towers, create("ivlp", {"steps": 1}).plan(towers, 3)), 0.5, 0.0
    )


def test_sgd_decays_everything_and_keeps_momentum() -> None:
    model = loss_module()
    recipe = Recipe(**PROMPT_LEARNING | {"epochs": 1})  # type: ignore[arg-type]
    sgd = make_optimizer(model, recipe)
    assert isinstance(sgd, torch.optim.SGD)
    (group,) = sgd.param_groups
    assert (group["momentum"], group["weight_decay"]) == (0.9, 5e-4)
    assert (group["dampening"], group["nesterov"]) == (0, False)
    parameter = next(p for p in model.parameters() if p.requires_grad)
    old, velocity = parameter.detach().double().clone(), 0.0
    for _ in range(3):
        for p in model.parameters():
            p.grad = torch.full_like(p, 0.25)
        velocity = 0.9 * velocity + 0.25 + 5e-4 * old  # type: ignore[assignment]
        old = old - 0.002 * velocity
        sgd.step()
    torch.testing.assert_close(parameter.detach().double(), old, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("settings", "decayed"), [({}, [2, 4]), ({"decay_all": True}, [0, 1, 2, 4])]
)
def test_matrices_and_kernels_decay_and_vectors_do_not(
    settings: dict[str, Any], decayed: list[int]
) -> None:
    shapes = [(), (3,), (3, 2), (3, 2, 1, 1)]
    parts = nn.ParameterList([nn.Parameter(torch.ones(shape)) for shape in shapes])
    groups = parameter_groups(parts, Recipe(weight_decay=0.1, **settings), {})
    found = [p.ndim for group in groups if group["weight_decay"] == 0.1 for p in group["params"]]
    assert sorted(found) == decayed
    assert sum(len(group["params"]) for group in groups) == 4


def test_rates_rise_and_fall_by_hand() -> None:
    """The top is reached by the last step of the rise and kept by the first after it."""
    for schedule, falling in (
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("steps", [1.0, 0.853553, 0.5, 0.146447]),
    ):
        recipe = Recipe(steps=6, warmup=0.34, lr=3.0, schedule=schedule)  # type: ignore[arg-type]
        found = [learning_rate(step, recipe) / 3 for step in range(6)]
        assert found == pytest.approx([0.5, 1.0, *falling], abs=1e-6)
    all_rise = Recipe(steps=4, warmup=1.0, lr=4.0)
    assert [learning_rate(step, all_rise) for step in range(4)] == [1.0, 2.0, 3.0, 4.0]
    assert learning_rate(0, Recipe(steps=1, warmup=0.0, lr=0.5)) == 0.5


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_groups_have_their_own_factor_and_steps_are_fused(kind: Any) -> None:
    """Fused optimisers alone look at an overflow on the device (see ``LossScaler``)."""
    model = nn.Linear(2, 2)
    optimizer = make_optimizer(model, Recipe(optimizer=kind, lr=0.1), {id(model.weight): 3.0})
    assert optimizer.defaults["fused"] is True
    assert [group["factor"] for group in optimizer.param_groups] == [3.0, 1.0]
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 1]


def test_weights_are_averaged_under_a_gaussian() -> None:
    """PromptSRC's published setting: mean 15, sd 1, 20 epochs."""
    model = loss_module()
    recipe = Recipe(batch_size=4, epochs=20.0, average_mean=15.0, average_sd=1.0)
    average = GaussianAverage(model, recipe, a_pass=3)
    parameter = next(p for p in model.parameters() if p.requires_grad)
    want, total = torch.zeros_like(parameter, dtype=torch.float64), 0.0
    for step in range(60):
        with torch.no_grad():
            parameter += 0.01 * torch.randn_like(parameter)
        average.after(step)
        if step % 3 == 2:
            weight = math.exp(-((step // 3 + 1 - 15) ** 2) / 2)
            want += weight * parameter.detach().double()
            total += weight
    assert not any(kept.requires_grad for kept in average.buffers())
    average.finish()
    torch.testing.assert_close(parameter.detach().double(), want / total, rtol=1e-4, atol=1e-6)
    assert len(average.state_dict()) == sum(p.requires_grad for p in model.parameters())


def test_an_interrupted_average_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """The checkpoint holds the average so far."""

    def train(out: Path, stop: int = 0) -> dict[str, torch.Tensor]:
        towers = clips.towers()
        method = create("promptsrc", {"epochs": 4, "views": 0, "average_mean": 2.0, "depth": 2})
        torch.manual_seed(0)
        adapted = AdaptedClassifier(towers, method.plan(towers, 3))
        adapted.name(contract.CLASSES)
        table = contract.Memory(adapted, stored=True)

        def log(step: int, loss: float, lr: float) -> None:  # noqa: ARG001
            if stop and step >= stop:
                raise KeyboardInterrupt

        callbacks = training.Callbacks(checkpoint=out, every=0.0, quiet=True, log=log)
        data = contract.dataset(0, 6)
        training.train(adapted, data, table, method.recipe, seed=1, callbacks=callbacks)
        return {k: v.clone() for k, v in adapted.state_dict().items()}

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", stop=10)
    resumed = train(tmp_path / "parts")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    assert all(bool(value.any()) for name, value in whole.items() if "prompt" in name)


def test_what_is_kept_of_the_best_step_has_no_graph() -> None:
    module = torch.nn.Linear(2, 1)
    best = BestStep(module, Recipe(select="best", steps=4), lambda: 0.5)
    best.after(4)
    assert float(best.state[0]) == 0.5
    assert not any(value.requires_grad for value in best.buffers())

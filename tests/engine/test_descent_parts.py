"""Parts of a training: the best step, a batch that is evaluated again, averages, checkpoints, what a kind of task need not say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from petiole.engine import checkpoint
from petiole.engine.best_step import TIMES, BestStep
from petiole.engine.repeatable import Repeatable
from petiole.engine.task import TaskRun, adapter_class
from petiole.engine.trainer import Callbacks, Trainer
from petiole.engine.weight_average import make_average
from petiole.errors import ConfigError, RunError
from petiole.methods.recipe import Recipe
from training_for_tests import descend, regression

CPU = torch.device("cpu")
CUDA: Any = SimpleNamespace(type="cuda")
"""As much of a device as is asked for its kind."""


def judged(losses: list[float], steps: int, patience: int) -> tuple[BestStep, nn.Linear, list[int]]:
    """After steps whose weight is the number of the step; which of them were judged."""
    module = nn.Linear(1, 1, bias=False)
    left, asked = iter(losses), list[int]()

    def validate() -> float:
        assert not torch.is_grad_enabled()
        asked.append(round(module.weight.item()))
        return next(left)

    best = BestStep(module, Recipe(steps=steps, select="best", patience=patience), validate)
    for done in range(1, steps + 1):
        if best.exhausted:
            break
        with torch.no_grad():
            module.weight.fill_(float(done))
        best.after(done)
    return best, module, asked


def test_the_step_with_the_lowest_loss_is_put_back() -> None:
    best, module, asked = judged([3.0, 1.0, 1.0, 2.0], 4, 0)
    assert asked == [1, 2, 3, 4]
    best.finish()
    assert module.weight.item() == 2.0
    assert module.weight.requires_grad
    assert best.words() == "step 2 of 4: lowest held-back log-loss 1.000"


def test_it_stops_after_so_many_judgements_that_are_no_better() -> None:
    best, _, asked = judged([3.0, 4.0, 2.0, 2.0, 5.0], 9, 2)
    assert asked == [1, 2, 3, 4, 5]
    assert best.words() == "step 3 of 9: lowest held-back log-loss 2.000, stopped early"
    assert judged([3.0, 3.0], 9, 1)[2] == [1, 2], "of one"


@pytest.mark.parametrize(
    ("steps", "asked"),
    [(2 * TIMES - 1, [*range(1, 40)]), (2 * TIMES + 1, [*range(2, 41, 2), 41])],
)
def test_a_training_is_judged_so_often_and_at_its_end(steps: int, asked: list[int]) -> None:
    best, _, found = judged([1.0] * steps, steps, 0)
    assert found == asked
    assert not best.exhausted


def test_nothing_is_put_back_where_no_loss_was_a_number() -> None:
    best, module, _ = judged([torch.nan, torch.inf], 2, 0)
    best.finish()
    assert module.weight.item() == 2.0
    assert best.state.tolist() == [torch.inf, 0, 2]


def test_an_average_is_judged_in_the_place_of_the_weights() -> None:
    from contextlib import contextmanager

    module = nn.Linear(1, 1, bias=False)

    @contextmanager
    def average() -> Iterator[None]:
        own = module.weight.data
        module.weight.data = torch.full((1, 1), 5.0)
        yield
        module.weight.data = own

    best = BestStep(module, Recipe(steps=1, select="best"), lambda: module.weight.item())
    best.after(1, average)
    assert best.state.tolist() == [5.0, 1.0, 0.0]
    best.finish()
    assert module.weight.item() == 5.0


def test_a_batch_that_is_evaluated_again_counts_once() -> None:
    """The same dropout and the same gradient each time; statistics and generator as after the first."""
    module = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 1))
    x = torch.arange(12.0).reshape(4, 3)

    def gradient() -> torch.Tensor:
        loss = module(x).square().mean()
        loss.backward()
        return loss.detach()

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        once = Repeatable(gradient, module, CPU)
        first = once()
        wanted = module[2].weight.grad.clone()  # type: ignore[union-attr,operator]
        state, random = (
            {k: v.clone() for k, v in module.state_dict().items()},
            torch.get_rng_state(),
        )
        for _ in range(2):
            assert torch.equal(once(), first)
            assert torch.equal(module[2].weight.grad, wanted)  # type: ignore[arg-type]
            assert all(torch.equal(module.state_dict()[k], v) for k, v in state.items())
            assert torch.equal(torch.get_rng_state(), random)
    assert state["0.num_batches_tracked"] == 1


def test_the_generator_of_the_device_is_left_as_after_the_first_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    state = [torch.tensor(5)]

    def put(value: torch.Tensor, device: Any) -> None:
        assert device is CUDA
        state[0] = value

    def gradient() -> torch.Tensor:
        state[0] = state[0] + 1
        return state[0]

    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: state[0] if device is CUDA else None)  # fmt: skip
    monkeypatch.setattr(torch.cuda, "set_rng_state", put)
    once = Repeatable(gradient, nn.Linear(1, 1), CUDA)
    assert [int(once()) for _ in range(3)] == [6, 6, 6]
    assert int(state[0]) == 6


@pytest.mark.parametrize("kept", [{"average_decay": 0.5}, {"average_window": 2}])
@pytest.mark.parametrize("used", ["result", "teacher"])
def test_an_average_replaces_the_weights_where_it_is_the_result(
    kept: dict[str, Any], used: str
) -> None:
    average = make_average(nn.Linear(1, 1), Recipe(steps=4, average_as=used, **kept), 2)  # type: ignore[arg-type]
    assert average is not None
    assert average.replaces == (used == "result")


def test_a_checkpoint_that_cannot_be_written_costs_the_checkpoint_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("petiole.engine.trainer.checkpoint.save", full)
    for main in (True, False):
        accelerator = SimpleNamespace(is_main_process=main, device=torch.device("cpu"))
        given: Any = (accelerator, nn.Linear(1, 1), None, None, None, Recipe(steps=4), 1.0, 0)
        trainer = Trainer(*given)
        trainer._save(Callbacks(), 3, nn.Linear(1, 1))  # asked for none
        if main:
            with pytest.warns(
                UserWarning, match=r"No checkpoint after step 3: No space left"
            ) as told:
                trainer._save(Callbacks(checkpoint=tmp_path / "c"), 3, nn.Linear(1, 1))
            assert told[0].filename == __file__
        else:
            trainer._save(Callbacks(checkpoint=tmp_path / "c"), 3, nn.Linear(1, 1))


@pytest.mark.parametrize("step", [0, -1])
def test_a_checkpoint_of_no_possible_step_is_damaged(tmp_path: Path, step: int) -> None:
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters())
    checkpoint.save(tmp_path / "c", step, "me", model, optimizer)
    if step < 0:
        with pytest.raises(RunError, match="its step is -1"):
            checkpoint.load(tmp_path / "c", "me", model, optimizer)
    else:
        assert checkpoint.load(tmp_path / "c", "me", model, optimizer) == 0


def test_what_a_kind_of_task_need_not_say(tmp_path: Path) -> None:
    bare: Any = SimpleNamespace()
    assert TaskRun.scores_together.fget(bare) is False  # type: ignore[attr-defined]
    assert TaskRun.feature_seconds.fget(bare) == 0.0  # type: ignore[attr-defined]
    assert (TaskRun.options(bare), TaskRun.finish(bare, None, tmp_path)) == ({}, {})
    assert TaskRun.training_flops(bare, None, None, None) is None  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Unknown kind of task 'classificatio'"):
        adapter_class("classificatio")


def test_memory_is_given_back_with_each_checkpoint_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[bool] = []
    monkeypatch.setattr("petiole.engine.trainer.release_memory", lambda: given.append(True))
    descend(regression(), checkpoint=tmp_path / "c")
    assert len(given) == 6 + 1

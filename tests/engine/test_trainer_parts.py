"""What a trainer does around its steps: modes, seeds, checkpoints by the clock, the bar, what it tells and hands on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from petiole.engine import trainer
from petiole.engine.optimizer import make_optimizer
from petiole.engine.trainer import Callbacks, Trainer, accelerate
from petiole.methods.recipe import Recipe
from training_for_tests import Bare, batches, descend, regression, same


def made(loss_module: nn.Module, *, precision: Any = "fp32", **recipe: Any) -> Trainer:
    chosen = Recipe(**{"steps": 6, "warmup": 0.0, "lr": 0.05} | recipe)
    optimizer = make_optimizer(loss_module, chosen)
    terms: Any = (accelerate(loss_module), loss_module, Bare(), batches, optimizer, chosen, 2.0)
    return Trainer(*terms, seed=3, precision=precision)


def test_a_module_that_was_evaluated_is_trained_in_training_mode() -> None:
    assert same(descend(regression().eval()), descend(regression()))


def test_no_two_steps_of_any_seed_and_rank_have_the_same_dropout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(trainer, "seed_device", lambda _, seed: drawn.append(seed))
    used: Any = SimpleNamespace(after_backward=lambda: None)
    for rank in range(3):
        monkeypatch.setattr(trainer, "rank", lambda rank=rank: rank)
        one = made(regression())
        for one.seed in (0, 1, 7):
            for step in (0, 1, 2):
                one._step(one.loss_module, step, used)
    assert len(set(drawn)) == 27
    assert all(type(seed) is int and seed >= 0 for seed in drawn)


def test_checkpoints_are_written_when_it_is_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of steps of ten seconds, every second one; by the steps that are done."""
    clock, saved = [5.0], list[int]()
    monkeypatch.setattr(trainer, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(trainer.checkpoint, "save", lambda _, step, *__: saved.append(step))

    def measure(_: int) -> None:
        clock[0] += 10

    callbacks = Callbacks(checkpoint=tmp_path / "c", every=20.0, quiet=True)
    made(regression()).run(callbacks, measure=measure)
    assert saved == [2, 4, 6]


class Bar:
    """Notes what a bar is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @contextmanager
    def __call__(self, *of: Any, **how: Any) -> Iterator[Callable[..., None]]:
        self.told.append((of, how))
        yield lambda *given: self.told.append(given)


def test_what_is_told_on_the_way_and_after_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bar, heard, begun = Bar(), list[int](), list[bool]()
    monkeypatch.setattr(trainer, "progress", bar)
    waited: list[bool] = []
    monkeypatch.setattr("accelerate.Accelerator.wait_for_everyone", lambda _: waited.append(True))

    def run(last: int) -> Callbacks:
        def measure(step: int) -> None:
            heard.append(step)
            if step == last:
                raise KeyboardInterrupt

        callbacks = Callbacks(checkpoint=tmp_path / "c", every=0.0)
        try:
            made(regression()).run(callbacks, fresh=lambda: begun.append(True), measure=measure)
        except KeyboardInterrupt:
            assert last < 6
        return callbacks

    first, second = run(2), run(7)
    assert (first.steps, second.steps) == (2, 4)
    assert heard == [0, 1, 2, 2, 3, 4, 5, 6]
    assert begun == [True]
    assert waited == [True], "of a training that came to its end"
    shown = (("training", 6), {"quiet": False})
    told = [note[:4] if isinstance(note := one[-1], str) else one for one in bar.told]
    assert told == [shown, (0,), "loss", "", shown, (2,), "", "", "", "loss"]
    assert {one[0] for one in bar.told if isinstance(one[-1], str)} == {1}


@pytest.mark.parametrize(
    ("kept", "judged"),
    [({}, False), ({"average_decay": 0.5}, True), ({"average_decay": 0.5, "average_as": "teacher"}, False)],
)  # fmt: skip
def test_the_best_step_is_judged_after_each_by_an_average_that_replaces(
    kept: dict[str, Any], judged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    class Best(nn.Module):
        """Is exhausted after four steps."""

        def __init__(self, *given: object) -> None:
            super().__init__()
            heard.append(given)

        exhausted = property(lambda _: len(heard) == 5)

        def after(self, done: int, weights: Any) -> None:
            heard.append((done, weights))

        def finish(self) -> None:
            heard.append("finish")

        def words(self) -> str:
            return "the fourth"

    monkeypatch.setattr(trainer, "BestStep", Best)
    module, callbacks = regression(), Callbacks(quiet=True)
    terms: Any = (accelerate(module), module, Bare(), batches)
    recipe = Recipe(steps=6, select="best", **kept)
    validate = lambda: 0.0  # noqa: E731
    one = Trainer(*terms, make_optimizer(module, recipe), recipe, 2.0, 3, validate)
    one.run(callbacks)
    assert heard[0] == (module, recipe, validate)
    assert [done for done, _ in heard[1:5]] == [1, 2, 3, 4]
    assert heard[5:] == ["finish"]
    assert {weights == getattr(one.average, "weights", None) for _, weights in heard[1:5]} == {
        judged
    }
    assert (callbacks.steps, callbacks.selection) == (4, "the fourth")


def test_the_loss_of_a_step_holds_no_graph() -> None:
    one, used = made(regression()), SimpleNamespace(after_backward=lambda: None)
    loss, rate = one._step(one.loss_module, 0, used)  # type: ignore[arg-type]
    assert not loss.requires_grad
    assert rate == 0.05


@pytest.mark.parametrize(("rule", "times"), [("plain", 0), ("sam", 1)])
def test_a_batch_is_kept_for_rules_that_evaluate_it_again_alone(
    rule: str, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs copies of the buffers and of the generator's state."""
    kept: list[Any] = []

    def repeatable(gradient: Callable[[], Any], *of: Any) -> Callable[[], Any]:
        kept.append(of)
        return gradient

    monkeypatch.setattr(trainer, "Repeatable", repeatable)
    one, used = made(regression(), step_rule=rule), SimpleNamespace(after_backward=lambda: None)
    one._step(one.loss_module, 0, used)  # type: ignore[arg-type]
    assert kept == [(one.loss_module, torch.device("cpu"))] * times
    assert one.gradient_evaluations == times + 1


def test_momentum_of_fp16_begins_at_zero() -> None:
    """Else that of a first step which overflows is whatever lay in memory."""
    for precision in ("fp16", "fp32"):
        one = made(regression(), precision=precision, optimizer="sgd")
        known = [state["momentum_buffer"] for state in one.optimizer.state.values()]
        assert len(known) == (6 if precision == "fp16" else 0)
        assert not any(buffer.any() for buffer in known)


def test_a_rule_is_prepared_for_what_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    one, seen = made(regression()), list[nn.Module]()
    monkeypatch.setattr(type(one.rule), "prepare", lambda _, module: seen.append(module))
    kept = one._kept()
    assert seen == [one.loss_module]
    assert set(kept) == {"loss_module", "step_rule"}


def test_an_average_lies_on_the_device_of_the_training() -> None:
    one = made(regression(), average_decay=0.5)
    one.accelerator = SimpleNamespace(device=torch.device("meta"))  # type: ignore[assignment]
    one._kept()
    assert one.average is not None
    assert {buffer.device.type for buffer in one.average.buffers()} == {"meta"}


@pytest.mark.parametrize(
    ("device", "known", "reset"),
    [
        ("cpu", ({}, {}), []),
        ("cpu", ({"_cpu": True}, {"_mixed_precision": "no"}), []),
        ("cpu", ({"_cpu": False}, {}), [True]),
        ("meta", ({"_cpu": True}, {}), [True]),
        ("meta", ({"_cpu": False}, {}), []),
        ("cpu", ({"_cpu": True}, {"_mixed_precision": "fp16"}), [False]),
    ],
)
@pytest.mark.parametrize("partly", [True, False])
def test_another_device_or_precision_needs_a_fresh_state(
    device: str,
    known: tuple[dict[str, Any], dict[str, Any]],
    reset: list[bool],
    partly: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[bool] = []
    state = SimpleNamespace(
        _shared_state=known[1], _reset_state=lambda *, reset_partial_state: done.append(reset_partial_state)
    )  # fmt: skip
    monkeypatch.setattr("accelerate.state.PartialState", SimpleNamespace(_shared_state=known[0]))
    monkeypatch.setattr("accelerate.state.AcceleratorState", state)
    monkeypatch.setattr("accelerate.Accelerator", lambda **given: given)
    given: Any = accelerate(nn.Linear(1, 1, device=device), partly=partly)
    assert done == reset
    assert (given["cpu"], given["mixed_precision"]) == (device == "cpu", "no")
    if partly:
        assert [handler.find_unused_parameters for handler in given["kwargs_handlers"]] == [True]
    else:
        assert given["kwargs_handlers"] is None

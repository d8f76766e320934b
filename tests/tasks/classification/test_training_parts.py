"""What a training is told to last, doubt, the search over paths, who judges held-back images, and scores on other images."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from builders.comparisons import images
from builders.group import together
from petiole.engine.record import lines
from petiole.engine.timing import in_words
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError, RunError
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks.classification import held_back, path_search, training, transfer_eval
from petiole.tasks.classification.cost_estimate import _count
from petiole.tasks.classification.doubt import Doubt
from petiole.tasks.classification.held_back import HeldBack
from petiole.tasks.classification.model import Predictions
from petiole.testing import backbones as tiny


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (20, "under half a minute"),
        (20.5, "about a minute"),
        (89.9, "about a minute"),
        (90, "about 2 minutes"),
        (5399, "about 90 minutes"),
        (5400, "about 1.5 hours"),
    ],
)
def test_seconds_are_told_in_the_unit_that_suits(seconds: float, said: str) -> None:
    assert in_words(seconds) == said


def test_one_is_told_without_a_plural() -> None:
    assert [_count(n, "run") for n in (0, 1, 2, 1200)] == [
        "0 runs",
        "1 run",
        "2 runs",
        "1,200 runs",
    ]


@dataclass
class Calibrated:
    """As much of a calibration as doubt asks for."""

    bounds: ClassVar[Mapping[float, float]] = {0.5: 0.3, 0.7: 0.25, 0.9: inf}
    images: int = 7

    def bound(self, coverage: float) -> float:
        return self.bounds[coverage]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5])
@pytest.mark.parametrize("option", ["coverage", "abstain_below"])
def test_doubt_takes_probabilities(option: str, value: float) -> None:
    known: Any = Calibrated()
    with pytest.raises(ConfigError, match=rf"--{option.replace('_', '-')} is a probability"):
        Doubt(known, adapter="a", **{option: value})
    with pytest.raises(ConfigError, match=r"a is not calibrated, so --"):
        Doubt(None, adapter="a", **{option: 0.5})


def test_what_is_asked_for_beside_labels() -> None:
    known: Any = Calibrated()
    plain = Doubt(None, adapter="a")
    assert plain.notes == ["the adapter is not calibrated: its probabilities rank classes, no more"]
    assert plain.label_set("x", {"x": 0.9}) == []
    assert plain.abstain(0.1, True) is None
    sets = Doubt(known, 0.5, adapter="a")
    assert (sets.notes, sets.bound) == ([], 0.3)
    assert sets.label_set("y", {"x": 0.75, "z": 0.6, "y": 0.2}) == ["x", "y"]
    assert Doubt(replace(known, images=1), 0.7, adapter="a").label_set("z", {"x": 0.75, "z": 0.25}) == ["x", "z"]  # fmt: skip
    few = Doubt(known, 0.9, adapter="a")
    assert few.notes == [
        "7 left-out images are too few for sets at 0.9: each set holds all classes"
    ]
    assert few.label_set("x", {"x": 0.9, "y": 0.0}) == ["x", "y"]
    careful = Doubt(known, abstain_below=0.6, adapter="a")
    assert [careful.abstain(p, odd) for p, odd in ((0.59, None), (0.6, None), (0.6, True), (0.6, False))] == [True, False, True, False]  # fmt: skip


class Layer:
    """A layer that has the path that was chosen last."""

    def __init__(self) -> None:
        self.settled = 0

    def settle(self) -> None:
        self.settled += 1


def search(tmp_path: Path, patch: pytest.MonkeyPatch, judged: Mapping[str, float]) -> tuple[Any, list[Any], Path]:  # fmt: skip
    """Over three paths, of which the best is asked for twice; what was chosen, and in which order."""
    layers, done = [Layer(), Layer()], list[Any]()
    names = list(judged)

    def best(score: Any) -> tuple[str, ...]:
        found = [score(tuple(name.split(","))) for name in [*names, names[0]]]
        return tuple(names[int(np.argmax(found))].split(","))

    def choose(given: list[Layer], paths: tuple[str, ...]) -> None:
        assert given is layers
        done.append(",".join(paths))

    patch.setattr(path_search, "choose_paths", choose)
    plan = SimpleNamespace(search=SimpleNamespace(layers=layers, best=best), settled={})
    adapted: Any = SimpleNamespace(plan=plan)
    held: Any = SimpleNamespace(accuracy=lambda: (done.append("judged"), judged[done[-2]])[1])
    path_search.search_paths(adapted, held, Callbacks(checkpoint=tmp_path / "checkpoint"))
    assert [layer.settled for layer in layers] == [1, 1]
    return plan, done, tmp_path / path_search.PATHS


def test_paths_are_judged_once_kept_and_the_best_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = {"a,b": 0.25, "b,b": 0.75, "b,a": 0.5}
    plan, done, file = search(tmp_path, monkeypatch, judged)
    assert plan.settled == {"paths": "b,b"}
    assert done == ["a,b", "judged", "b,b", "judged", "b,a", "judged", "b,b"]
    assert {row["paths"]: row["accuracy"] for row in lines(file)} == judged
    size = file.stat().st_size
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:2]))
    _, again, file = search(tmp_path, monkeypatch, judged)
    assert again == ["b,a", "judged", "b,b"], "what a killed search has tried is known"
    assert file.stat().st_size == size


def test_held_back_images_are_shared_among_those_that_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seven images, of which 0, 3 and 5 are right; three processes judge three, two and two of them."""
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 0])
    said = torch.tensor([0, 1, 1, 1, 1, 1, 1])
    asked: list[tuple[int, list[int]]] = []

    class Rows:
        def __init__(self, table: Any, mine: list[int]) -> None:  # noqa: ARG002
            self.mine = mine

    def predict(self: HeldBack, table: Any, count: int) -> Predictions:  # noqa: ARG001
        asked.append((count, table.mine))
        return Predictions(torch.zeros(count, 1), torch.eye(2)[said[table.mine]])

    held = object.__new__(HeldBack)
    held.adapted = SimpleNamespace(backbone=SimpleNamespace(device=torch.device("cpu")))  # type: ignore[assignment]
    held.table, held.labels = None, labels  # type: ignore[assignment]
    monkeypatch.setattr(held_back, "RowsTable", Rows)
    monkeypatch.setattr(HeldBack, "_predictions", predict)
    with monkeypatch.context() as patch:
        assert together(lambda _: held.accuracy(), patch, size=3) == [pytest.approx(3 / 7)] * 3
    assert sorted(asked) == [(2, [1, 4]), (2, [2, 5]), (3, [0, 3, 6])]
    assert held.accuracy() == pytest.approx(3 / 7)
    assert asked[-1] == (7, [*range(7)])


def test_a_batch_is_shared_in_whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    for rank, rows in enumerate(([0, 1, 2], [3, 4], [5, 6])):
        accelerator: Any = SimpleNamespace(num_processes=3, process_index=rank)
        assert training._share(torch.arange(7), accelerator).tolist() == rows
        assert len(training._share(torch.arange(3), accelerator)) == 1
        with pytest.raises(ConfigError, match="A batch of 2 images cannot be shared by 3"):
            training._share(torch.arange(2), accelerator)


def test_classes_are_balanced_in_shuffled_batches_alone() -> None:
    data = images("a", [0, 0, 0, 1])
    assert training._class_weights(data, Recipe()) is None
    with pytest.raises(ConfigError, match="class_weight=balanced is for shuffled batches"):
        training._class_weights(data, Recipe(class_weight="balanced", batch_size=0))
    found = training._class_weights(data, Recipe(class_weight="balanced", batch_size=2))
    assert found is not None
    assert float(found[1] / found[0]) == pytest.approx(3)
    assert found.dtype == torch.float32


def test_solved_heads_and_trainings_without_steps_hold_nothing_back() -> None:
    data = images("a", [0, 0, 1, 1])
    for head, steps in ((nn.Linear(1, 1), 0), (create("ridge").plan(tiny.resnet(), 2).head, 5)):
        with pytest.raises(ConfigError, match="this method takes none"):
            HeldBack(SimpleNamespace(head=head), data, None, Recipe(steps=steps))  # type: ignore[arg-type]


@pytest.mark.parametrize("named", [True, False])
def test_an_adapter_is_scored_once_on_other_images(
    tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[Any] = []

    class Names:
        pass

    monkeypatch.setattr(transfer_eval, "ClassNameHead", Names if named else nn.Conv1d)
    data = images("birds", [0, 1, 1, 1])
    adapted = SimpleNamespace(head=Names(), cut=("v",), name=lambda *of: names.append(of))
    adapter = SimpleNamespace(adapted=adapted, classes=["x", "y"], manifest=SimpleNamespace(method="m"))  # fmt: skip
    opened: list[Any] = []
    monkeypatch.setattr(transfer_eval.ClassificationAdapter, "load", lambda *of, **how: (opened.append((of, how)), adapter)[1])  # fmt: skip
    found = Predictions(torch.zeros(4, 1), torch.tensor([[9.0, 0]] * 2 + [[0, 9.0]] * 2))
    monkeypatch.setattr(transfer_eval, "predict", lambda _, batches: found if batches == 4 else None)  # fmt: skip
    table = SimpleNamespace(batches=lambda count: count)
    workspace: Any = SimpleNamespace(backbone="b", table=lambda *_: table)
    one = transfer_eval.score_transfer(tmp_path, "birds", workspace, data)
    assert (one.name, one.classes, one.test_evaluations) == ("birds", ["x", "y"], 1)
    assert one.scores["accuracy"] == 0.75
    assert names == ([(data.classes, "birds")] if named else [])
    assert transfer_eval.score_transfer(tmp_path, "birds", workspace, data) == one
    assert len(opened) == 1, "what is there is read"
    with pytest.raises(RunError, match="measured on other images"):
        transfer_eval.score_transfer(tmp_path, "birds", workspace, images("b", [0, 1]))
    assert transfer_eval.score_transfer(tmp_path, "again", workspace, data).test_evaluations == 2
    others = replace(data, classes=("x", "z"))
    if named:
        assert transfer_eval.score_transfer(tmp_path, "z", workspace, others).classes == ["x", "z"]
    else:
        with pytest.raises(ConfigError, match="m has a fixed set of classes"):
            transfer_eval.score_transfer(tmp_path, "z", workspace, others)


def test_a_machine_without_a_compiler_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def works(work: Any) -> Any:
        def run(x: Any) -> None:
            compiled.append(work(x).tolist())

        return run

    def fails(_: Any) -> Any:
        raise RuntimeError("no C++ compiler\nmore")

    check = training.check_compiler.__wrapped__
    monkeypatch.setattr(torch, "compile", works)
    check()
    assert compiled == [[2.0, 2.0]], "one addition"
    monkeypatch.setattr(torch, "compile", fails)
    with pytest.raises(ConfigError, match=r"\(no C\+\+ compiler\)\. Leave out --compile\.$"):
        check()


@pytest.mark.parametrize(("error", "said"), [("torn\nmore", "torn"), ("", "ImportError")])
def test_a_compiler_that_fails_says_where_its_cache_lies(error: str, said: str) -> None:
    done: list[str] = []
    with training.compiling():
        done.append("trained")
    assert done
    told = rf"^torch\.compile failed \({said}\)\. Its cache may be damaged: delete /"
    with pytest.raises(ConfigError, match=told), training.compiling():
        raise ImportError(error)
    with pytest.raises(KeyError), training.compiling():
        raise KeyError


def test_a_head_is_solved_of_vectors_as_in_prediction() -> None:
    seen: list[bool] = []

    class Adapted(nn.Module):
        def pooled(self, state: Any) -> Any:
            seen.append(self.training)
            return state

    adapted: Any = Adapted().train()
    table: Any = SimpleNamespace(batches=lambda _: [torch.eye(3)[:2], torch.eye(3)[2:]])
    data = images("t", [1, 0, 1])
    x, y, is_target = training._vectors(adapted, data, table, Recipe())
    assert seen == [False, False]
    assert (x.tolist(), y.tolist(), is_target.tolist()) == (torch.eye(3).tolist(), data.labels.tolist(), [True] * 3)  # fmt: skip


@pytest.mark.parametrize(("mixed", "compiled"), [(False, False), (True, True)])
def test_a_step_is_fed_its_rows_and_the_next_step_s_are_announced(mixed: bool, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Of three steps over two processes' halves of four rows; nothing comes after the last."""
    made: list[Any] = []
    data, adapted = images("t", [0, 1, 0, 1, 1]), nn.Linear(1, 1)
    recipe = Recipe(steps=3, batch_size=4, target_weight=0.25, label_smoothing=0.1)
    drawn = {step: (torch.tensor([step, 0, 4, 2]), torch.tensor([0, 1, step, 1])) for step in range(3)}  # fmt: skip
    expected: list[Any] = []
    table: Any = SimpleNamespace(fetch=lambda rows, views: (rows.tolist(), views.tolist()), expect=expected.append)  # fmt: skip

    class Trained:
        def __init__(self, *given: Any) -> None:
            made.append(given)
            self.feed = given[3]

        def run(self, callbacks: Callbacks, *, fresh: Any, measure: Any) -> None:
            for step in range(3):
                (rows, views), labels, is_target = (batch := self.feed(step))[:3]
                own, shown = (part[2:].tolist() for part in drawn[step])
                assert (rows, views) == (own, shown)
                assert labels.tolist() == data.labels[own].tolist()
                assert is_target.tolist() == [True, True]
                assert batch[3:] == ((step,) if mixed else ())
            assert callbacks.samples == 6
            fresh()
            made.append(measure)

    monkeypatch.setattr(training, "Trainer", Trained)
    monkeypatch.setattr(training, "accelerate", lambda module, partly: made.append((module, partly)) or SimpleNamespace(device=torch.device("cpu"), num_processes=2, process_index=1, is_main_process=False))  # fmt: skip
    monkeypatch.setattr(training, "ClassificationLoss", lambda *given: made.append(given) or nn.Linear(1, 1))  # fmt: skip
    monkeypatch.setattr(training, "Sampler", lambda *given: made.append(given) or drawn.__getitem__)
    monkeypatch.setattr(training, "mixing", lambda *given: made.append(given) or ((lambda step, *batch: (*batch, step)) if mixed else None))  # fmt: skip
    monkeypatch.setattr(training, "make_optimizer", lambda *given: given[1:])
    monkeypatch.setattr(training, "factors", lambda *given: given)
    monkeypatch.setattr(training, "_start", lambda *given: made.append(given))
    monkeypatch.setattr(training, "_drift", lambda *given: given)
    adapted.plan, adapted.backbone, adapted.compiled = SimpleNamespace(search=None), SimpleNamespace(module="network"), compiled  # type: ignore[assignment]  # fmt: skip
    code: list[str] = []
    monkeypatch.setattr(training, "check_compiler", lambda: code.append("checked"))
    monkeypatch.setattr(training, "compiling", lambda: code.append("compiled") or nullcontext())
    monkeypatch.setattr(torch.compiler, "reset", lambda: code.append("reset"))
    callbacks, held = Callbacks(drift=print), SimpleNamespace(loss="judged")
    training._descend(adapted, data, table, recipe, 9, "bf16", callbacks, 7, held)  # type: ignore[arg-type]
    assert code == ["checked", "compiled", "reset"] * compiled
    spread, loss, sampled, mix, trainer, start, drift = made
    assert spread == ("network", False)
    assert loss == (adapted, 0.25, 0.1, None)
    assert sampled == (data, recipe, 9)
    assert mix == (adapted, recipe, 9)
    optimizer, stated, a_pass, seed, judge, precision = trainer[4:]
    assert optimizer == (recipe, (adapted, recipe))
    assert (stated, a_pass, seed, judge, precision) == (recipe, recipe.a_pass(5, 2), 9, "judged", "bf16")  # fmt: skip
    assert start == (adapted, data, table, recipe)
    assert (*drift[:3], *drift[4:]) == (adapted, data, table, 3, 7)
    assert drift[3].drift is None, "one process reports it"
    assert [[part.tolist() for part in later()] for later in expected] == [[part[2:].tolist() for part in drawn[step]] for step in (1, 2)]  # fmt: skip


@pytest.mark.parametrize(("steps", "probes", "every"), [(400, 10, 40), (30, 10, 10), (25, 1, 25), (45, 3, 15)])  # fmt: skip
def test_drift_is_reported_so_often_and_at_the_end(steps: int, probes: int, every: int, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Of sixteen images at most, evenly, in the evaluation view; every tenth step at most."""
    asked: list[Any] = []
    noted: list[Any] = []
    monkeypatch.setattr(training, "moves_tokens", lambda one: one == "moves")
    monkeypatch.setattr(training, "Drift", lambda *given: asked.append(given) or (lambda: "how far"))  # fmt: skip
    table: Any = SimpleNamespace(fetch=lambda rows, views: (rows.tolist(), views.tolist()))
    callbacks = Callbacks(drift=lambda *given: noted.append(given))
    for count, rows in ((31, [*range(0, 31, 2)]), (3, [0, 1, 2])):
        noted.clear()
        measure = training._drift("moves", images("t", [0] * count), table, callbacks, steps, probes)  # type: ignore[arg-type]  # fmt: skip
        assert asked.pop() == ("moves", (rows, [0] * len(rows)))
        for step in range(0, steps + 1, 5):
            measure(step)
        assert noted == [(step, "how far") for step in (*range(0, steps, every), steps)]
    for adapted, how in (("moves", Callbacks()), ("rests", callbacks)):
        training._drift(adapted, None, table, how, steps, probes)(0)  # type: ignore[arg-type]
    assert asked == []

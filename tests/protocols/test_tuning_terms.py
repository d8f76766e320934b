"""Trials of a grid or of ranges, and what is chosen from their losses, without running any."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders.comparisons import TASK, comparison
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError
from petiole.protocols import domain_shift, search, settled, tuning
from petiole.protocols.comparison import Comparison
from petiole.protocols.protocol import ComparisonRow, rows_of
from petiole.protocols.search_space import SearchRange, parse_ranges, ranges_of
from petiole.protocols.settled import Tuning
from petiole.tasks.classification.workspace import Subset

GRID = {"lr": [0.1, 0.2, 0.3], "clip": [0.0, 1.0]}


def tuned(**more: Any) -> Comparison:
    rows = [*rows_of(["ridge"]), ComparisonRow(name="p", label="Probe", method="lora-qkv", grid=GRID)]  # fmt: skip
    return comparison(rows=rows, baseline="p", headline="p", validation=0.3, **more)


def test_trials_are_of_the_first_run_of_their_row() -> None:
    c = tuned()
    made = domain_shift.jobs_of(c, TASK, Path("f"), {"rank": 7, "lr": 9.0})
    tried = tuning.trials(c, made, Path("f"))
    assert len(tried) == 6 * 3, "six points in three folds"
    assert [t.folder for t in tried[:4]] == [
        Path("f/tuning/p/0/fold-0"), Path("f/tuning/p/0/fold-1"), Path("f/tuning/p/0/fold-2"),
        Path("f/tuning/p/1/fold-0"),
    ]  # fmt: skip
    assert tried[3].settings == {"rank": 7, "lr": 0.1, "clip": 1.0}
    assert {(t.method, t.seed, t.options.split_seed) for t in tried} == {("lora-qkv", 0, 0)}
    assert [t.options.fold for t in tried[:4]] == [0, 1, 2, 0]
    assert {(t.options.validation, t.options.vectors) for t in tried} == {(0.3, False)}


@pytest.mark.parametrize(("share", "folds"), [(0.5, 2), (0.25, 4), (1 / 3, 3), (0.1, 10), (0.3, 3), (0.0, 0)])  # fmt: skip
def test_folds_are_as_many_as_shares_fit(share: float, folds: int) -> None:
    assert tuning.folds_of(comparison(validation=share)) == folds


def test_the_point_of_the_least_mean_loss_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    c = tuned()
    losses = {0: (9, 0, 0), 1: (2, 2, 2), 2: (1, 1, 4), 3: (2, 2, 2), 4: (5, 5, 5), 5: (2, 2, 3)}

    def record(folder: Path) -> Any:
        point, fold = int(folder.parent.name), int(folder.name.removeprefix("fold-"))
        return SimpleNamespace(main={"nll": float(losses[point][fold])})

    monkeypatch.setattr(tuning, "read_record", record)
    assert tuning.choose(c, Path("f")) == {"p": {"lr": 0.1, "clip": 1.0}}, "the first of equals"
    made = domain_shift.jobs_of(c, TASK, Path("f"), {"rank": 7})
    settings = [m.settings for m in tuning.settled(c, made, {"p": {"lr": 0.1}})]
    assert settings == [{}] * 6 + [{"rank": 7, "lr": 0.1}] * 6
    assert tuning.notes(c, {"p": {"lr": 0.2, "clip": 1.0}}) == [
        "Probe: lr=0.2 of (0.1, 0.2, 0.3) by mean log-loss of 3 folds.",
        "Probe: clip=1.0 of (0, 1) by mean log-loss of 3 folds.",
    ]
    (note,) = tuning.notes(c, {"p": {"lr": 0.1}})
    assert note == (
        "Probe: lr=0.1 of (0.1, 0.2, 0.3) by mean log-loss of 3 folds, an end of the grid: the best value "
        "may lie beyond."
    )


def test_grids_are_settled_before_runs_and_searches_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(settled, "run_jobs", lambda specs, what, **more: ran.append((len(specs), what, more)))  # fmt: skip
    monkeypatch.setattr(tuning, "choose", lambda *_: {"p": {"lr": 0.1}})
    c = tuned()
    made = domain_shift.jobs_of(c, TASK, Path("f"), {})
    found, notes = settled.settled(c, made, Path("f"), quiet=True)
    assert ran == [(18, "tuning", {"quiet": True})]
    assert found[-1].settings == {"lr": 0.1}
    assert len(notes) == 1
    plain = comparison()
    made = domain_shift.jobs_of(plain, TASK, Path("f"), {})
    assert settled.settled(plain, made, Path("f")) == (made, [])
    assert len(ran) == 1
    ranges = {"lr": SearchRange(low=0.1, high=1.0)}
    rows = [plain.rows[0], plain.rows[1].model_copy(update={"ranges": ranges})]
    searched = plain.model_copy(update={"rows": rows, "validation": 0.5, "trials": 5})
    chosen = {"lora-qkv": search.Searched({"lr": 0.7}, "a note")}
    monkeypatch.setattr(settled, "search", lambda *_, **__: chosen)
    found, notes = settled.settled(searched, made, Path("f"), "sqlite:///s")
    assert ([m.settings for m in found[-2:]], notes) == ([{"lr": 0.7}] * 2, ["a note"])
    ahead = settled.tried(searched, made, Path("f"))
    assert len(ahead) == 5 * 2
    assert ahead[3].folder == Path("f/tuning/lora-qkv/1/fold-1")


def test_tuning_of_one_run() -> None:
    spec = RunSpec(TASK, "lora-qkv", Path("f"), {"steps": 3}, Subset(5, calibration_folds=3), loggers=("jsonl",))  # fmt: skip
    c, job = Tuning(0.2).of_run(spec)
    assert (c.validation, c.trials, c.seeds, c.split_seeds, c.shots) == (0.2, 0, 1, 1, 5)
    assert (c.headline, c.baseline, c.reference, c.title) == ("lora-qkv",) * 4
    assert list(c.rows[0].grid) == ["lr"]
    assert (job.options.calibration_folds, job.loggers, job.settings) == (0, (), {"steps": 3})
    c, _ = Tuning(0.2, 6, ["clip=0,1"]).of_run(spec)
    assert (sorted(c.rows[0].ranges), c.rows[0].grid, c.trials) == (["clip", "lr"], {}, 6)
    solved = RunSpec(TASK, "ridge", Path("f"), options=Subset(5))
    with pytest.raises(ConfigError, match=r"ridge has no learning rates to choose from"):
        Tuning().of_run(solved)
    assert Tuning(0.2).terms(rows_of(["ridge"])) == {"validation": 0.0, "trials": 0}


@pytest.mark.parametrize(
    ("text", "low", "high", "log", "choices"),
    [
        ("lr=1e-4..1e-2:log", 1e-4, 1e-2, True, []),
        ("rank=4..16", 4, 16, False, []),
        ("a-b=0.5..1", 0.5, 1, False, []),
        ("a_b= x , y,", 0, 0, False, ["x", "y"]),
        ("n=-2..-1", -2, -1, False, []),
    ],
)
def test_ranges_are_read(text: str, low: float, high: float, log: bool, choices: list[str]) -> None:
    ((name, one),) = parse_ranges([text]).items()
    assert "-" not in name
    assert (one.low, one.high, one.log, one.choices) == (low, high, log, choices)
    assert type(one.low) is type(low)
    assert one.ends == (tuple(choices) or (low, high))


def test_only_what_lies_in_a_range_is_tried() -> None:
    numbers = SearchRange(low=1, high=3)
    assert [numbers.taking(v) for v in (1, 3, 2.5, 0.9, 3.1, True, "2", None)] == [1, 3, 2.5, None, None, None, None, None]  # fmt: skip
    words = SearchRange(choices=["1", "2.0", "gelu"])
    assert [words.taking(v) for v in (1, 1.0, 2, "gelu", "relu", None)] == ["1", "1", "2.0", "gelu", None, None]  # fmt: skip
    for low, high, log, said in (
        (1, 1, False, "smaller number to a larger"),
        (2, 1, False, "smaller number to a larger"),
        (0, float("inf"), False, "smaller number to a larger"),
        (float("nan"), 1, False, "smaller number to a larger"),
        (0, 1, True, "begins above 0, not at 0"),
        (-1, 1, True, "begins above 0, not at -1"),
    ):
        with pytest.raises(ValueError, match=said):
            SearchRange(low=low, high=high, log=log)
    assert str(SearchRange(low=0, high=1)) == "0..1"


def test_a_trial_is_asked_for_numbers_of_the_range_s_kind() -> None:
    asked: list[Any] = []
    trial = SimpleNamespace(
        suggest_categorical=lambda *a: asked.append(("categorical", *a)),
        suggest_int=lambda *a, **k: asked.append(("int", *a, k)),
        suggest_float=lambda *a, **k: asked.append(("float", *a, k)),
    )
    for one in (
        SearchRange(choices=["a"]),
        SearchRange(low=1, high=3, log=True),
        SearchRange(low=1, high=3.0),
        SearchRange(low=1.0, high=3),
    ):
        one.suggest(trial, "n")  # type: ignore[arg-type]
    assert asked == [
        ("categorical", "n", ["a"]),
        ("int", "n", 1, 3, {"log": True}),
        ("float", "n", 1, 3.0, {"log": False}),
        ("float", "n", 1.0, 3, {"log": False}),
    ]


def test_a_method_s_own_rates_are_searched_unless_they_are_stated() -> None:
    rank = SearchRange(choices=["2", "4"])
    found = ranges_of("lora-qkv", {}, {"rank": rank, "nothing": rank})
    rates = tuning.with_rates(rows_of(["lora-qkv"]))[0].grid["lr"]
    assert found == {"lr": SearchRange(low=min(rates), high=max(rates), log=True), "rank": rank}
    assert list(ranges_of("lora-qkv", {"lr": 1}, {"rank": rank})) == ["rank"]
    assert list(ranges_of("lora-qkv", {"rank": 4}, {"rank": rank})) == ["lr"]
    assert ranges_of("ridge", {}, {}) == {}
    with pytest.raises(ConfigError, match=r"steps=.*greater than or equal to 0"):
        ranges_of("lora-qkv", {}, {"steps": SearchRange(low=-1, high=4)})


def test_a_trial_ends_where_it_is_worse_on_the_same_images_alone() -> None:
    flat = [np.full(4, 1.0)]
    assert not search._worse([np.full(4, 1.0)], flat), "equal"
    assert search._worse([np.full(4, 1.1)], flat)
    assert not search._worse([np.full(4, 0.9)], flat)
    assert not search._worse([np.array([3.0, 0.9, 0.9, 0.9])], flat), "one image may be chance"
    assert not search._worse([np.array([2.0])], [np.array([1.0])])
    assert search._worse([np.array([2.0, 2.0])], [np.array([1.0, 1.0])]), "two that agree"

"""Which runs a protocol makes, on which terms, and how its numbers are read: without running anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from petiole.engine.executor import Local
from petiole.engine.record import RECORD, Record, RunRequest
from petiole.engine.run import RunSpec
from petiole.errors import BackboneError, ConfigError, DataError, RunError
from petiole.files import write_sealed
from petiole.protocols import (
    backbone_selection,
    continual,
    domain_shift,
    generalisation,
    headroom,
    jobs,
    model_selection,
    published,
    rank_sweep,
    search,
    selection,
    settled,
    transfer,
    tuning,
)
from petiole.protocols.comparison import Comparison
from petiole.protocols.model_selection import Choice, Judged, _candidate, _Choosing
from petiole.protocols.protocol import (
    ComparisonRow,
    RowsProtocol,
    applicable,
    rows_of,
    with_baselines,
)
from petiole.protocols.search_space import SearchRange, parse_ranges, ranges_of
from petiole.protocols.selection import Open, Selection
from petiole.protocols.settled import Tuning
from petiole.protocols.transfer import Transfer, TransferCell
from petiole.tasks.classification.workspace import Classification, Subset

TASK = Classification("b", Path("photos"))


def comparison(*methods: str, **terms: Any) -> Comparison:
    names = methods or ("ridge", "lora-qkv")
    given = {"title": "t", "rows": rows_of(names), "split_seeds": 2, "seeds": 3, "shots": 4,
             "baseline": names[-1], "headline": names[0]}  # fmt: skip
    return Comparison(**{**given, **terms})


# --- a comparison -------------------------------------------------------------------------------


def test_every_draw_has_every_seed_and_one_run_keeps_its_vectors() -> None:
    c = comparison(fraction=0.5, validation=0.25)
    made = domain_shift.jobs_of(c, TASK, Path("f"), {"rank": 7}, resume=True)
    assert [(m.method, m.options.split_seed, m.seed) for m in made] == [
        (method, split, seed)
        for method in ("ridge", "lora-qkv")
        for split in (0, 1)
        for seed in (0, 1, 2)
    ]
    assert [m.options.vectors for m in made] == [True] + [False] * 11
    assert [dict(m.settings) for m in made] == [{}] * 6 + [{"rank": 7}] * 6
    assert {(m.options.shots, m.options.fraction, m.options.validation) for m in made} == {(4, 0.5, 0.0)}  # fmt: skip
    assert all(m.resume and m.task.quiet for m in made)
    held = comparison(validation=0.25, scored="validation")
    assert domain_shift.jobs_of(held, TASK, Path("f"), {})[0].options.validation == 0.25
    assert not domain_shift.jobs_of(held, TASK, Path("f"), {})[0].resume
    other = comparison(kind="codebook", split_seeds=1, shots=None, validation=0.0)
    options = object()
    made = domain_shift.jobs_of(other, TASK, Path("f"), {}, options=options)
    assert all(m.options is options for m in made)


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"validation": 0.0, "scored": "validation"}, "need validation images"),
        ({"validation": 0.0, "rows": [ComparisonRow(name="ridge", label="r", method="ridge", grid={"a": [1]})], "baseline": "ridge"}, "need validation images"),
        ({"kind": "text", "split_seeds": 2, "shots": None}, "are of classification, and this is text"),
        ({"kind": "text", "split_seeds": 1, "shots": 1}, "are of classification, and this is text"),
        ({"kind": "regression", "split_seeds": 1, "validation": 0.1}, "and this is regression"),
        ({"fraction": 0.0}, "fraction"), ({"fraction": 1.01}, "fraction"), ({"validation": 1.0}, "validation"),
        ({"split_seeds": 0}, "split_seeds"), ({"trials": -1}, "trials"), ({"seeds": 0}, "seeds"),
        ({"margin": 1.0}, "margin"), ({"margin": -0.1}, "margin"), ({"rows": []}, "rows"),
        ({"claimed_costs": {"x": {}}}, r"claims\['x'\] names no row"),
    ],
)  # fmt: skip
def test_terms_that_cannot_be(terms: dict[str, Any], said: str) -> None:
    given = {"title": "t", "rows": rows_of(["ridge"]), "seeds": 1, "baseline": "ridge", "headline": "ridge"}  # fmt: skip
    with pytest.raises(ConfigError, match=rf"^This comparison cannot be: .*{said}"):
        Comparison.checked(**{**given, **terms})
    for fine in ({"kind": "regression", "shots": 3}, {"fraction": 1.0}, {"margin": 0.0}):
        Comparison.checked(**{**given, **fine})


def test_cheap_rows_stand_below_where_they_are_not_there_yet() -> None:
    base = ["knn", "class-means", "logistic-regression", "ridge", "averaged-ridge"]
    joint = ["logistic-regression-joint", "ridge-joint"]
    rows = rows_of(["peft:loha", "ridge"])
    assert [row.name for row in rows] == ["peft-loha", "ridge"]
    assert [row.label for row in rows] == ["peft:loha", "Ridge (target shots)"]
    alone = [row.name for row in with_baselines(rows, source=False)]
    assert alone == ["peft-loha", "ridge", *(n for n in base if n != "ridge")]
    both = [row.name for row in with_baselines(rows, source=True)]
    assert both == [*alone, *joint]


def test_settings_reach_the_rows_that_have_them() -> None:
    assert applicable("ridge", {"rank": 3}) == {}
    assert applicable("lora-qkv", {"rank": 3, "nothing": 1}) == {"rank": 3}
    c = comparison()
    c.check_used({"rank": 3})
    with pytest.raises(ConfigError, match=r"rnak"):
        c.check_used({"rnak": 3})


def test_a_solved_head_takes_no_steps() -> None:
    assert applicable("ridge", {"steps": 3, "views": 0, "class_weight": "balanced"}) == {
        "class_weight": "balanced"
    }
    assert applicable("zero-shot", {"train_on": "target", "templates": ("a {}",)}) == {
        "templates": ("a {}",)
    }
    comparison().check_used({"steps": 3})  # of its other row
    with pytest.raises(
        ConfigError, match=r"lr is of a training in steps, and ridge takes none.*train_on"
    ):
        comparison("ridge", "knn").check_used({"lr": 0.1})
    own = comparison().model_copy(
        update={"rows": [ComparisonRow(name="r", label="R", method="ridge", settings={"steps": 3})]}
    )
    with pytest.raises(ConfigError, match="steps is of a training"):
        own.row_settings({}, TASK.kind)


def test_a_folder_is_taken_once_and_margins_may_change(tmp_path: Path) -> None:
    first = comparison()
    first.claim(tmp_path / "x")
    assert first.finished(tmp_path / "x") is False
    for other in (comparison(margin=0.5), comparison(notes=["n"])):
        assert first.differences(other) == ""
        other.claim(tmp_path / "x", resume=True)
    with pytest.raises(RunError, match=r"already holds a comparison. Add --resume"):
        first.claim(tmp_path / "x")
    with pytest.raises(
        RunError, match=r"holds another comparison \(seeds: 3 -> 4; shots: 4 -> 5\)"
    ):
        comparison(seeds=4, shots=5).claim(tmp_path / "x", resume=True)
    rows = [*rows_of(["ridge"]), ComparisonRow(name="lora-qkv", label="x", method="lora-qkv", settings={"lr": 1})]  # fmt: skip
    assert first.differences(comparison(rows=rows, shots=5)) == "settings of a row; shots: 4 -> 5"
    changed = first.differences(comparison("ridge", "knn", shots=5))
    assert changed.startswith("rows: ['ridge', 'lora-qkv'] -> ['ridge', 'knn']; ")


def test_it_is_finished_when_all_runs_have_records(tmp_path: Path) -> None:
    c = comparison(split_seeds=1, seeds=2)
    every = [run for row in c.rows for run in c.runs(tmp_path, row)]
    for run in every:
        assert not c.finished(tmp_path)
        run.mkdir(parents=True)
        (run / RECORD).write_text("")
    assert c.finished(tmp_path)


def test_a_published_table_becomes_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": "a", "label": "A", "method": "ridge", "claimed": 5.0, "percent": 1.5, "tags": ["x"]},
        {"name": "b", "label": "B", "method": "knn", "gflops": 7},
        {"name": "c", "label": "C", "method": "knn", "settings": {"k": 3}},
    ]  # fmt: skip
    stated = {"title": "T", "rows": rows, "baseline": "b", "reference": "a", "headline": "c"}
    monkeypatch.setattr(domain_shift, "claimed_table", lambda name: {**stated, "title": name})
    found = domain_shift.from_table("x/y")
    assert [row.settings for row in found.pop("rows")] == [{}, {}, {"k": 3}]
    assert found == {
        "title": "x/y",
        "claims": {"a": 5.0},
        "claimed_costs": {"a": {"percent": 1.5}, "b": {"gflops": 7}},
        "baseline": "b",
        "reference": "a",
        "headline": "c",
    }


# --- what is chosen on validation ---------------------------------------------------------------

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
    with pytest.raises(ConfigError, match="steps must not be negative"):
        ranges_of("lora-qkv", {}, {"steps": SearchRange(low=-1, high=4)})


def test_a_trial_ends_where_it_is_worse_on_the_same_images_alone() -> None:
    flat = [np.full(4, 1.0)]
    assert not search._worse([np.full(4, 1.0)], flat), "equal"
    assert search._worse([np.full(4, 1.1)], flat)
    assert not search._worse([np.full(4, 0.9)], flat)
    assert not search._worse([np.array([3.0, 0.9, 0.9, 0.9])], flat), "one image may be chance"
    assert not search._worse([np.array([2.0])], [np.array([1.0])])
    assert search._worse([np.array([2.0, 2.0])], [np.array([1.0, 1.0])]), "two that agree"


# --- a method is chosen -------------------------------------------------------------------------


def judged(*losses: float, hits: str = "", seconds: float = 1.0) -> Judged:
    right = [float(h) for h in hits or "1" * len(losses)]
    return Judged(np.array(losses), np.array(right), seconds)


START = judged(0.5, 0.6, 0.7, 0.8, hits="1110", seconds=3.0)
BETTER = judged(0.30, 0.41, 0.50, 0.59, hits="1110")


def chosen(shots: int, **candidates: Judged | None) -> Choice:
    choosing = _Choosing(START, shots)
    for method, one in candidates.items():
        choosing.consider(method.replace("_", "-"), one)
    return choosing.choice(70)


def test_a_candidate_says_how_much_lower_its_loss_is() -> None:
    one = _candidate("m", BETTER, START)
    assert (one.method, one.accuracy, one.seconds) == ("m", 0.75, 1.0)
    assert one.log_loss == pytest.approx(0.45)
    assert one.gain == pytest.approx(0.2)
    assert 0.18 < one.gain_low < 0.2
    assert (one.low, one.high) == (0.0, 1.0), "bounds are shares"
    even = _candidate("m", judged(*[0.5] * 64, hits="10" * 32), judged(*[0.5] * 64))
    assert 0.3 < even.low < 0.5 < even.high < 0.7


def test_what_is_better_beyond_the_noise_and_as_often_right_is_chosen() -> None:
    assert chosen(3, lora_qkv=BETTER).method == "lora-qkv"
    fewer = Judged(BETTER.losses, np.array([1.0, 1.0, 0.0, 0.0]), 1.0)
    noisy = judged(0.1, 0.9, 0.2, 0.9, hits="1110")
    equal = judged(0.5, 0.6, 0.7, 0.8, hits="1110")
    for other in (fewer, noisy, equal, None):
        assert chosen(3, lora_qkv=other).method == "averaged-ridge"
    assert chosen(2, lora_qkv=BETTER).method == "averaged-ridge"
    assert chosen(3, class_means=BETTER).method == "averaged-ridge", "it is a yardstick"
    still = judged(0.29, 0.40, 0.49, 0.58, hits="1110")
    assert chosen(3, a=BETTER, b=still).method == "b", "against what stands"
    assert chosen(3, a=still, b=BETTER).method == "a"


def test_a_choice_says_why() -> None:
    assert chosen(3, zero_shot=BETTER).reason == (
        "zero-shot: on left-out target images its log-loss is lower than averaged-ridge's by 0.200 (at least 0.187) and "
        "it is right as often; nothing need be trained."
    )
    assert chosen(3, lora_qkv=BETTER).reason.endswith("and it is right as often.")
    assert chosen(2, lora_qkv=BETTER).reason == (
        "averaged-ridge: fewer than 3 target images a class cannot show that another is better."
    )
    assert chosen(3).reason == "averaged-ridge: nothing else was tried."
    assert chosen(3, lora_qkv=START).reason == (
        "averaged-ridge: no other method that was tried is better on left-out target images beyond the noise."
    )


def test_a_forecast_needs_seventy_images() -> None:
    choosing = _Choosing(START, 3)
    assert choosing.choice(69).forecast is None
    assert choosing.choice(70).forecast == pytest.approx(1 - 0.84 * 0.25)
    choosing.untried["full"] = "it is slow"
    lines = choosing.choice(70).lines()
    assert lines == [
        "averaged-ridge: nothing else was tried.",
        "averaged-ridge: 75.0 % [0.0, 100.0] of 70 left-out target images, log-loss 0.650",
        "full: not tried, it is slow",
        "twice as many labelled images: about 79 % (give or take 8 points, 80 %)",
    ]
    assert len(choosing.choice(69).lines()) == 3


def test_minutes_are_of_the_frozen_half_and_all_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(spec="spec")
    monkeypatch.setattr(model_selection, "_built", lambda *_: (run, None))
    monkeypatch.setattr(model_selection, "seconds_of", lambda *_: (30.0, 6.0))
    assert model_selection._minutes(None, None, "m") == (30 + 5 * 6) / 60  # type: ignore[arg-type]
    monkeypatch.setattr(model_selection, "_built", lambda *_: None)
    assert model_selection._minutes(None, None, "m") is None  # type: ignore[arg-type]


def test_losses_are_at_the_temperature_that_suits_best(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    found = SimpleNamespace(logits=logits, labels=torch.tensor([0, 1, 2, 0]))
    monkeypatch.setattr(model_selection, "_built", lambda *_: ("run", "adapted"))
    monkeypatch.setattr(model_selection, "left_out", lambda *given: found if given[2] == 5 else None)  # fmt: skip
    monkeypatch.setattr(model_selection, "temperature", lambda *_: 2.0)
    one = model_selection.judge(None, None, "m")  # type: ignore[arg-type]
    assert one is not None
    scaled = logits.double() / 2
    wanted = scaled.logsumexp(1) - scaled[range(4), [0, 1, 2, 0]]
    assert one.losses == pytest.approx(wanted.numpy())
    assert one.hits.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert 0 <= one.seconds < 5
    monkeypatch.setattr(model_selection, "left_out", lambda *_: None)
    assert model_selection.judge(None, None, "m") is None  # type: ignore[arg-type]


def test_what_was_chosen_goes_into_the_run(tmp_path: Path) -> None:
    spec = RunSpec(TASK, "auto", tmp_path, {"steps": 1})
    choice = Choice(method="knn", settings={"k": 3}, images=9, reason="why")
    assert selection.chosen(spec, Selection()) == spec
    one = selection.chosen(spec, Selection(backbone="c", method=choice))
    assert (one.task.backbone, one.method, one.settings) == ("c", "knn", {"k": 3})
    tuned = selection.chosen(spec, Selection(settings={"lr": 2}))
    assert (tuned.method, tuned.settings) == ("auto", {"lr": 2})
    assert selection.selection_lines(tmp_path) == []
    whole = Selection(unusable={"x": "It is gone."}, method=choice, notes=["n"])
    write_sealed(tmp_path / "selection.json", whole.model_dump(mode="json"))
    assert selection.selection_lines(tmp_path) == ["x: not judged. It is gone.", "why", "n"]


def test_what_is_left_open_is_announced() -> None:
    assert not Open((), False, 0.0)
    for some in (Open(("a", "b"), False, 0.0), Open((), True, 0.0), Open((), False, 0.0, Tuning())):
        assert some
    assert Open(("a", "b"), True, 2.5).notes() == [
        "these backbones are compared first: a, b",
        "methods that are trained may be tried for 2.5 min",
    ]
    assert Open((), True, 0.0).notes() == Open((), False, 2.5).notes() == []
    spec = RunSpec(TASK, "lora-qkv", Path("f"), options=Subset(5))
    assert Open((), False, 0.0).trials(spec) == []
    rates = len(tuning.with_rates(rows_of(["lora-qkv"]))[0].grid["lr"])
    assert len(Open((), False, 0.0, Tuning(0.5)).trials(spec)) == 2 * rates


def ranked(name: str, accuracy: float, gflops: float = 1.0) -> Any:
    return backbone_selection.RankedBackbone(
        name=name, accuracy=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, images=34,
        parameters=5_678_000, megabytes=1.0, gflops=gflops, seconds=0.0,
    )  # fmt: skip


def test_backbones_go_by_accuracy_then_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": ranked("a", 0.5), "b": ranked("b", 0.75, 3.0), "c": ranked("c", 0.75, 2.0), "d": "why"}  # fmt: skip
    monkeypatch.setattr(backbone_selection, "_judged", lambda asked: found[asked.task.backbone])
    best, failed = backbone_selection.rank_backbones(TASK, "abcda", Subset(3))
    assert [one.name for one in best] == ["c", "b", "a"]
    assert failed == {"d": "why"}
    assert best[0].line() == (
        "c: 75.0 % [65.0, 85.0] of 34 left-out target images; 5.7 M parameters, 2.00 GFLOPs an image"
    )
    with pytest.raises(BackboneError, match=r"^None of these backbones can be used. d: why$"):
        backbone_selection.rank_backbones(TASK, "d", Subset(3))


# --- generalisation -----------------------------------------------------------------------------


def base_to_novel(*methods: str, **terms: Any) -> generalisation.Generalisation:
    return generalisation.plan("pets", rows_of(methods), reference="", shots=4, seeds=2, **terms)


def test_half_of_the_classes_are_trained_on_unless_a_method_needs_all() -> None:
    protocol = base_to_novel("coop", "promptkd")
    assert (protocol.kind, protocol.places) == ("base-to-novel", ["novel"])
    made = generalisation.jobs_of(protocol, TASK, Path("f"), {"epochs": 3}, resume=True)
    assert [(m.method, m.task.part, m.seed, m.options) for m in made] == [
        ("coop", "base", 0, Subset(4, 0)),
        ("coop", "base", 1, Subset(4, 1)),
        ("promptkd", "all", 0, Subset(4, 0)),
        ("promptkd", "all", 1, Subset(4, 1)),
    ]
    assert all(m.resume and m.task.quiet for m in made)
    assert made[1].folder == Path("f/runs/coop/seed-1")
    assert generalisation.transductive("promptkd+textrefiner")
    assert not generalisation.transductive("coop+textrefiner")
    places = generalisation.places_of(protocol, TASK, {})
    assert [(name, task.part) for name, task in places.items()] == [("base", "base"), ("novel", "novel")]  # fmt: skip


def test_elsewhere_all_classes_are_trained_on() -> None:
    protocol = base_to_novel("coop", places=["cars", "dogs"])
    assert (protocol.kind, protocol.places) == ("elsewhere", ["cars", "dogs"])
    made = generalisation.jobs_of(protocol, TASK, Path("f"), {})
    assert {m.task.part for m in made} == {"all"}
    source = Classification("b", Path("x"), Path("s"), Path("t"))
    places = generalisation.places_of(protocol, source, {"cars": Path("c")})
    assert places == {"cars": Classification("b", Path("c"))}
    assert generalisation.beside(protocol, TASK, Path("f")) == []


def test_few_shot_has_runs_for_each_number_of_shots() -> None:
    protocol = generalisation.few_shot("pets", rows_of(["coop"]), [4, 1], reference="", seeds=2)
    assert (protocol.levels, protocol.shots, protocol.places) == (("1", "4"), None, ["1", "4"])
    made = generalisation.jobs_of(protocol, TASK, Path("f"), {})
    assert [(m.options.shots, m.seed, str(m.folder)) for m in made] == [
        (k, seed, f"f/runs/coop/shots-{k}/seed-{seed}") for k in (1, 4) for seed in (0, 1)
    ]
    assert protocol.runs(Path("f"), "coop") == [m.folder for m in made]
    assert generalisation.places_of(protocol, TASK, {}) == {}
    for shots in ([], [0, 1], [2, 2], [-1]):
        with pytest.raises(ConfigError, match=r"Shots are different numbers from 1 up, not"):
            generalisation.few_shot("pets", rows_of(["coop"]), shots, reference="", seeds=1)


def test_settings_that_were_published_are_noted() -> None:
    protocol = generalisation.few_shot(
        "pets", rows_of(["coop", "zero-shot"]), [1, 8], reference="", seeds=1, known="OxfordPets", published=True
    )  # fmt: skip
    assert protocol.notes({}) == [
        "coop, 1 shots: context=16, phrase='', epochs=50, as published",
        "coop, 8 shots: context=16, phrase='', epochs=200, as published",
        "zero-shot: templates=['a photo of a {}, a type of pet.'], as published",
    ]
    assert protocol.notes({"epochs": 3, "templates": ["{}"]}) == []


def test_published_numbers_of_steps() -> None:
    assert published.training("clip-lora", "", 16) == {"steps": 8000}
    assert [published.training("coop", "", n)["epochs"] for n in (1, 2, 4, 5)] == [50, 100, 100, 200]  # fmt: skip
    assert published.training("knn", "", 1) == {}
    assert published.sentences("coop", "OxfordPets", {}) == {}
    assert published.sentences("zero-shot", "none", {}) == {}
    assert published.sentences("zero-shot", "OxfordPets", {"templates": []}) == {}
    ensemble = published.sentences("zero-shot-ensemble", "ImageNet", {})["templates"]
    assert len(ensemble) == 7
    assert published.sentences("zero-shot-ensemble", "EuroSAT", {})["templates"][7:] == [
        "a centered satellite photo of {}."
    ]


def accuracies_by_folder(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
    """Every run's accuracy tells its folder: the sum of the digits of its path."""

    def record(folder: Path) -> Any:
        value = sum(int(c) for c in str(folder) if c.isdigit()) / 100
        request = RunRequest.model_construct(kind="classification")
        return Record.model_construct(request=request, scores={"test": {"accuracy": value}})

    for module in modules:
        monkeypatch.setattr(module, "read_record", record)


def test_scores_by_place_and_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracies_by_folder(monkeypatch, generalisation)
    few = generalisation.few_shot("pets", rows_of(["coop"]), [1, 4], reference="", seeds=2)
    assert generalisation.scores(few, Path("f"), few.rows[0]) == {"1": [0.01, 0.02], "4": [0.04, 0.05]}  # fmt: skip
    monkeypatch.setattr(
        generalisation,
        "read_transfer",
        lambda file: SimpleNamespace(name=file.stem, scores={"accuracy": int(file.parents[1].name[-1]) + 0.5}),
    )  # fmt: skip
    for protocol, own in (
        (base_to_novel("coop", "promptkd"), "base"),
        (base_to_novel("coop", "promptkd", places=["novel"]), "source"),
    ):
        root = tmp_path / own
        for row in protocol.rows:
            for run in protocol.runs(root, row):
                (run / "transfer").mkdir(parents=True)
                for place in ("novel", "base") if row.name == "promptkd" else ("novel",):
                    (run / f"transfer/{place}.json").write_text("")
        coop, kd = (generalisation.scores(protocol, root, row) for row in protocol.rows)
        assert list(coop) == [own, "novel"]
        assert coop["novel"] == [0.5, 1.5]
        assert len(coop[own]) == 2
        if own == "base":
            assert kd == {"base": [0.5, 1.5], "novel": [0.5, 1.5]}, "its own test is of all classes"
        else:
            assert (len(kd["source"]), kd["base"]) == (2, [0.5, 1.5])


def test_heads_of_fixed_classes_are_refused_before_anything_is_trained(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from petiole.backbones.registry import load_backbone

    vit = load_backbone("petiole/tiny-vit", device="meta")
    monkeypatch.setattr(generalisation, "open_workspace", lambda _: SimpleNamespace(backbone=vit))
    with pytest.raises(
        ConfigError, match=r"linear-probe has a fixed set of classes and cannot name"
    ):
        generalisation._check_names([RunSpec(TASK, "linear-probe", Path("f"))])


def test_room_to_move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = headroom.jobs_of(TASK, Path("f"), shots=4, seeds=2, known="OxfordPets", resume=True)
    runs = [("zero-shot", 0), ("class-means", 0), ("class-means", 1), ("logistic-regression", 0), ("logistic-regression", 1)]  # fmt: skip
    assert [(m.task.part, m.method, m.seed) for m in made] == [
        (half, *run) for half in ("base", "novel") for run in runs
    ]
    assert made[0].settings == {"templates": ["a photo of a {}, a type of pet."]}
    assert made[1].settings == {}
    assert made[7].folder == Path("f/headroom/novel/class-means/seed-1")
    assert made[7].options == Subset(4, 1)
    assert all(m.resume and m.task.quiet for m in made)
    assert headroom.accuracies(tmp_path, 2) == {}
    (tmp_path / "headroom").mkdir()
    accuracies_by_folder(monkeypatch, headroom)
    monkeypatch.chdir(tmp_path)
    found = headroom.accuracies(Path(), 2)
    assert found["zero-shot"] == {"base": [0.0], "novel": [0.0]}
    assert found["class-means"] == found["logistic-regression"] == {"base": [0.0, 0.01], "novel": [0.0, 0.01]}  # fmt: skip


# --- transfer, sweep, continual, jobs -----------------------------------------------------------


def test_terms_of_a_transfer() -> None:
    cells = [TransferCell.of("a", "v", TASK, Path("out"))]
    wanted = transfer.plan(cells, ["ridge", "knn"], seeds=3, margin=0.02, settings={"steps": 5})
    c = wanted.comparison(cells[0], ["n"])
    assert (c.seeds, c.margin, c.headline, c.reference, c.baseline) == (3, 0.02, "ridge", "ridge", "ridge")  # fmt: skip
    assert (c.notes, c.title, wanted.settings) == (["n"], "a on v", {"steps": 5})
    assert not wanted.done(Path("nowhere"), cells[0])


def test_a_transfer_trains_on_one_domain(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = transfer.plan([TransferCell.of("a", "v", TASK, Path("out"))], ["ridge"], seeds=2)
    opened = SimpleNamespace(shift=SimpleNamespace(source=None), notes=["n"])
    monkeypatch.setattr(transfer, "open_workspace", lambda _: opened)
    c, made = transfer.jobs_of(wanted, wanted.cells[0], TASK, Path("f"), resume=True)
    assert (c.notes, [str(m.folder) for m in made]) == (
        ["n"],
        [f"f/a/v/runs/ridge/split-0-seed-{i}" for i in (0, 1)],
    )
    assert all(m.resume for m in made)
    assert not any(m.resume for m in transfer.jobs_of(wanted, wanted.cells[0], TASK, Path("f"))[1])
    opened.shift.source = object()
    with pytest.raises(DataError, match=r"photos: has images of a source domain"):
        transfer.jobs_of(wanted, wanted.cells[0], TASK, Path("f"))


def test_only_unfinished_cells_with_a_task_are_done(monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    cells = [TransferCell.of(n, "v", TASK, Path("out")) for n in "abc"]
    wanted = transfer.plan(cells, ["ridge"], seeds=1)
    done: list[Any] = []
    monkeypatch.setattr(Transfer, "done", lambda _, __, cell: cell.data == "b")
    monkeypatch.setattr(transfer, "jobs_of", lambda _, cell, *__, resume: (cell.data, [resume]))  # fmt: skip
    monkeypatch.setattr(transfer.domain_shift, "compare", lambda *given, **more: done.append((*given, more)))  # fmt: skip
    transfer.run(wanted, {"a/v": TASK, "b/v": TASK}, tmp_path, "s", resume=True)
    assert done == [("a", [True], tmp_path / "a/v", "s", {"resume": True})]
    assert Transfer.read(tmp_path) == wanted


def sweep(**terms: Any) -> rank_sweep.RankSweep:
    given = {"method": "adaptertune", "ranks": [2, 1], "fractions": [1.0, 0.5], "seeds": 3, "validation": 0.25}  # fmt: skip
    return rank_sweep.RankSweep.checked(**{**given, **terms})


def test_a_share_of_a_sweep_is_a_comparison_by_rank() -> None:
    s = sweep()
    half, whole = s.comparison(0.5), s.comparison(1.0)
    assert [(row.name, row.label, row.settings) for row in half.rows] == [
        ("r1", "rank 1", {"rank": 1}),
        ("r2", "rank 2", {"rank": 2}),
    ]
    assert (half.reference, half.baseline, half.headline) == ("r2", "r1", "r2")
    assert (half.split_seeds, half.seeds, half.fraction) == (3, 1, 0.5)
    assert (whole.split_seeds, whole.seeds, whole.fraction) == (1, 3, 1.0)
    assert (half.scored, half.validation, half.shots) == ("validation", 0.25, None)
    assert half.title == "adaptertune by rank, 50 % of the training images"
    made = rank_sweep.jobs_of(s, 0.5, TASK, Path("f"), resume=True)
    assert [(m.seed, m.options.split_seed) for m in made] == [(i, i) for i in range(3)] * 2
    assert not any(m.options.vectors for m in made)
    assert all(m.resume for m in made)
    assert made[0].folder.is_relative_to("f/fraction-0.5")
    made = rank_sweep.jobs_of(s, 1.0, TASK, Path("f"))
    assert [(m.seed, m.options.split_seed, m.resume) for m in made[:3]] == [(0, 0, False), (1, 0, False), (2, 0, False)]  # fmt: skip


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"ranks": [4, 4]}, r"at least 2 ranks are needed, of at least 1, not \[4\]"),
        ({"ranks": [0, 4]}, r"not \[0, 4\]"), ({"fractions": [0.0, 1.0]}, r"lie in \(0, 1\]"),
        ({"fractions": [0.5, 1.1]}, r"lie in \(0, 1\]"), ({"seeds": 1}, "seeds"), ({"validation": 0.0}, "validation"),
        ({"ranks": []}, "ranks"),
    ],
)  # fmt: skip
def test_sweeps_that_cannot_be(terms: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sweep(**terms)
    assert sweep(ranks=[1, 2], fractions=[1.0]).ranks == [1, 2]


def test_what_a_sweep_is_stated_with() -> None:
    with pytest.raises(ConfigError, match=r"give its values with --values"):
        rank_sweep.plan("adaptertune", {"rank": 3})
    assert rank_sweep._has_rank("adaptertune")
    assert not rank_sweep._has_rank("knn")


def test_forgetting_counts_from_the_best_until_before_the_last() -> None:
    assert continual.forgetting([[0.5], [0.75, 0.5]]) == -0.25, "it got better"
    assert continual.forgetting([[1.0], [0.5, 0.5], [0.25, 0.75, 1.0]]) == pytest.approx((0.75 - 0.25) / 2)  # fmt: skip


def test_terms_of_a_sequence() -> None:
    study = continual.plan(["a", "b", "c"], "ridge", {}, shots=3, memory=2, seeds=2, margin=0.01)  # fmt: skip
    assert [row.name for row in study.rows] == ["routed", "told", "replay"]
    assert study.home(Path("f"), "replay", 0, 1) == Path("f/runs/adapters/a/seed-1")
    assert study.home(Path("f"), "replay", 2, 1) == Path("f/runs/replay/c/seed-1")
    assert study.runs(Path("f"), "replay") == [Path(f"f/runs/replay/c/seed-{i}") for i in (0, 1)]
    assert study.runs(Path("f"), study.row("told")) == [Path(f"f/runs/adapters/c/seed-{i}") for i in (0, 1)]  # fmt: skip
    with pytest.raises(ConfigError, match=r"Two tasks bear one name: a, a"):
        continual.plan(["a", "a"], "ridge", {}, shots=3, memory=2, seeds=2)
    for terms in ({"shots": 0}, {"memory": 0}, {"seeds": 0}):
        with pytest.raises(ConfigError, match=next(iter(terms))):
            continual.plan(
                ["a", "b"], "ridge", {}, **{"shots": 3, "memory": 2, "seeds": 2, **terms}
            )
    with pytest.raises(ConfigError, match=r"tasks"):
        continual.plan(["a"], "ridge", {}, shots=None, memory=1, seeds=1)


def test_matrices_that_are_gone_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"matrix.json is missing or damaged: .*Repeat the command"):
        continual.matrices(tmp_path)


def record(kind: str, **scores: dict[str, float]) -> Record:
    return Record.model_construct(request=RunRequest.model_construct(kind=kind), scores=scores)


def test_headlines_are_fractions() -> None:
    photos = record("classification", test={"accuracy": 0.5, "ece": 9.0}, more={"accuracy": 0.25})
    assert jobs.headlines(photos) == {"test": 0.5, "more": 0.25}
    assert jobs.average(photos) == 0.375
    for kind in ("text", "codebook"):
        assert jobs.headlines(record(kind, vqa={"a": 50.0})) == {"vqa": 0.5}


def test_features_are_stored_before_runs_and_not_for_what_is_done(
    monkeypatch, tmp_path: Path
) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / RECORD).write_text("")
    other = Classification("c", Path("x"))
    specs = [
        RunSpec(TASK, "a", tmp_path / "done", resume=True),
        RunSpec(TASK, "b", tmp_path / "done"),
        RunSpec(TASK, "c", tmp_path / "new", resume=True),
        RunSpec(other, "d", tmp_path / "other"),
    ]
    stored: list[Any] = []

    class Place:
        places = 2

        def map(self, work: Any, given: Any) -> Iterator[Any]:
            for one in given:
                if work is jobs.store_share:
                    stored.append(([s.method for s in one.specs], one.share.index, one.share.of, one.task))  # fmt: skip
                yield record("classification", test={"accuracy": 0.5})

    monkeypatch.setattr(jobs, "open_workspace", lambda _: None)
    found = jobs.run_jobs(specs, executor=Place(), quiet=True)
    assert len(found) == 4
    assert [row[:1] + row[3:] for row in stored] == [
        (["b", "c"], TASK), (["b", "c"], TASK), (["d"], other), (["d"], other),
    ]  # fmt: skip
    assert len({row[1] for row in stored[:2]}) == 2, "each place has its share"
    assert isinstance(Local(), object)


def test_a_protocol_of_rows_names_them() -> None:
    class Own(RowsProtocol):
        STATE = "own.json"

    own = Own.checked(rows=rows_of(["ridge", "knn"]), seeds=2)
    assert (own.reference, own.margin) == ("ridge", 0.01)
    assert own.runs(Path("f"), "knn") == [Path(f"f/runs/knn/seed-{i}") for i in (0, 1)]
    with pytest.raises(ConfigError, match=r"This measurement cannot be: .*reference names no row: 'x' is not among"):  # fmt: skip
        Own.checked(rows=rows_of(["ridge"]), seeds=2, reference="x")

"""A published table beside ours: which numbers stand beside which, by what denominators, and what is missing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petiole.engine.record import Record, RunRequest
from petiole.errors import ConfigError, DataError
from petiole.metrics.intervals import t_interval
from petiole.protocols import accounting, reproduction, reproduction_tasks, shares
from petiole.protocols.accounting import BackbonePair
from petiole.protocols.protocol import ComparisonRow
from petiole.protocols.reproduction import (
    _compared,
    compared,
    is_stated,
    on_data,
    rows_of,
    unmeasured,
)

ROW = ComparisonRow(name="a", label="A", method="coop", settings={"epochs": 5})
TABLE: dict[str, Any] = {
    "kind": "base-to-novel",
    "backbone": "stated",
    "data": {"Pets": "pets", "Cars": "cars"},
    "settings": {"seed": 1, "rank": 2},
    "missing": ["its data"],
    "rows": [
        {"name": "a", "label": "A", "method": "coop", "settings": {"rank": 3}, "claimed": {"Pets": [90, 80, 85]}, "by_data": {"Cars": {"epochs": 9}}},
        {"name": "b", "label": "B", "missing": "its code"},
        {"name": "c", "label": "C", "method": "zero-shot", "claimed": {"Pets": [50, 50, 50]}},
    ],
}  # fmt: skip


def test_rows_that_can_be_run_and_what_others_need() -> None:
    rows, missing = rows_of(TABLE, [])
    assert [(r.name, r.label, r.method, r.settings) for r in rows] == [
        ("a", "A", "coop", {"seed": 1, "rank": 3}),
        ("c", "C", "zero-shot", {"seed": 1, "rank": 2}),
    ]
    assert missing == ["B: its code"]
    rows, missing = rows_of(TABLE, ["c", "a"])
    assert ([r.name for r in rows], missing) == (["c", "a"], [])
    with pytest.raises(ConfigError, match=r"^The table has no row x; it has a, b, c.$"):
        rows_of(TABLE, ["a", "x"])
    assert unmeasured(TABLE).missing == ("its data", "B: its code")
    assert unmeasured(TABLE, ["a"]).missing == ("its data",)
    assert on_data("Cars", ROW, TABLE).settings == {"epochs": 9}
    assert on_data("Pets", ROW, TABLE).settings == {"epochs": 5}


def test_a_model_is_the_stated_one_by_its_shape() -> None:
    stated = SimpleNamespace(parameter_count=9, width=3, depth=2)
    assert is_stated(SimpleNamespace(**vars(stated)), stated)  # type: ignore[arg-type]
    for name in ("parameter_count", "width", "depth", "depths"):
        other = SimpleNamespace(**{**vars(stated), name: 7})
        assert not is_stated(other, stated)  # type: ignore[arg-type]


def test_base_novel_and_their_harmonic_mean_stand_beside_three_claims() -> None:
    scores = {"base": [0.9, 0.5], "novel": [0.6, 0.5]}
    found = _compared(ROW, "Pets", {"Pets": [90, 80, 85]}, scores, same=True)
    assert [(one.place, one.row, one.what, one.claimed) for one in found] == [
        ("Pets", "A", "base", 0.9),
        ("Pets", "A", "novel", 0.8),
        ("Pets", "A", "HM", 0.85),
    ]
    assert [one.ours.mean for one in found] == pytest.approx([0.7, 0.55, (0.72 + 0.5) / 2])
    assert _compared(ROW, "Cars", {"Pets": [1, 2, 3]}, scores, same=True) == []


def test_elsewhere_the_source_is_called_by_its_name() -> None:
    scores = {"source": [0.9], "Cars": [0.5], "Dogs": [0.1]}
    found = _compared(ROW, "Pets", {"Pets": 91, "Cars": 49}, scores, same=False)
    assert [(one.place, one.what, one.claimed, one.ours.mean, one.verdict) for one in found] == [
        ("Pets", "accuracy", 0.91, 0.9, "another backbone"),
        ("Cars", "accuracy", 0.49, 0.5, "another backbone"),
    ]


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        ([0.5, 0.5009], "agrees"),
        ([0.502, 0.5021], "higher"),  # surely, though by little
        ([0.4985, 0.5065, 0.501, 0.503], "agrees"),  # the interval lies within a point of it
        ([0.52, 0.5201], "higher"),
        ([0.48, 0.4801], "lower"),
        ([0.3, 0.8], "undecided"),
        ([0.3, 0.7018], "agrees"),  # the mean is printed so
        ([0.5], "unknown"),
    ],
)
def test_a_verdict_is_of_the_interval_around_the_claim(ours: list[float], verdict: str) -> None:
    one = compared("Pets", ROW, "accuracy", 50.0, ours, same=True)
    assert (one.verdict, one.claimed) == (verdict, 0.5)


def test_columns_of_tasks_are_called_by_their_first_metric() -> None:
    scores = {"vqa": {"accuracy": 60.0, "n": 3.0}, "nlvr": {"cider": 40.0}}
    request = RunRequest.model_construct(kind="text")
    (record,) = records = [Record.model_construct(request=request, scores=scores)]
    table = {"data": {"VQA": "vqa", "NLVR": "nlvr"}, "rows": [{"name": "b"}, {"name": "a", "claimed": {"VQA": 60.0, "NLVR": 50.0, reproduction_tasks.AVERAGE: 1.0}, "sd": {"NLVR": 4.0}}]}  # fmt: skip
    found = reproduction_tasks._compared(table, ROW, [*records, record], same=True)
    assert [
        (one.place, one.what, one.claimed, one.ours.mean, one.verdict) for one in found[:2]
    ] == [
        ("VQA", "accuracy", 0.6, 0.6, "agrees"),
        ("NLVR", "cider", 0.5, 0.4, "lower"),
    ]
    assert len(reproduction_tasks._compared(table, ROW, records, same=True)) == 3
    assert reproduction_tasks.tolerances(table, "a") == {"NLVR": pytest.approx(0.08)}
    assert reproduction_tasks.tolerances(table, "b") == {}


@pytest.mark.parametrize("running", [{}, {"resume": True, "quiet": False}])
def test_rows_with_prompts_run_before_those_without(running: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    done: list[Any] = []

    def checked(*, rows: Any, prefixes: bool, **terms: Any) -> Any:
        names = [row.name for row in rows]
        return SimpleNamespace(records=lambda place, row: (place.name, row.name), terms=(names, prefixes, terms))  # fmt: skip

    multitask = reproduction_tasks.multitask
    monkeypatch.setattr(multitask.Multitask, "checked", checked)
    monkeypatch.setattr(multitask, "jobs_of", lambda *given, **more: done.append((given, more)) or "jobs")  # fmt: skip
    monkeypatch.setattr(multitask, "run_all", lambda *given, **more: done.append((given, more)))
    monkeypatch.setattr(reproduction_tasks, "_compared", lambda *given, same: [(*given[1:], same)])
    table = {"data": {"VQA": "vqa"}, "rows": [{"name": "a"}, {"name": "b", "prefixes": True}]}
    rows: Any = [SimpleNamespace(name="a"), SimpleNamespace(name="b")]
    base: Any = SimpleNamespace(model="m", quiet=True)
    found = list(reproduction_tasks._measured(table, rows, base, tmp_path, 3, same=True, **running))
    assert found == [(rows[1], ("prompted", "b"), True), (rows[0], ("plain", "a"), True)]
    same = {"model": "m", "tasks": ["vqa"], "seeds": 3}
    assert [given[0].terms for given, _ in done[::2]] == [(["b"], True, same), (["a"], False, same)]
    assert [more for _, more in done[::2]] == [{"resume": bool(running)}] * 2
    assert [given[1:] for given, _ in done[1::2]] == [("jobs", tmp_path / n) for n in ("prompted", "plain")]  # fmt: skip
    assert [more for _, more in done[1::2]] == [{"quiet": True, **running}] * 2


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two data sets in CoOp's format, and a backbone of the stated shape."""
    for name in ("pets", "cars"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(reproduction.coop, "read", lambda path: path.name != "empty")
    monkeypatch.setattr(reproduction, "load_backbone", lambda name, **_: SimpleNamespace(width=len(name)))  # fmt: skip
    monkeypatch.setattr(reproduction, "_possible", lambda rows, _: (list(rows), []))
    return tmp_path


def task_of(_: Path) -> Any:
    return SimpleNamespace(backbone="stated")


def test_each_data_set_that_is_there_is_measured(there: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked: list[Any] = []

    def measured(_, rows, name, places, __, root, seeds, **running):  # type: ignore[no-untyped-def]
        asked.append((name, sorted(places), root, seeds, running))
        if name == "Cars":
            raise DataError("it is torn")
        return {row.name: {"base": [0.9], "novel": [0.8]} for row in rows}

    monkeypatch.setattr(reproduction, "_measured", measured)
    done = reproduction.reproduce(TABLE, task_of, there, Path("out"), seeds=2, quiet=True)
    assert asked == [
        (name, ["Cars", "Pets"], Path("out") / name, 2, {"quiet": True})
        for name in ("Pets", "Cars")
    ]
    assert [(one.row, one.what) for one in done.found] == [
        (row, what) for row in "AC" for what in ("base", "novel", "HM")
    ]
    assert {one.verdict for one in done.found} == {"unknown"}, "one seed"
    assert done.missing == ("B: its code", "data set Cars: it is torn")


def test_what_is_not_there_is_missing(there: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(reproduction, "_measured", lambda *_, **__: pytest.fail("nothing is there"))
    done = reproduction.reproduce(TABLE, task_of, None, Path("out"))
    assert done.missing == (
        "B: its code",
        "data set Pets: pets/ in CoOp's format (--data)",
        "data set Cars: cars/ in CoOp's format (--data)",
    )
    done = reproduction.reproduce(TABLE, task_of, there / "none", Path("out"))
    assert done.missing[1] == f"data set Pets: pets/ in CoOp's format below {there / 'none'}"
    elsewhere = {**TABLE, "kind": "elsewhere", "train": "Birds"}
    assert reproduction.reproduce(elsewhere, task_of, there, Path("out")).found == ()
    assert reproduction.reproduce(TABLE, task_of, there, Path("out"), methods=["b"]).found == ()
    monkeypatch.setattr(reproduction, "_possible", lambda *_: ([], ["C: no text tower"]))
    other = reproduction.reproduce(TABLE, lambda _: SimpleNamespace(backbone="a"), there, Path("o"))
    assert other.missing == (
        "B: its code",
        "weights of stated; what follows is another model's",
        "C: no text tower",
    )


def test_a_table_that_tests_elsewhere_trains_on_one_set(there: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked: list[str] = []
    monkeypatch.setattr(
        reproduction,
        "_measured",
        lambda _, rows, name, *__, **___: asked.append(name) or {r.name: {"source": [0.5]} for r in rows},
    )  # fmt: skip
    table = {**TABLE, "kind": "elsewhere", "train": "Cars"}
    table["rows"] = [{"name": "a", "label": "A", "method": "coop", "claimed": {"Cars": 50}}]
    done = reproduction.reproduce(table, task_of, there, Path("out"))
    assert asked == ["Cars"]
    assert [(one.place, one.claimed) for one in done.found] == [("Cars", 0.5)]


def test_a_measurement_of_one_set(there: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    asked: dict[str, Any] = {}
    own = reproduction.generalisation
    monkeypatch.setattr(reproduction.coop, "name_of", lambda path: f"known {path.name}")
    monkeypatch.setattr(own, "jobs_of", lambda protocol, *_, resume: asked.update(protocol=protocol, resume=resume) or ["jobs"])  # fmt: skip
    monkeypatch.setattr(own, "places_of", lambda _, __, others: asked.update(others=others) or "places")  # fmt: skip
    monkeypatch.setattr(own, "generalise", lambda *given, **running: asked.update(given=given[1:], running=running))  # fmt: skip
    monkeypatch.setattr(own, "scores", lambda _, __, row: {"of": [row.name]})
    places = {"Pets": there / "pets", "Cars": there / "cars"}
    rows = rows_of(TABLE, ["a"])[0]
    found = reproduction._measured(TABLE, rows, "Cars", places, task_of, Path("o"), 2, resume=True)
    assert found == {"a": {"of": ["a"]}}
    protocol = asked["protocol"]
    assert (protocol.kind, protocol.shots, protocol.seeds, protocol.known) == ("base-to-novel", 16, 2, "known cars")  # fmt: skip
    assert protocol.rows[0].settings["epochs"] == 9
    assert (asked["others"], asked["resume"], asked["running"]) == ({}, True, {"resume": True})
    assert asked["given"] == (["jobs"], "places", Path("o"))
    table = {**TABLE, "kind": "elsewhere"}
    reproduction._measured(table, rows, "Cars", places, task_of, Path("o"), 2)
    assert asked["others"] == {"Pets": there / "pets"}
    assert asked["protocol"].places == ["Pets"]
    assert asked["resume"] is False


# --- many tasks in one model --------------------------------------------------------------------


def record(**scores: float) -> Record:
    return Record.model_construct(
        request=RunRequest.model_construct(kind="text"),
        scores={task: {"metric": value, "other": 1.0} for task, value in scores.items()},
    )


def test_claims_of_tasks_and_their_average() -> None:
    table = {"data": {"VQA": "vqa", "GQA": "gqa"}, "rows": [
        {"name": "a", "claimed": {"VQA": 65.0, "average": 60.0}, "sd": {"VQA": 1.0, "average": 0.01}}]}  # fmt: skip
    records = [record(vqa=64.0, gqa=50.0), record(vqa=67.0, gqa=51.0)]
    found = reproduction_tasks._compared(table, ROW, records, same=True)
    assert [(one.place, one.what, one.claimed) for one in found] == [
        ("VQA", "metric", 0.65),
        ("average", "mean", 0.6),
    ]
    assert found[0].ours == t_interval([0.64, 0.67])
    assert found[1].ours.mean == pytest.approx(0.58)
    assert found[0].verdict == "agrees", "within two standard deviations"
    assert reproduction_tasks.tolerances(table, "a") == {"VQA": 0.02, "average": 0.001}
    assert reproduction_tasks.tolerances(table, "b") == {}


def test_a_spread_may_stand_in_the_replication(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    other = {"rows": [{"name": "a", "sd": {"VQA": 0.5}}]}
    monkeypatch.setattr(reproduction_tasks.claims, "table", lambda name, kind: {("r", "multitask"): other}[name, kind])  # fmt: skip
    own = {"rows": [{"name": "a"}], "spread": "r"}
    assert reproduction_tasks.tolerances(own, "a") == {"VQA": 0.01}
    own["rows"] = [{"name": "a", "sd": {"VQA": 0.25}}]
    assert reproduction_tasks.tolerances(own, "a") == {"VQA": 0.005}, "its own comes first"


def test_tasks_that_cannot_be_trained_and_scored(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    tasks = {"VQA": "vqa", "GQA": "gqa"}
    assert list(reproduction_tasks._lacking(tasks, None)) == [
        (label, f"{reproduction_tasks.LAYOUT[task]} (--data)") for label, task in tasks.items()
    ]
    parts = {"vqa": {"train": 1, "test": 2}, "gqa": {"val": 1}}
    monkeypatch.setattr(reproduction_tasks, "open_task", lambda task, _: SimpleNamespace(parts=parts[task]))  # fmt: skip
    monkeypatch.setattr(reproduction_tasks, "open_features", lambda *_: SimpleNamespace(width=4))
    ((label, why),) = reproduction_tasks._lacking(tasks, Path("d"))
    assert label == "GQA"
    assert why.startswith("no test and no train part; GQA/")
    assert why.endswith(" below d")
    parts["gqa"] = {"train": 1}
    assert [why[:13] for _, why in reproduction_tasks._lacking(tasks, Path("d"))] == ["no test part;"]  # fmt: skip

    def gone(task: str, _: Path) -> None:
        raise DataError(f"no {task}")

    monkeypatch.setattr(reproduction_tasks, "open_features", gone)
    parts["gqa"] = {"train": 1, "test": 1}
    assert list(reproduction_tasks._lacking(tasks, Path("d"))) == [("VQA", "no vqa"), ("GQA", "no gqa")]  # fmt: skip


# --- shares of parameters -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claimed", "verdict"),
    [(None, "no claim"), (4.18, "reproduced"), (7.97, "other denominator"), (4.2, "differs"), (4.175, "differs")],
)  # fmt: skip
def test_a_share_is_reproduced_to_its_digits(claimed: float | None, verdict: str) -> None:
    assert shares._verdict(claimed, 4.1752, 7.9749, 2) == verdict


def test_shares_of_a_language_model() -> None:
    one = shares.Share("r", (), None, trainable=3, total=200, alone=100, verdict="no claim")
    assert (one.percent, one.percent_alone) == (1.5, 3.0)
    rows = [{"label": "X", "missing": "code"}]
    assert shares.count({"rows": rows, "digits": 2}) == ((), ("X: code",))


def test_every_accounting_by_hand(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    pairs = {
        ("v", "pets"): BackbonePair("v", "pets", frozen=100, adapters=10, head=2, biases=3),
        ("v", "cars"): BackbonePair("v", "cars", frozen=200, adapters=5, head=8, biases=1),
        ("w", "pets"): BackbonePair("w", "pets", frozen=50, adapters=20, head=1, biases=4),
        ("w", "cars"): BackbonePair("w", "cars", frozen=400, adapters=7, head=6, biases=2),
    }  # fmt: skip
    asked: list[Any] = []

    def pair(name: str, data: str, *rest: Any) -> BackbonePair:
        asked.append(rest)
        return pairs[name, data]

    monkeypatch.setattr(accounting, "_pair", pair)
    table = {"backbones": ["v", "w"], "classes": {"pets": 37, "cars": 196}, "method": "m", "settings": {"rank": 16}}  # fmt: skip
    found = accounting.account(table)
    assert found.pairs == tuple(pairs.values())
    assert asked == [(n, "m", {"rank": 16}) for n in (37, 196)] * 2

    def mean(*ratios: float) -> float:
        return 100 * sum(ratios) / 4

    shares_ = list(found.shares.values())
    assert shares_ == pytest.approx(
        [
            mean(12 / 102, 13 / 208, 21 / 51, 13 / 406),
            mean(12 / 100, 13 / 200, 21 / 50, 13 / 400),
            mean(12 / 112, 13 / 213, 21 / 71, 13 / 413),
            mean(9 / 102, 12 / 208, 17 / 51, 11 / 406),
            mean(10 / 102, 5 / 208, 20 / 51, 7 / 406),
            100 * (12 + 13 + 21 + 13) / (102 + 208 + 51 + 406),
            100 * (12 / 102 + 13 / 208) / 2,
        ]
    )
    assert next(iter(found.shares)) == accounting.HEADLINE
    assert pairs["v", "pets"].share == pytest.approx(1200 / 102)


def test_a_pair_counts_biases_of_its_adapters() -> None:
    found = accounting._pair("petiole/tiny-vit", "pets", 7, "adaptertune", {"rank": 3})
    width, blocks = 192, 6
    from petiole.backbones.registry import load_backbone

    shape = load_backbone("petiole/tiny-vit", device="meta")
    width, blocks = shape.width, shape.depth
    assert found.head == 7 * width + 7
    assert found.adapters == blocks * (2 * 3 * width + 3 + width)
    assert found.biases == blocks * (3 + width)
    assert found.frozen == shape.parameter_count


def test_only_rows_that_learn_from_a_teacher_get_one() -> None:
    rows = [ROW, ComparisonRow(name="kd", label="KD", method="promptkd", settings={"epochs": 5})]
    coop, taught = reproduction._taught(rows, Path("t"))
    assert coop == ROW
    assert taught.settings == {"epochs": 5, "teacher": "t"}
    with pytest.raises(ConfigError, match=r"^No row of this table learns from a teacher"):
        reproduction._taught([ROW], Path("t"))

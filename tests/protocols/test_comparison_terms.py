"""Terms of a comparison and the runs that it makes, without running any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from builders.comparisons import TASK, comparison
from petiole.engine.record import RECORD
from petiole.errors import ConfigError, RunError
from petiole.protocols import domain_shift
from petiole.protocols.comparison import Comparison
from petiole.protocols.protocol import (
    ComparisonRow,
    RowsProtocol,
    applicable,
    rows_of,
    with_baselines,
)


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
        ConfigError, match=r"ridge is not trained by .* nothing would use lr.*train_on"
    ):
        comparison("ridge", "knn").check_used({"lr": 0.1})
    own = comparison().model_copy(
        update={"rows": [ComparisonRow(name="r", label="R", method="ridge", settings={"steps": 3})]}
    )
    with pytest.raises(ConfigError, match="nothing would use steps"):
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


def test_a_protocol_of_rows_names_them() -> None:
    class Own(RowsProtocol):
        STATE = "own.json"

    own = Own.checked(rows=rows_of(["ridge", "knn"]), seeds=2)
    assert (own.reference, own.margin) == ("ridge", 0.01)
    assert own.runs(Path("f"), "knn") == [Path(f"f/runs/knn/seed-{i}") for i in (0, 1)]
    with pytest.raises(ConfigError, match=r"This measurement cannot be: .*reference names no row: 'x' is not among"):  # fmt: skip
        Own.checked(rows=rows_of(["ridge"]), seeds=2, reference="x")

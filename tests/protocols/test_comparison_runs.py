"""In which order a comparison does its work, and on what: whatever trains is exchanged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.comparisons import QUIET, images, of_one_run, opened
from petiole.data.dataset import Dataset
from petiole.engine.run import RunSpec
from petiole.engine.share import Share
from petiole.errors import RunError
from petiole.protocols import domain_shift, jobs
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import Stage
from petiole.protocols.protocol import rows_of


def test_the_frozen_half_runs_once_for_all_that_jobs_ask_for() -> None:
    asked: list[Any] = []
    features = SimpleNamespace(quiet=True)
    seen: list[bool] = []

    def table(data: Dataset, cut: Any, recipe: Any) -> None:
        seen.append(features.quiet)
        asked.append((sorted(data.ids), cut, recipe.views, recipe.augmentation))

    class Plan:
        def __init__(self, training: tuple[str, ...], anchors: Any = None) -> None:
            self.training, self.anchors = training, anchors

        def cut(self, _: Any, *, training: bool = False) -> tuple[str, ...]:
            return self.training if training else ("block.1",)

    def method(job: Any) -> Any:
        plan = {
            "a": Plan(("block.1",)),
            "b": Plan(("images",)),
            "c": Plan(("final",), ("anchor",)),
        }[job]
        recipe = SimpleNamespace(views=0 if job == "a" else 2, augmentation="none" if job == "a" else "default")  # fmt: skip
        return SimpleNamespace(plan=lambda *_: plan, recipe=recipe)

    data = {"a": (images("p", [0, 1]), images("t", [0])), "b": (images("q", [0]), images("t", [0])), "c": (images("p", [0, 1]), images("u", [1]))}  # fmt: skip
    workspace = opened(
        task=SimpleNamespace(cache=Path("c")), features=features, backbone="net", shift=SimpleNamespace(classes="xy"),
        method_of=method, parts=lambda options: data[options], table=table,
    )  # fmt: skip
    specs: Any = [type("Job", (str,), {"options": name})(name) for name in "abc"]
    domain_shift.prepare(workspace, specs, quiet=False)
    assert [row[1] for row in asked] == [("block.1",), ("final",), ("anchor",)], (
        "images need no features"
    )
    assert set(asked[0][0]) == {"p0", "p1", "t0", "u0"}
    assert [row[2:] for row in asked] == [(0, "none"), (2, "default"), (2, "default")]
    assert [row[0] for row in asked[1:]] == [["p0", "p1"]] * 2
    assert (seen, features.quiet) == ([False] * 3, True)
    asked.clear()
    workspace.__dict__["task"] = SimpleNamespace(cache=None)
    domain_shift.prepare(workspace, specs, quiet=False)
    domain_shift.prepare(SimpleNamespace(), specs, quiet=False)  # type: ignore[arg-type]
    assert asked == [], "nothing is kept"


def test_a_comparison_prepares_settles_notes_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    monkeypatch.setattr(domain_shift, "open_workspace", lambda task: steps.append("open") or task)
    monkeypatch.setattr(
        domain_shift,
        "prepare",
        lambda _, specs, quiet: steps.append(("prepare", len(specs), quiet)),
    )
    monkeypatch.setattr(domain_shift, "settled", lambda c, made, folder, storage, **more: steps.append(("settled", storage, more)) or (made[:1], ["chosen"]))  # noqa: ARG005  # fmt: skip
    monkeypatch.setattr(
        domain_shift, "run_jobs", lambda specs, **more: steps.append(("run", len(specs), more))
    )
    c = of_one_run(notes=["n"])
    made = domain_shift.jobs_of(c, QUIET, tmp_path, {})
    domain_shift.compare(c, made, tmp_path, "s", quiet=True)
    assert steps == [
        "open",
        ("prepare", 2, True),
        ("settled", "s", {"quiet": True}),
        ("run", 1, {"quiet": True}),
    ]
    assert Comparison.read(tmp_path).notes == ["n", "chosen"]
    with pytest.raises(RunError, match=r"Add --resume"):
        domain_shift.compare(c, made, tmp_path)
    steps.clear()
    domain_shift.compare(c, made, tmp_path, resume=True)
    assert steps[1] == ("prepare", 2, False)
    tuned = of_one_run(validation=0.5, rows=[*rows_of(["ridge"]), rows_of(["lora-qkv"])[0].model_copy(update={"grid": {"lr": [0.1, 0.2]}})])  # fmt: skip
    made = domain_shift.jobs_of(tuned, QUIET, tmp_path, {})
    steps.clear()
    domain_shift.compare(tuned, made, tmp_path / "tuned")
    assert steps[1][1] == 2 * 2 + 2


def test_stages_are_of_their_first_task(monkeypatch: pytest.MonkeyPatch) -> None:
    stored: list[Any] = []
    monkeypatch.setattr(jobs, "open_workspace", lambda task: SimpleNamespace(store=lambda specs, share: stored.append((task, specs, share))))  # fmt: skip
    spec = RunSpec(QUIET, "ridge", Path("f"))
    stage = Stage((spec,), "share")  # type: ignore[arg-type]
    assert stage.task is QUIET
    jobs.store_share(stage)
    assert stored == [(QUIET, (spec,), "share")]


def test_what_no_run_has_finished_is_computed_once_a_task_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    monkeypatch.setattr(jobs, "open_workspace", steps.append)
    mapped: list[tuple[Any, list[Any]]] = []

    class Places:
        places = 2

        def map(self, work: Any, todo: Any) -> Any:
            mapped.append((work, list(todo)))
            return iter([SimpleNamespace(scores={}) for _ in todo])

    monkeypatch.setattr(jobs, "average", lambda _: 0.5)
    other = replace(QUIET, backbone="c")
    specs = [
        RunSpec(task, "ridge", tmp_path / name, resume=resume)
        for task, name, resume in ((QUIET, "a", False), (other, "b", True), (QUIET, "c", True), (QUIET, "d", True), (other, "e", False))
    ]  # fmt: skip
    for name in "ad":
        (tmp_path / name).mkdir()
        (tmp_path / name / jobs.RECORD).touch()
    records = jobs.run_jobs(specs, executor=Places(), quiet=True)  # type: ignore[arg-type]
    assert len(records) == 5
    assert steps == [QUIET, other]
    (store, stages), (run, whole) = mapped
    assert (store, run, whole) == (jobs.store_share, jobs.run, specs)
    a, b, c, _, e = specs
    assert [(stage.specs, stage.share) for stage in stages] == [
        ((a, c), Share(1, 2)), ((a, c), Share(2, 2)), ((b, e), Share(1, 2)), ((b, e), Share(2, 2)),
    ]  # fmt: skip

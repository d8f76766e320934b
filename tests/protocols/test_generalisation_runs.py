"""In which order a generalisation and a sweep do their work, and what they read back: whatever trains is exchanged."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.comparisons import QUIET
from petiole.engine.run import RunSpec
from petiole.errors import RunError
from petiole.protocols import generalisation, rank_sweep
from petiole.protocols.protocol import rows_of


def test_every_adapter_is_scored_once_at_every_place_but_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    monkeypatch.setattr(
        generalisation, "_check_names", lambda specs: steps.append(("names", len(specs)))
    )
    monkeypatch.setattr(generalisation, "open_workspace", lambda task: task)
    monkeypatch.setattr(generalisation.domain_shift, "prepare", lambda task, specs, quiet: steps.append((task.part, len(specs), quiet)))  # fmt: skip
    monkeypatch.setattr(
        generalisation, "run_jobs", lambda specs, **more: steps.append(("run", len(specs), more))
    )
    monkeypatch.setattr(generalisation, "ClassificationWorkspace", lambda task: SimpleNamespace(shift=SimpleNamespace(test=f"test of {task.part}")))  # fmt: skip
    scored: list[Any] = []
    monkeypatch.setattr(generalisation, "score_transfer", lambda folder, name, task, test: scored.append((folder.parent.name, name, task.part, test)) or SimpleNamespace(scores={"accuracy": 0.5}))  # fmt: skip
    study = generalisation.plan(
        "pets", rows_of(["coop", "promptkd"]), reference="", shots=4, seeds=1
    )
    made = generalisation.jobs_of(study, QUIET, tmp_path, {})
    others = generalisation.beside(study, QUIET, tmp_path, resume=True)
    assert len(others) == 6
    assert all(spec.resume for spec in others)
    places = generalisation.places_of(study, QUIET, {})
    shown: list[Any] = []

    def progress(_: str, of: int, *, quiet: bool) -> Any:
        shown.append((of, quiet))
        return nullcontext(lambda *_: None)

    monkeypatch.setattr(generalisation, "progress", progress)
    generalisation.generalise(study, made, places, tmp_path, others=others, quiet=True)
    assert steps == [
        ("names", 2), ("base", 1 + 3, True), ("all", 1, True), ("novel", 3, True), ("run", 8, {"quiet": True}),
    ]  # fmt: skip
    assert scored == [
        ("coop", "novel", "base", "test of novel"),
        ("promptkd", "base", "all", "test of base"),
        ("promptkd", "novel", "all", "test of novel"),
    ]
    elsewhere = generalisation.plan("pets", rows_of(["linear-probe"]), reference="", shots=4, seeds=1, places=["x"])  # fmt: skip
    steps.clear()
    generalisation.generalise(elsewhere, [], {}, tmp_path / "other")
    assert steps == [("run", 0, {})], "any head does"
    with pytest.raises(RunError, match=r"Add --resume"):
        generalisation.generalise(elsewhere, [], {}, tmp_path / "other")
    assert [row[1] for row in shown] == [True, False]


def test_a_sweep_compares_each_share_then_measures_the_highest_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    wanted = rank_sweep.RankSweep.checked(method="adaptertune", ranks=[1, 4], fractions=[0.5, 1.0], seeds=3, validation=0.25)  # fmt: skip
    done: list[Any] = []
    monkeypatch.setattr(rank_sweep.domain_shift, "compare", lambda c, specs, folder, **more: done.append((c.fraction, len(specs), folder.name, specs[0].resume, more)))  # fmt: skip
    monkeypatch.setattr(rank_sweep, "open_workspace", lambda task: task)
    taught: list[RunSpec] = []
    found = SimpleNamespace(model_dump=lambda mode: {"a": 1})  # noqa: ARG005
    monkeypatch.setattr(rank_sweep, "measure", lambda _, teacher: taught.append(teacher) or found)
    rank_sweep.run(wanted, QUIET, tmp_path, quiet=True)
    assert done == [
        (0.5, 6, "fraction-0.5", False, {"quiet": True}),
        (1.0, 6, "fraction-1", False, {"quiet": True}),
    ]
    (teacher,) = taught
    assert (teacher.settings["rank"], teacher.seed, teacher.folder.name) == (4, 0, "split-0-seed-0")
    assert teacher.folder.is_relative_to(tmp_path / "fraction-1/runs/r4")
    assert (tmp_path / rank_sweep.SPECTRUM).is_file()
    done.clear()
    rank_sweep.run(wanted, QUIET, tmp_path, resume=True)
    assert [row[3] for row in done] == [True, True]
    assert len(taught) == 1, "it is measured already"
    with pytest.raises(RunError, match=r"Add --resume"):
        rank_sweep.run(wanted, QUIET, tmp_path)
    assert len(done) == 2
    monkeypatch.setattr(rank_sweep, "measure", lambda *_: None)
    rank_sweep.run(wanted, QUIET, tmp_path / "other")
    assert not (tmp_path / "other" / rank_sweep.SPECTRUM).exists()

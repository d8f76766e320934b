"""What is stored before runs, and how their headlines are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.comparisons import TASK, comparison
from petiole.engine.executor import Local
from petiole.engine.record import RECORD, Record, RunRequest
from petiole.engine.run import RunSpec
from petiole.protocols import continual, domain_shift, generalisation, jobs, multitask, rank_sweep
from petiole.protocols.protocol import Protocol, RowsProtocol, rows_of
from petiole.tasks.classification.workspace import Classification


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


SEQUENCE = continual.plan(["a", "b"], "ridge", {}, shots=3, memory=2, seeds=1)
FEW = generalisation.few_shot("pets", rows_of(["coop"]), [1], reference="", seeds=1)
MANY = multitask.Multitask.checked(
    rows=rows_of(["vl-lora", "vl-adapter"]), model="m", tasks=["vqa"], seeds=2
)
SWEEP = rank_sweep.RankSweep.checked(method="adaptertune", ranks=[1, 2], fractions=[1.0], seeds=2, validation=0.5)  # fmt: skip


class Taken(Exception):
    """Says whether a folder was to be taken up again."""


@pytest.mark.parametrize(
    ("protocol", "run"),
    [
        (continual, lambda root, **more: continual.learn(SEQUENCE, [], [TASK, TASK], root, **more)),
        (domain_shift, lambda root, **more: domain_shift.compare(comparison(), [], root, **more)),
        (generalisation, lambda root, **more: generalisation.generalise(FEW, [], {}, root, **more)),
        (multitask, lambda root, **more: multitask.run_all(MANY, [RunSpec(TASK, "vl-lora", root)], root, **more)),
        (rank_sweep, lambda root, **more: rank_sweep.run(SWEEP, TASK, root, **more)),
        (jobs, lambda root, **more: RowsProtocol.run_all(MANY, [], root, **more)),
    ],
)  # fmt: skip
def test_a_folder_is_not_taken_up_again_unless_it_is_said(
    protocol: Any, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def claim(_: Any, root: Path, *, resume: bool = False) -> None:
        assert root == tmp_path
        raise Taken(resume)

    monkeypatch.setattr(Protocol, "claim", claim)
    for module in (continual, domain_shift, generalisation, multitask, rank_sweep):
        monkeypatch.setattr(module, "open_workspace", lambda _: None, raising=False)
        monkeypatch.setattr(module, "_opened", lambda _: None, raising=False)
    for given, wanted in (({}, False), ({"resume": False}, False), ({"resume": True}, True)):
        with pytest.raises(Taken) as told:
            run(tmp_path, **given)
        assert told.value.args == (wanted,), protocol.__name__


def test_shares_of_a_sweep_are_taken_up_again_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def compare(_: Any, made: list[RunSpec], *__: Any, **___: Any) -> None:
        raise Taken(*{job.resume for job in made})

    monkeypatch.setattr(Protocol, "claim", lambda *_, **__: None)
    monkeypatch.setattr(domain_shift, "compare", compare)
    for given, wanted in (({}, False), ({"resume": True}, True)):
        with pytest.raises(Taken) as told:
            rank_sweep.run(SWEEP, TASK, tmp_path, **given)
        assert told.value.args == (wanted,)


def test_bars_are_shown_unless_it_is_to_be_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []

    def progress(label: str, of: int, *, quiet: bool) -> Any:
        shown.append((label, of, quiet))
        return nullcontext(lambda *_: None)

    monkeypatch.setattr(jobs, "progress", progress)
    for given in ({}, {"quiet": True}):
        assert jobs.run_jobs([], "trials", **given) == []
    assert [row[2] for row in shown] in ([False, True], [False, False, True, True])
    assert {row[1] for row in shown} == {0}


def test_many_tasks_count_the_commonest_answers_before_they_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    steps: list[Any] = []
    opened = SimpleNamespace(tasks=["vqa"])
    monkeypatch.setattr(multitask, "open_workspace", lambda task: steps.append(task) or opened)
    monkeypatch.setattr(multitask, "commonest", lambda *given: steps.append(given))
    monkeypatch.setattr(multitask, "run_jobs", lambda specs, **more: steps.append((specs, more)))
    first, *others = (
        RunSpec(replace(TASK, backbone=str(seed)), row.name, tmp_path, seed=seed)
        for row in MANY.rows
        for seed in range(MANY.seeds)
    )
    multitask.run_all(MANY, [first, *others], tmp_path, quiet=True)
    by_seed = sorted([first, *others], key=lambda spec: spec.seed)
    assert steps == [first.task, (["vqa"], "test", tmp_path), (by_seed, {"quiet": True})]


def test_bars_move_by_one_run(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[Any] = []
    monkeypatch.setattr(jobs, "progress", lambda *_, **__: nullcontext(lambda *by: moved.append(by)))  # fmt: skip
    monkeypatch.setattr(jobs, "_store", lambda *_, **__: None)
    done = record("classification", test={"accuracy": 0.4567})

    class Place:
        def map(self, _: Any, given: Any) -> Any:
            return iter([done] * len(given))

    specs = [RunSpec(TASK, "ridge", Path("f"))] * 2
    assert jobs.run_jobs(specs, executor=Place()) == [done, done]  # type: ignore[arg-type]
    assert moved == [(1, "ridge 45.7 %")] * 2

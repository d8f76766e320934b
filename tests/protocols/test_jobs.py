"""What is stored before runs, and how their headlines are read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builders.comparisons import TASK
from petiole.engine.executor import Local
from petiole.engine.record import RECORD, Record, RunRequest
from petiole.engine.run import RunSpec
from petiole.protocols import jobs
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

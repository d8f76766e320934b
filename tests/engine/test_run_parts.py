"""Parts of a run: what did not survive saving, and which share of the images a process has."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from engine.test_group import Made, MadeRun, Opened
from petiole.engine import run, task, together
from petiole.engine.record import LOG, read_log
from petiole.engine.share import Share
from petiole.errors import ConfigError, RunError


def adapter(weight: float, opened: Any = None) -> Any:
    """Of one matrix; opening its file gives another."""
    module = nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, weight)
    return SimpleNamespace(
        contents=lambda: module, save=lambda _: None, frozen={"backbone": 1}, load=opened
    )


@pytest.mark.parametrize("found", [2.0, 2.5])
def test_what_did_not_survive_saving_is_told(found: float, tmp_path: Path) -> None:
    def load(folder: Path, **frozen: Any) -> Any:
        assert (folder, frozen) == (tmp_path, {"backbone": 1})
        return adapter(found)

    saved = adapter(2.0, load)
    if found == 2.0:
        assert run._save(saved, tmp_path) is saved
    else:
        with pytest.raises(RunError, match=r"weight did not survive saving\. Please report this"):
            run._save(saved, tmp_path)


@pytest.mark.parametrize("precision", ["fp16", "bf16", None])
def test_what_a_precision_cannot_do_is_refused_before_anything_is_computed(
    precision: str | None,
) -> None:
    options = {"precision": precision} if precision else {}
    recipe = SimpleNamespace(step_rule="sam")
    prepared = SimpleNamespace(method=SimpleNamespace(recipe=recipe), options=lambda: options)
    opened: Any = SimpleNamespace(prepare=lambda spec: prepared if spec == "spec" else None)
    spec: Any = "spec"
    if precision == "fp16":
        with pytest.raises(ConfigError, match="step_rule=sam reads gradients"):
            run._prepared(spec, opened)
    else:
        assert run._prepared(spec, opened) is prepared


def test_loggers_hear_a_run_from_its_request_to_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Any] = []

    def made(name: str, folder: Path) -> Any:
        return SimpleNamespace(
            start=lambda request: heard.append((name, folder, request["seed"])),
            log=lambda step, values: heard.append((name, step, values)),
            finish=lambda record: heard.append((name, record["id"])),
        )

    monkeypatch.setattr(run, "logger", made)
    spec = run.RunSpec(Made(), "linear-probe", tmp_path / "run", seed=4, loggers=("a", "b"))
    seeds: list[int] = []
    build = MadeRun.build
    monkeypatch.setattr(MadeRun, "build", lambda made: (seeds.append(torch.initial_seed()), build(made))[1])  # fmt: skip
    opened = Opened(MadeRun(lambda callbacks: callbacks.log(0, 0.5, 0.1), []))
    record = run.run(spec, opened)
    assert seeds == [4]
    assert opened.stored == [], "alone it has no share of its own"
    logged = {"loss": 0.5, "lr": 0.1}
    steps = [("a", 0, logged), ("b", 0, logged)]
    begun, done = [(name, spec.folder, 4) for name in "ab"], [(name, record.id) for name in "ab"]
    assert heard == [*begun, *steps, *steps, *done]
    assert len((spec.folder / LOG).read_text().splitlines()) == 1, "of a step that was repeated"
    [row] = read_log(spec.folder)
    assert row == {"step": 0, **logged}


@pytest.mark.parametrize("own", [True, False])
def test_a_kind_s_adapter_is_imported_when_it_is_asked_for(
    own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Opened:
        """An adapter of a kind."""

    loaded: list[str] = []

    def load(name: str = "boards") -> None:
        loaded.append(name)
        task.register("boards")(Opened)  # type: ignore[arg-type]

    point = SimpleNamespace(name="boards", load=load)
    monkeypatch.setattr(task, "_ADAPTERS", {})
    monkeypatch.setattr(task, "kinds", lambda: ("photos", "boards"))
    monkeypatch.setattr(task, "entry_points", lambda *, group: [] if own else [point] * (group == "petiole.tasks"))  # fmt: skip
    monkeypatch.setattr(task, "import_module", load)
    for _ in range(2):
        assert task.adapter_class("boards") is Opened
    assert loaded == ["petiole.tasks.boards.adapter" if own else "boards"]
    with pytest.raises(ConfigError, match="Unknown kind of task 'board'"):
        task.adapter_class("board")


def test_a_task_is_opened_once_and_anew_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = lru_cache(maxsize=2)(task._opened.__wrapped__)
    monkeypatch.setattr(task, "_opened", kept)  # what other tests have open stays so
    opened: list[object] = []

    @dataclass(frozen=True)
    class Boards(task.Task[Any]):
        """Counts how often it is opened."""

        kind: ClassVar[str] = "boards"

        def open(self) -> Any:
            opened.append(object())
            return opened[-1]

    first = task.open_workspace(Boards())
    assert task.open_workspace(Boards()) is first
    assert task.reopened(Boards()) is not first
    task.forget_workspaces()
    assert task.open_workspace(Boards()) is opened[2]


def test_a_share_is_said_in_words_and_decided_by_the_image_alone() -> None:
    """By the first eight bytes of its hash: shares of an earlier version are those of this one."""
    assert Share.parse("3/8") == Share(3, 8)
    assert str(Share.parse("1/1")) == str(Share()) == "1/1"
    assert Share.parse("8/8").of == 8
    for image in ("a", "b", "c", "d"):
        number = int(hashlib.sha256(image.encode()).hexdigest()[:16], 16)
        assert [n for n in range(1, 8) if Share(n, 7).takes(image)] == [number % 7 + 1]


@pytest.mark.parametrize(("rank", "own"), [("0", Share(1, 3)), ("2", Share(3, 3))])
def test_a_process_has_its_own_share(
    rank: str, own: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert Share.own() == own


@pytest.mark.parametrize(("size", "kind"), [("2", "cpu"), ("2", "cuda"), ("1", "cpu")])
def test_a_group_is_opened_where_there_are_several(
    size: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("accelerate.PartialState", lambda **how: opened.append(how))
    monkeypatch.setenv("WORLD_SIZE", size)
    together.open_group(kind)
    assert opened == ([{"cpu": kind == "cpu"}] if size == "2" else [])

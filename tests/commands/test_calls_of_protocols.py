"""What verbs of a protocol hand to the rooms below them: they are exchanged for a list of what they were asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.asked import PLAIN, Asked, workspace
from petiole.commands import transfer as transferring
from petiole.commands.continual import continual
from petiole.commands.few_shot import few_shot
from petiole.commands.generalise import generalise
from petiole.commands.multitask import multitask
from petiole.commands.sweep import sweep
from petiole.engine.executor import Local
from petiole.engine.run import RunSpec
from petiole.errors import RunError


def measured(asked: Asked, protocol: str, report: str, run: str) -> None:
    """Exchange what a verb of a protocol runs and reports."""
    asked.of("petiole.engine.task.reopened", workspace())
    asked.of("petiole.engine.task.open_workspace", workspace())
    asked.of("petiole.commands.announce.announce")
    asked.of(f"petiole.report.{report}.summarise", "summary")
    asked.of("petiole.report.scores.table", "table")
    asked.of("petiole.report.table.write")
    asked.of(f"petiole.protocols.{protocol}.{run}")


def test_base_to_novel(asked: Asked) -> None:
    measured(asked, "generalisation", "generalisation", "generalise")
    done = generalise(Path("pets"), methods=["zero-shot", "coop"], reference="coop", settings=["epochs=3"], seeds=2, shots=5,
                      margin=2.0, out=Path("o"), processes=2, resume=True, test=Path("t"), test_fraction=0.25, **PLAIN)  # fmt: skip
    (study, jobs, places, root), more = asked.one("generalise")
    assert (study.kind, study.reference, study.seeds, study.shots, study.margin) == ("base-to-novel", "coop", 2, 5, 0.02)  # fmt: skip
    assert (study.data, study.known) == ("pets", "")
    assert list(places) == ["base", "novel"]
    assert (root, done.folder, done.summary) == (Path("o"), Path("o"), "summary")
    assert (more["executor"], more["resume"], more["quiet"]) == (Local(2), True, True)
    assert len(more["others"]) == 2 * (1 + 2 * 2)
    assert jobs[-1].settings == {"epochs": "3"}
    assert (jobs[0].task.test, jobs[0].task.test_fraction) == (Path("t"), 0.25)
    assert asked.one("announce")[0][1] == [*jobs, *more["others"]]
    assert asked.one("write")[0] == ("table", Path("o"))


def test_elsewhere_and_all_images(asked: Asked) -> None:
    measured(asked, "generalisation", "generalisation", "generalise")
    generalise(Path("pets"), methods=["coop"], to=[Path("x/cars"), Path("dogs.csv")], all_images=True, out=Path("o"), **PLAIN)  # fmt: skip
    (study, _, places, _), more = asked.one("generalise")
    assert (study.kind, study.shots, study.places, study.margin) == ("elsewhere", None, ["cars", "dogs"], 0.01)  # fmt: skip
    assert {name: task.images for name, task in places.items()} == {"cars": Path("x/cars"), "dogs": Path("dogs.csv")}  # fmt: skip
    assert more["others"] == []


def test_the_task_of_the_first_run_is_announced(asked: Asked) -> None:
    measured(asked, "generalisation", "generalisation", "generalise")
    generalise(Path("pets"), methods=["coop", "promptkd"], seeds=1, out=Path("o"), **PLAIN)
    assert asked.one("reopened")[0][0].part == "base", "not all classes, as another method needs"


def test_few_shots(asked: Asked) -> None:
    measured(asked, "generalisation", "generalisation", "generalise")
    few_shot(Path("pets"), methods=["coop"], shots=[4, 1], published=True, margin=3.0, seeds=2, out=Path("o"), **PLAIN)  # fmt: skip
    (study, jobs, places, _), _ = asked.one("generalise")
    assert (study.kind, study.places, study.published, study.margin, study.seeds) == ("few-shot", ["1", "4"], True, 0.03, 2)  # fmt: skip
    assert (len(jobs), places) == (4, {})
    assert asked.one("announce")[0][2] == study.notes({})


def test_tasks_in_sequence(asked: Asked) -> None:
    measured(asked, "continual", "continual", "learn")
    asked.of("petiole.protocols.continual.jobs_of", lambda study, tasks, root, **_: [
        RunSpec(tasks[0], "ridge", study.home(root, "adapters", number, 0)) for number in (0, 1)])  # fmt: skip
    done = continual([Path("x/a"), Path("b")], method="ridge", shots=3, memory=4, seeds=2, margin=2.0, test_fraction=0.25,
                     out=Path("o"), resume=True, **PLAIN)  # fmt: skip
    (study, _, tasks, root), more = asked.one("learn")
    assert (study.tasks, study.shots, study.memory, study.seeds, study.margin) == (["a", "b"], 3, 4, 2, 0.02)  # fmt: skip
    assert [task.test_fraction for task in tasks] == [0.25, 0.25]
    assert (root, done.folder, more) == (Path("o"), Path("o"), {"executor": Local(), "resume": True, "quiet": True})  # fmt: skip
    given, _ = asked.one("announce")
    assert [job.folder for job in given[1]] == [Path("o/runs/adapters/a/seed-0")]
    assert given[2] == ["the first of 2 runs: 2 tasks, 2 seeds"]
    assert asked.names[-4:] == ["learn", "summarise", "table", "write"]
    assert [call[1] for call in asked[-3:]] == [(Path("o"),), ("summary",), ("table", Path("o"))]
    asked.clear()
    continual([Path("a"), Path("b")], method="ridge", all_images=True, out=Path("o"), **PLAIN)
    assert asked.one("learn")[0][0].shots is None


def test_ranks(asked: Asked) -> None:
    measured(asked, "rank_sweep", "elbow", "run")
    asked.of("petiole.report.elbow_words.write")
    done = sweep("rank", Path("pets"), method="adaptertune", values=[2, 1], fractions=[1.0, 0.5], seeds=2, validation=0.5,
                 settings=["steps=3"], test=Path("t"), test_fraction=0.25, out=Path("o"), resume=True, **PLAIN)  # fmt: skip
    (wanted, task, folder), more = asked.one("run")
    assert (wanted.ranks, wanted.fractions, wanted.seeds, wanted.validation) == ([1, 2], [0.5, 1.0], 2, 0.5)  # fmt: skip
    assert wanted.settings == {"steps": "3"}
    assert (task.images, task.test, task.test_fraction) == (Path("pets"), Path("t"), 0.25)
    assert (folder, more) == (Path("o"), {"executor": Local(), "resume": True, "quiet": True})
    assert len(asked.one("announce")[0][1]) == 2 * 2 * 2
    assert asked.one("write")[0] == ("summary", Path("o"))
    assert done.folder == Path("o")


def test_many_tasks(asked: Asked) -> None:
    measured(asked, "multitask", "multitask", "run_all")
    opened = workspace()
    opened.tasks = [SimpleNamespace(name="vqa"), SimpleNamespace(name="nlvr")]
    asked.of("petiole.engine.task.reopened", opened)
    multitask(["x", "y"], methods=["vl-lora"], seeds=2, margin=2.0, mode="mixed", fraction=0.5, no_prefixes=True, validation_part=True,
              visual=["boxes=false"], features=Path("f"), visual_tokens=4, vision_backbone="v", precision="bf16", cache_dir=Path("c"),
              settings=["rank=2"], skip_bad=True, quiet=True, device="cpu", resume=True, out=Path("o"))  # fmt: skip
    (study, jobs, root), more = asked.one("run_all")
    assert (study.tasks, study.mode, study.fraction, study.prefixes, study.scored) == (["vqa", "nlvr"], "mixed", 0.5, False, "val")  # fmt: skip
    assert (study.seeds, study.margin, study.model) == (2, 0.02, "petiole/tiny-vl")
    task = jobs[0].task
    assert (task.tasks, task.features, task.visual_tokens, task.vision_backbone) == (("x", "y"), Path("f"), 4, "v")  # fmt: skip
    assert (task.options, task.precision, task.cache, task.skip_bad, task.quiet) == ((("boxes", "false"),), "bf16", Path("c"), True, True)  # fmt: skip
    assert (root, more) == (Path("o"), {"executor": Local(), "resume": True, "quiet": True})
    asked.clear()
    multitask(["x"], methods=["vl-lora"], device="cpu", out=Path("o"))
    (study, jobs, _), _ = asked.one("run_all")
    assert (study.prefixes, study.scored, study.fraction, study.margin) == (True, "test", 1.0, 0.01)
    assert (jobs[0].task.features, jobs[0].task.visual_tokens) == (None, 36)


@pytest.mark.parametrize(
    ("measure", "protocol", "report", "run"),
    [
        (lambda **more: generalise(Path("x"), methods=["coop"], **more), "generalisation", "generalisation", "generalise"),
        (lambda **more: few_shot(Path("x"), methods=["coop"], **more), "generalisation", "generalisation", "generalise"),
        (lambda **more: continual([Path("x"), Path("y")], method="ridge", **more), "continual", "continual", "learn"),
        (lambda **more: sweep("rank", Path("x"), method="adaptertune", values=[1, 2], **more), "rank_sweep", "elbow", "run"),
        (lambda **more: multitask(["x"], methods=["vl-lora"], device="cpu", **more), "multitask", "multitask", "run_all"),
    ],
)  # fmt: skip
def test_a_folder_that_is_taken_is_refused_before_anything_runs(
    asked: Asked, measure: Any, protocol: str, report: str, run: str
) -> None:
    measured(asked, protocol, report, run)
    opened = workspace()
    opened.tasks = [SimpleNamespace(name="vqa")]
    asked.of("petiole.engine.task.reopened", opened)

    def taken(*_: Any, **more: Any) -> None:
        raise RunError(f"taken {more}")

    asked.of("petiole.protocols.protocol.Protocol.check_free", taken)
    plain: dict[str, Any] = {"quiet": True} if run == "run_all" else PLAIN
    for resume in (False, True):
        asked.clear()
        with pytest.raises(RunError, match=f"taken {{'resume': {resume}}}"):
            measure(out=Path("o"), resume=resume, **plain)
        assert asked.one("check_free")[0][1:] == (Path("o"),)
        assert not {"announce", run} & set(asked.names)


def test_cells_are_announced(asked: Asked, capsys: pytest.CaptureFixture[str]) -> None:
    asked.of("petiole.commands.announce.announce")
    asked.of("petiole.engine.task.open_workspace", "opened")
    asked.of("petiole.protocols.transfer.jobs_of", ("c", ["job"]))
    asked.of("petiole.protocols.settled.tried", ["trial"])
    cells = [SimpleNamespace(name=name) for name in ("x/v", "y/v")]
    wanted: Any = SimpleNamespace(rows=[1], cells=cells, seeds=3)
    transferring._announce(wanted, {"x/v": "task"}, Path("o"))  # type: ignore[dict-item]
    assert capsys.readouterr().err.split("\n") == ["2 cells of 1 method, 3 seeds", "", "x/v", "", "y/v", "finished", ""]  # fmt: skip
    assert asked.one("announce")[0] == ("opened", ["job", "trial"])

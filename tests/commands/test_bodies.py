"""What verbs hand to the rooms below them, and in which order: those rooms are exchanged for a list of what they were asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from petiole.commands import compare as comparing
from petiole.commands import diff as diffing
from petiole.commands import evaluate as evaluating
from petiole.commands import inspect as inspecting
from petiole.commands import predict as predicting
from petiole.commands import transfer as transferring
from petiole.commands.continual import continual
from petiole.commands.demo import demo
from petiole.commands.few_shot import few_shot
from petiole.commands.fit import FitResult, fit
from petiole.commands.fold import fold
from petiole.commands.generalise import generalise
from petiole.commands.import_dassl import import_dassl
from petiole.commands.merge import merge
from petiole.commands.multitask import multitask
from petiole.commands.options import ModelOptions
from petiole.commands.pair import pair
from petiole.commands.push_to_hub import push_to_hub
from petiole.commands.sweep import sweep
from petiole.commands.synthesize import synthesize
from petiole.engine.executor import Local
from petiole.engine.run import RunSpec
from petiole.errors import AdapterError, ConfigError, RunError
from petiole.protocols.comparison import Comparison
from petiole.protocols.selection import Selection
from petiole.tasks.classification.workspace import Classification, Subset


class Asked(list[Any]):
    """Calls in their order: a name, arguments and keywords each."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.patch = patch

    def of(self, target: str, result: Any = None) -> None:
        """Exchange what a dotted name means by a function that notes its call; a function as the result is called."""
        name = target.rpartition(".")[2]

        def call(*given: Any, **more: Any) -> Any:
            self.append((name, given, more))
            return result(*given, **more) if callable(result) else result

        self.patch.setattr(target, call)

    def one(self, name: str) -> tuple[Any, Any]:
        """Arguments and keywords of the only call of a function."""
        (found,) = [call[1:] for call in self if call[0] == name]
        return found  # type: ignore[no-any-return]

    @property
    def names(self) -> list[str]:
        return [call[0] for call in self]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Asked:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PETIOLE_CACHE", str(tmp_path / "cache"))
    return Asked(monkeypatch)


PLAIN = {"backbone": "b", "device": "cpu", "quiet": True}
RUN = "petiole.engine.task."


def workspace(**more: Any) -> Any:
    shift = SimpleNamespace(
        source=more.pop("source", None), classes=["a", "b"], train=None, test=None
    )
    return SimpleNamespace(shift=shift, notes=["n"], notes_with=lambda _: ["n"], task=SimpleNamespace(quiet=True), tasks=[], **more)  # fmt: skip


# --- synthesize ---------------------------------------------------------------------------------


def test_counts_of_drawn_data(asked: Asked) -> None:
    scenes = "petiole.data.synthetic.scenes."
    for name in ("write_task", "write_questions", "masks.write_masks"):
        asked.of(scenes + name)
    asked.of("petiole.data.synthetic.boards.write")
    one = synthesize(Path("f"), task="shapes", quiet=True)
    given, more = asked.one("write_task")
    assert given == (Path("f"), "shapes")
    assert (more["train"], more["test"], more["seed"], more["style"]) == (32, 40, 0, "")
    from petiole.data.synthetic.scenes import QUESTIONS, TASKS

    classes = len(TASKS["shapes"].classes)
    assert (one.classes, one.samples, one.images) == (classes, 72 * classes, 72 * classes)
    assert one.style == TASKS["shapes"].style
    few = synthesize(Path("f"), task="shapes", train=2, test=1, style="dark", seed=3, quiet=True)
    assert (few.samples, few.style) == (3 * classes, "dark")
    asked.clear()
    questions = synthesize(Path("f"), task="nlvr", quiet=True)
    assert asked.one("write_questions")[1]["train"] == 2000
    assert (questions.classes, questions.samples) == (0, 2000 + 2 * 500)
    assert questions.images == 3000 * QUESTIONS["nlvr"].pictures
    assert questions.style == ""
    assert synthesize(Path("f"), task="vqa", train=7, test=2, quiet=True).samples == 11
    masks = synthesize(Path("f"), task="masks", quiet=True)
    from petiole.data.synthetic.scenes.masks import SHOWN

    assert (masks.samples, masks.images, masks.classes, masks.style) == (128, 128, 1 + len(SHOWN), "clear")  # fmt: skip
    assert asked.one("write_masks")[1]["train"] == asked.one("write_masks")[1]["test"] == 64
    assert (
        synthesize(Path("f"), task="masks", train=3, test=2, style="dark", quiet=True).samples == 5
    )
    board = synthesize(Path("f"), task="board", quiet=True)
    given, _ = asked.one("write")
    assert given[:6] == (Path("f"), "base", 2000, 500, 1000, 0)
    assert (board.samples, board.images, board.classes, board.style) == (3500, 3500, 0, "base")
    asked.clear()
    board = synthesize(Path("f"), task="board", style="xray", train=4, test=5, seed=9, quiet=True)
    assert asked.one("write")[0][:6] == (Path("f"), "xray", 4, 2, 5, 9)
    assert board.samples == 11
    with pytest.raises(ConfigError, match=r"Unknown task of the generated world 'shape'.*shapes"):
        synthesize(Path("f"), task="shape")


# --- comparisons --------------------------------------------------------------------------------


@pytest.fixture
def compared(asked: Asked) -> Asked:
    """``compare`` with everything below it exchanged."""
    task = Classification("b", Path("photos"))
    subset = Subset(7)
    asked.of("petiole.commands.tasks.open_task", (task, subset))
    asked.of("petiole.engine.task.reopened", workspace())
    asked.of("petiole.commands.announce.announce")
    asked.of("petiole.commands.compare._write_configs")
    asked.of("petiole.report.page.write_page", Path("page"))
    asked.of("petiole.report.folder.summarise", "summary")
    asked.of("petiole.protocols.domain_shift.compare")
    asked.of("petiole.protocols.protocol.RowsProtocol.run_all")
    return asked


def test_a_comparison_of_photos(compared: Asked) -> None:
    done = comparing.compare("photos", methods=["lora-qkv"], out=Path("o"), settings=["rank=2"], margin=0.5, **PLAIN)  # fmt: skip
    assert (done.folder, done.report, done.summary) == (Path("o"), Path("page"), "summary")
    (c, jobs, folder, storage), running = compared.one("compare")
    assert isinstance(c, Comparison)
    assert (c.split_seeds, c.seeds, c.shots, c.margin, c.notes) == (5, 1, 7, 0.005, ["n"])
    assert (c.validation, c.trials, c.kind) == (0.0, 0, "classification")
    assert (c.reference, c.headline, c.baseline) == ("lora-qkv", "lora-qkv", "class-means")
    assert [row.name for row in c.rows] == ["lora-qkv", "class-means", "knn", "logistic-regression", "ridge", "averaged-ridge"]  # fmt: skip
    assert (folder, storage) == (Path("o"), None)
    assert running == {"executor": Local(), "resume": False, "quiet": True}
    assert len(jobs) == 5 * len(c.rows)
    assert jobs[0].settings == {"rank": "2"}
    assert compared.one("announce")[0][1] == jobs
    given, _ = compared.one("_write_configs")
    assert given[0] == jobs
    assert given[1] == {"data": "photos", **PLAIN}
    order = [
        "open_task",
        "reopened",
        "announce",
        "compare",
        "_write_configs",
        "write_page",
        "summarise",
    ]
    assert compared.names == order


def test_draws_and_seeds_of_a_comparison(compared: Asked) -> None:
    comparing.compare("photos", methods=["ridge"], split_seeds=2, seeds=3, resume=True, processes=2, out=Path("o"), **PLAIN)  # fmt: skip
    (c, jobs, *_), running = compared.one("compare")
    assert (c.split_seeds, c.seeds) == (2, 3)
    assert running == {"executor": Local(2), "resume": True, "quiet": True}
    assert all(job.resume for job in jobs)
    compared.clear()
    comparing.compare("photos", methods=["lora-qkv"], tune=True, out=Path("o"), **PLAIN)
    (c, _, _, storage), _ = compared.one("compare")
    assert (c.validation, storage) == (0.25, None)
    assert [bool(row.grid) for row in c.rows] == [True] + [False] * 5
    tried = compared.one("announce")[0][1]
    assert len(tried) == 5 * 6 + 4 * len(c.rows[0].grid["lr"])
    compared.clear()
    comparing.compare("photos", methods=["lora-qkv"], tune=True, trials=6, tune_storage="s", validation=0.5, out=Path("o"), **PLAIN)  # fmt: skip
    (c, _, _, storage), _ = compared.one("compare")
    assert (c.validation, c.trials, storage) == (0.5, 6, "s")
    assert [bool(row.ranges) for row in c.rows] == [True] + [False] * 5


def test_a_source_brings_joint_baselines(compared: Asked) -> None:
    compared.of("petiole.engine.task.reopened", workspace(source=object()))
    comparing.compare("photos", methods=["ridge"], source=Path("s"), out=Path("o"), **PLAIN)
    (c, *_), _ = compared.one("compare")
    assert [row.name for row in c.rows][-2:] == ["logistic-regression-joint", "ridge-joint"]
    assert c.baseline == "source-only"


def test_a_comparison_of_other_kinds(compared: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("petiole.data.targets.column_of", lambda _: "value")
    compared.of("petiole.commands.tasks.open_task", (Classification("b", Path("t")), Subset(None)))
    comparing.compare("t.csv", out=Path("o"), **PLAIN)
    (_, jobs, folder), running = compared.one("run_all")
    assert [job.method for job in jobs] == ["ridge"] * 3 + ["linear-probe"] * 3
    assert [job.options.split_seed for job in jobs] == [0] * 6
    assert (folder, running["resume"], running["quiet"]) == (Path("o"), False, True)
    for given in ({"split_seeds": 2}, {"split_seeds": 2, "seeds": 3}):
        with pytest.raises(
            ConfigError, match=r"For images with a number each every seed is also a draw"
        ):
            comparing.compare("t.csv", out=Path("o"), **given, **PLAIN)
    with pytest.raises(ConfigError, match=r"--tune is for labelled images"):
        comparing.compare("t.csv", methods=["lora-qkv"], tune=True, out=Path("o"), **PLAIN)
    compared.clear()
    compared.of("petiole.commands.tasks.open_task", (Classification("b", Path("t")), Subset(4)))
    comparing.compare("t.csv", shots=4, split_seeds=2, out=Path("o"), **PLAIN)
    (_, jobs, _), _ = compared.one("run_all")
    assert [(job.options.split_seed, job.seed) for job in jobs] == [(0, 0), (1, 1)] * 2


def test_each_run_of_a_comparison_can_be_repeated_alone(monkeypatch: pytest.MonkeyPatch, asked: Asked) -> None:  # fmt: skip
    asked.of("petiole.commands.config_file.write_config")
    record = SimpleNamespace(request=SimpleNamespace(settings={"rank": 3, "lr": 0.5}))
    monkeypatch.setattr("petiole.engine.record.read_record", lambda _: record)
    monkeypatch.setattr("petiole.methods.registry.create", lambda _: None)
    monkeypatch.setattr("petiole.methods.registry.settings_of", lambda _: {"rank": 3, "lr": 0.1})
    task = Classification("b", Path("p"))
    job = RunSpec(task, "lora-qkv", Path("r"), options=Subset(3, 2), seed=1)
    comparing._write_configs([job], {"data": "photos", "shots": 9})
    (given, _) = asked.one("write_config")
    assert given == (Path("r"), "fit", {
        "data": "photos", "shots": 3, "method": "lora-qkv", "seed": 1, "split_seed": 2, "calibration_folds": 0, "settings": {"lr": 0.5},
    })  # fmt: skip
    record.request.settings = {"rank": 3, "lr": 0.1}
    asked.clear()
    comparing._write_configs([job], {})
    assert "settings" not in asked.one("write_config")[0][2]


# --- the other protocols ------------------------------------------------------------------------


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


# --- fit, demo ----------------------------------------------------------------------------------


@pytest.fixture
def fitted(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> Asked:
    """``fit`` with everything below it exchanged."""
    task = Classification("b", Path("photos"), quiet=True)
    asked.of("petiole.commands.tasks.open_task", (task, Subset(7, 2)))
    opened = workspace()
    asked.of("petiole.engine.task.reopened", opened)
    asked.of("petiole.commands.announce.announce")
    asked.of("petiole.commands.announce.say")
    monkeypatch.setattr("petiole.engine.together.all_do", lambda work: work())
    monkeypatch.setattr("petiole.engine.together.main_does", lambda work: work())
    asked.of("petiole.engine.together.open_group")
    asked.of("petiole.engine.run.run", SimpleNamespace(model_dump=lambda mode: {"mode": mode}))
    asked.of("petiole.report.page.write_page", Path("page"))
    asked.of("petiole.protocols.selection.select", lambda spec, _: (spec, Selection(backbone="c")))
    return asked


def test_a_named_method_is_run_as_it_is_asked_for(fitted: Asked) -> None:
    done = fit("photos", method="lora-qkv", settings=["rank=2"], seed=3, out=Path("o"), resume=True, checkpoint_seconds=5.0,
               loggers=["jsonl"], calibration_folds=3, **PLAIN)  # fmt: skip
    (spec,), _ = fitted.one("run")
    assert (spec.method, spec.folder, spec.settings, spec.seed) == (
        "lora-qkv",
        Path("o"),
        {"rank": "2"},
        3,
    )
    assert (spec.resume, spec.checkpoint_seconds, spec.loggers) == (True, 5.0, ("jsonl",))
    assert spec.options == Subset(7, 2, vectors=True, calibration_folds=3)
    assert isinstance(done, FitResult)
    assert (done.folder, done.adapter, done.report, done.record, done.selection) == (
        Path("o"), Path("o/adapter"), Path("page"), {"mode": "json"}, None,
    )  # fmt: skip
    given, _ = fitted.one("announce")
    assert given[1] == [spec]
    assert given[2] == ["calibration fits lora-qkv up to 3 times more, each time without one of 3 parts of the target images"]  # fmt: skip
    assert fitted.names == ["open_group", "open_task", "reopened", "announce", "run", "write_page"]
    fitted.clear()
    fit("photos", method="ridge", out=Path("o"), **PLAIN)
    assert fitted.one("run")[0][0].options.calibration_folds is None


def test_what_is_left_open_is_announced_again_where_it_costs_something_else(fitted: Asked) -> None:
    def names(choose: Any, **given: Any) -> list[str]:
        fitted.clear()
        fitted.of("petiole.protocols.selection.select", choose)
        fit("photos", out=Path("o"), **{**PLAIN, **given})
        return [name for name in fitted.names if name in ("announce", "say", "select")]

    def same(spec: RunSpec, _: Any) -> Any:
        return spec, Selection()

    def other(spec: RunSpec, _: Any) -> Any:
        from dataclasses import replace

        return replace(spec, method="lora-qkv"), Selection()

    assert names(same) == ["announce", "select"]
    assert names(other) == ["announce", "select", "announce"]
    assert names(same, method="ridge", backbone=["b", "c"]) == ["select", "announce"]
    task = SimpleNamespace(quiet=False, kind="classification", data_digest=lambda: "d" * 9)
    fitted.of("petiole.commands.tasks.open_task", (task, Subset(7)))
    assert names(same, method="ridge", backbone=["b", "c"]) == ["say", "select", "announce"]
    said = fitted.one("say")[0][0]
    assert said == ["note     these backbones are compared first: b, c"]
    left = fitted.one("select")[0][1]
    assert (left.backbones, left.method) == (("b", "c"), False)
    assert fitted.one("open_task")[0][3].backbone is None, "it is not known yet"


def test_a_demo_is_a_comparison_a_fit_and_a_prediction(asked: Asked, tmp_path: Path) -> None:
    for digit in (3, 5, 8):
        for name in ("b.png", "a.png"):
            (tmp_path / f"runs/demo/images/real_eval/{digit}").mkdir(parents=True, exist_ok=True)
            (tmp_path / f"runs/demo/images/real_eval/{digit}/{name}").write_text("")
    from petiole.commands.compare import Compared
    from petiole.commands.predict import PredictResult

    asked.of("petiole.data.synthetic.digits.write_digits")
    asked.of(
        "petiole.commands.demo.compare", Compared(folder=Path("c"), report=Path("p"), summary=1)
    )
    asked.of("petiole.commands.demo.fit", FitResult(folder=Path("f"), adapter=Path("a"), report=Path("r"), record={}))  # fmt: skip
    asked.of(
        "petiole.commands.demo.predict", PredictResult(adapter=Path("a"), model="m", predictions=[])
    )
    model = ModelOptions(backbone="b")
    demo(split_seeds=2, steps=3, per_class=4, resume=True, processes=5, model=model)
    images = Path("runs/demo/images")
    assert asked.one("write_digits") == ((images,), {"per_class": 4})
    assert asked.one("compare") == ((images,), {
        "table": "cls-residual-lora/table1", "settings": {"steps": 3, "views": 0}, "split_seeds": 2, "out": Path("runs/demo"),
        "resume": True, "processes": 5, "model": model,
    })  # fmt: skip
    assert asked.one("fit") == ((images,), {"out": Path("runs/demo/fit"), "resume": True, "model": model})  # fmt: skip
    assert asked.one("predict")[0] == (
        Path("a"),
        [images / f"real_eval/{d}/a.png" for d in (3, 5, 8)],
    )


# --- adapters -----------------------------------------------------------------------------------


def test_checkpoints_pairs_and_folds_are_written_to_new_folders(
    asked: Asked, tmp_path: Path
) -> None:
    adapter = SimpleNamespace(manifest=SimpleNamespace(method="coop"), classes=["a", "b"], save=lambda out: asked.append(("save", (out,), {})))  # fmt: skip
    asked.of("petiole.backbones.registry.load_backbone", "network")
    asked.of("petiole.data.sources.open_shift", SimpleNamespace(half=lambda part: SimpleNamespace(classes=(part,))))  # fmt: skip
    asked.of("petiole.tasks.classification.dassl.import_dassl", adapter)
    terms = {"backbone": "b", "out": tmp_path / "o", "weights": Path("w"), "image_size": 32}
    done = import_dassl(Path("f"), classes=["a", "b"], settings=["position=middle"], **terms)
    assert asked.one("import_dassl") == ((Path("f"), "network", ["a", "b"], {"position": "middle"}), {"weights": Path("w"), "image_size": 32})  # fmt: skip
    assert asked.one("save")[0] == (tmp_path / "o",)
    assert (done.method, done.classes) == ("coop", 2)
    asked.clear()
    import_dassl(Path("f"), images=Path("i"), part="base", **terms)
    assert asked.one("import_dassl")[0][2] == ("base",)
    for given in ({}, {"classes": ["a"], "images": Path("i")}):
        with pytest.raises(ConfigError, match=r"Give either --classes NAME"):
            import_dassl(Path("f"), **given, **terms)
    (tmp_path / "o").mkdir()
    with pytest.raises(ConfigError, match=r"o exists already. Move it away"):
        import_dassl(Path("f"), classes=["a"], **terms)
    with pytest.raises(ConfigError, match=r"o exists already. Move it away"):
        fold(Path("a"), out=tmp_path / "o")
    with pytest.raises(ConfigError, match=r"o exists already. Move it away"):
        pair(tmp_path / "o", text=Path("t"))


def test_a_pair_learns_rows_of_a_classifier_or_captions(asked: Asked) -> None:
    asked.of("petiole.backbones.registry.load_backbone", "network")
    asked.of("petiole.backbones.vision.classifier.imagenet_names", ["cat", "dog"])
    asked.of("petiole.backbones.vision.classifier.imagenet_rows", "rows")
    asked.of("petiole.engine.pairing.seen", (["one"], "vectors"))
    asked.of("petiole.engine.pairing.make", (SimpleNamespace(width=7), "tensors"))
    asked.of("petiole.engine.pairing.save")
    terms = {
        "text": Path("t"),
        "image": "i",
        "weights": Path("w"),
        "image_size": 32,
        "penalty": 2.0,
        "scale": 3.0,
    }
    done = pair(Path("o"), template="this is {}", image_projection=True, **terms)
    assert asked.one("make") == (("network", Path("t"), ["this is cat", "this is dog"], "rows"), {"penalty": 2.0, "scale": 3.0, "image_projection": True})  # fmt: skip
    assert asked.one("save") == ((Path("o"), "tensors", Path("t")), {"image": "i", "image_weights": Path("w"), "image_size": 32})  # fmt: skip
    assert (done.texts, done.width, done.folder) == (2, 7, Path("o"))
    asked.clear()
    assert pair(Path("o"), captions=Path("c"), quiet=True, **terms).texts == 1
    assert asked.one("seen") == (("network", Path("c")), {"quiet": True})


def test_what_cannot_be_folded_or_merged_says_why(asked: Asked) -> None:
    for kind, folded, merged in (
        ("codebook", "there is nothing to fold", "there is nothing to merge it into"),
        ("text", "--weights is for image backbones", "whose layers petiole fold makes static"),
    ):
        asked.of("petiole.engine.adapter.kind_of", kind)
        with pytest.raises(ConfigError, match=folded):
            fold(Path("a"), out=Path("o"), weights=Path("w"))
        with pytest.raises(AdapterError, match=merged):
            merge(Path("a"), out=Path("o"))


def test_a_folded_adapter_counts_its_numbers(asked: Asked) -> None:
    ledger = SimpleNamespace(inference=5, fixed=7)
    folded = SimpleNamespace(save=lambda _: None, classes=["a", "b"], manifest=SimpleNamespace(ledger=ledger, tasks=[SimpleNamespace(name="vqa")]))  # fmt: skip
    asked.of("petiole.engine.adapter.kind_of", "classification")
    asked.of("petiole.tasks.classification.adapter.ClassificationAdapter.load", "opened")
    asked.of("petiole.tasks.classification.fold.fold", folded)
    done = fold(Path("a"), out=Path("o"), weights=Path("w"))
    assert (done.classes, done.values) == (2, 12)
    assert asked.one("load") == ((Path("a"),), {"weights": Path("w")})
    state = {"x": torch.zeros(3, 2), "y": torch.zeros(5)}
    folded.adapted = SimpleNamespace(state_dict=lambda: {"x": torch.zeros(4)})
    opened = SimpleNamespace(fold=lambda: folded, adapted=SimpleNamespace(state_dict=lambda: state))
    asked.of("petiole.engine.adapter.kind_of", "text")
    asked.of("petiole.tasks.text.adapter.TextAdapter.load", opened)
    done = fold(Path("a"), out=Path("o"))
    assert (done.tasks, done.values, done.before) == (["vqa"], 4, 11)


def test_a_run_around_an_adapter_is_pushed_with_it(asked: Asked, tmp_path: Path) -> None:
    asked.of("petiole.engine.adapter.find", tmp_path / "run/adapter")
    asked.of("petiole.engine.hub.push", "url")
    (tmp_path / "run").mkdir()
    done = push_to_hub(tmp_path / "run/adapter", "me/x", private=True)
    assert asked.one("push") == ((tmp_path / "run/adapter", None, "me/x"), {"private": True})
    assert (done.name.endswith("me/x"), done.url) == (True, "url")
    (tmp_path / "run/record.json").write_text("")
    for given in ("run", "run/adapter"):
        asked.clear()
        push_to_hub(tmp_path / given, "me/x")
        assert asked.one("push") == ((tmp_path / "run/adapter", tmp_path / "run", "me/x"), {"private": False})  # fmt: skip


# --- eval, predict, diff ------------------------------------------------------------------------


def kind_is(asked: Asked, kind: str) -> None:
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.adapter.read_manifest", SimpleNamespace(kind=kind))


def test_options_of_another_kind_of_adapter_are_refused(asked: Asked) -> None:
    for kind, given, said in (
        ("text", {"weights": Path("w")}, "--weights is for image backbones, and a has none"),
        ("classification", {"keep": 0.5}, "are for models over a codebook, and a is of the kind classification"),
        ("codebook", {"adapt": "mta"}, "--adapt is for classifiers of images, and a is of the kind codebook"),
        ("text", {"attack": "fgsm"}, "--attack and --corrupt are for classifiers"),
        ("text", {"corrupt": ["fog"]}, "--attack and --corrupt are for classifiers"),
    ):  # fmt: skip
        kind_is(asked, kind)
        with pytest.raises(ConfigError, match=said):
            evaluating.evaluate(Path("a"), "d", device="cpu", **given)


class Images(list[int]):
    """Five images."""

    labels, notes, name = np.array([0, 1, 1, 0, 1]), ("n",), "named"
    ids = paths = tuple("abcde")
    classes, domains = ("x", "y"), ("s", "t", "t", "t", "t")
    samples = (0, 1, 2, 3, 4)

    def digest(self) -> str:
        return "dig"


def test_an_adapter_of_photos_is_scored_clean_adapted_corrupted_and_attacked(asked: Asked) -> None:
    kind_is(asked, "classification")
    logits = torch.tensor([[2.0, 1], [0, 1], [3, 1], [1, 0], [0, 5]])
    opened = SimpleNamespace(classes=["x", "y"], calibration="cal", adapted=SimpleNamespace(backbone="net", cut=("c",)))  # fmt: skip
    asked.of("petiole.tasks.classification.adapter.ClassificationAdapter.load", opened)
    asked.of("petiole.data.inputs.as_dataset", Images(range(5)))
    asked.of("petiole.engine.record.count_test_evaluation", 4)
    table = SimpleNamespace(batches=lambda n: ("batches", n))
    asked.of("petiole.engine.feature_extractor.Features", SimpleNamespace(table=lambda *_: table))
    asked.of("petiole.tasks.classification.model.predict", SimpleNamespace(logits=logits))
    asked.of("petiole.tasks.classification.calibration.scores_of", lambda _, y, cal: {"accuracy": 0.6, "n": float(len(y)), "calibrated": float(cal == "cal")})  # fmt: skip
    asked.of(
        "petiole.tasks.classification.test_time.adapted_outputs", SimpleNamespace(logits=logits)
    )
    asked.of(
        "petiole.tasks.classification.robustness.under_corruptions", {"fog 3": {"accuracy": 0.5}}
    )
    asked.of("petiole.tasks.classification.robustness.under_attack", {"accuracy": 0.1})
    done = evaluating.evaluate(Path("a"), ["d"], device="cpu", weights=Path("w"), skip_bad=True, attack="fgsm", corrupt=["fog"], adapt="mta")  # fmt: skip
    assert done.confusion == [[2, 0], [1, 2]]
    assert list(done.scores) == ["test", "mta", "fog 3", "fgsm, 1/255"]
    assert done.scores["test"]["calibrated"] == 1
    assert done.scores["mta"]["calibrated"] == 0
    assert (done.samples, done.test_evaluations, done.notes, done.data, done.classes) == (5, 4, ["n"], "d", ["x", "y"])  # fmt: skip
    assert asked.one("as_dataset") == (
        ("d",),
        {"classes": ["x", "y"], "skip_bad": True, "common": True},
    )
    assert asked.one("count_test_evaluation")[0] == (Path("a"), "dig", 5, "petiole eval")
    assert asked.one("predict")[0] == (opened.adapted, ("batches", 5))
    assert asked.one("under_corruptions")[0][2:] == (("fog",), (3,))
    assert asked.one("under_attack")[0][3] == 1 / 255
    plain = evaluating.evaluate(Path("a"), Images(range(5)), device="cpu")
    assert (plain.data, list(plain.scores)) == ("named", ["test", "fog 3"])


def test_questions_are_scored_by_every_language_model(asked: Asked) -> None:
    kind_is(asked, "codebook")
    data = type("Data", (), {"notes": ("n",), "digest": lambda _: "dig", "__getitem__": lambda _, k: {"test": "abc"}[k]})()  # fmt: skip
    asked.of("petiole.data.readers.registry.open_questions", data)
    asked.of("petiole.tasks.codebook.adapter.CodebookAdapter.load", lambda adapter, backbone, device: SimpleNamespace(adapted=SimpleNamespace(model=SimpleNamespace(name=backbone or "own"))))  # noqa: ARG005  # fmt: skip
    asked.of("petiole.engine.record.count_test_evaluation", 2)
    asked.of("petiole.tasks.codebook.training.evaluate", ({"em": 50.0}, 0.25))
    done = evaluating.evaluate(
        Path("a"), "q", device="cpu", language_models=["l", "m"], route=True, keep=0.5
    )
    assert done.scores == {"l": {"em": 50.0}, "m": {"em": 50.0}}
    assert (done.notes, done.samples, done.test_evaluations) == (["n", "25 % of the images went through the tuned encoder"], 3, 2)  # fmt: skip
    assert asked.one("open_questions")[1] == {"skip_bad": False, "task": "question"}
    plain = evaluating.evaluate(Path("a"), "q", device="cpu")
    assert (list(plain.scores), plain.notes) == (["own"], ["n"])


def test_texts_are_scored_as_the_adapter_s_task(asked: Asked) -> None:
    kind_is(asked, "text")
    known = SimpleNamespace(
        manifest=SimpleNamespace(tasks=[SimpleNamespace(kind="vqa", name="mine")])
    )
    asked.of("petiole.tasks.text.adapter.TextAdapter.load", known)
    asked.of("petiole.data.readers.registry.open_questions", SimpleNamespace(task="nlvr"))
    with pytest.raises(ConfigError, match=r"nlvr"):
        evaluating.evaluate(Path("a"), "q", device="cpu")


def test_what_serves_itself_predicts_with_masks_only_where_it_has_some(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(predicting, "served_as", lambda *_: "served")
    kind_is(asked, "counting")
    manifest = SimpleNamespace(backbone=SimpleNamespace(name="net"))
    plain = SimpleNamespace(kind="counting", manifest=manifest, predict_rows=lambda data: [{"path": str(data), "label": "3", "value": 3.0}])  # fmt: skip
    asked.of("petiole.engine.adapter.Adapter.load", plain)
    done = predicting.predict(Path("a"), ["x.png"], device="cpu", csv=Path("o.csv"))
    assert (done.model, done.predictions[0].value, done.predictions[0].path) == (
        "net",
        3.0,
        "x.png",
    )
    assert Path("o.csv").read_text() == "path,label,probability,question,value\nx.png,3,,,3.0\n"
    for given, said in (
        ({"question": "?"}, "^--question means nothing to an adapter of the kind counting"),
        ({"task": "t"}, "^--task means nothing"),
        ({"keep": 0.5}, "^--keep means nothing"),
        ({"coverage": 0.9}, "^--coverage means nothing"),
        ({"masks": Path("m")}, "^--masks means nothing"),
    ):
        with pytest.raises(ConfigError, match=said):
            predicting.predict(Path("a"), ["x.png"], device="cpu", **given)
    drawn = SimpleNamespace(kind="counting", manifest=manifest, predict_rows=lambda data, masks: [{"path": str(data), "label": "", "mask": str(masks)}])  # fmt: skip
    asked.of("petiole.engine.adapter.Adapter.load", drawn)
    done = predicting.predict(Path("a"), "x.png", device="cpu", masks=Path("m"))
    assert done.predictions[0].mask == "m"
    monkeypatch.setattr(predicting, "served_as", lambda *_: "classification")
    with pytest.raises(
        ConfigError, match=r"--masks means nothing to an adapter of the kind classific"
    ):
        predicting.predict(Path("a"), "x.png", device="cpu", masks=Path("m"))


def test_predictions_on_common_classes_are_shares_again(asked: Asked) -> None:
    p = torch.tensor(
        [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    )
    one: Any = SimpleNamespace(adapted="adapted", probabilities=lambda _: p, classes=["x", "w", "y"], manifest=SimpleNamespace(method="m"))  # fmt: skip
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.record.count_test_evaluation", 1)
    asked.of("petiole.tasks.classification.adapter.logits_of", "logits")
    asked.of("petiole.tasks.classification.spectrum.changes", [])
    seen = diffing._seen(Path("a"), "A", one, Images(range(5)), ["x", "y"])  # type: ignore[arg-type]
    both = p[:, [0, 2]]
    assert torch.allclose(seen.stored.probabilities, both / both.sum(1, keepdim=True))
    assert seen.stored.labels.tolist() == [0, 1, 1, 0, 1]
    assert (seen.title, seen.method, seen.known, seen.stored.ids) == (
        "A",
        "m",
        ["x", "y"],
        list("abcde"),
    )
    assert asked.one("count_test_evaluation")[0] == (Path("a"), "dig", 5, "petiole diff")
    same = diffing._seen(Path("a"), "A", one, Images(range(5)), ["x", "w", "y"])  # type: ignore[arg-type]
    assert torch.equal(same.stored.probabilities, p)


# --- inspect ------------------------------------------------------------------------------------


def test_facts_of_a_run_an_adapter_and_a_model(asked: Asked, tmp_path: Path) -> None:
    card = SimpleNamespace(name="net", quantize="int8", fingerprint="f", preprocessing="p", vision_backbone=None, vision_width=0)  # fmt: skip
    ledger = SimpleNamespace(inference=1234, trainable=5678)
    manifest = SimpleNamespace(method="m", classes=["a"], backbone=card, ledger=ledger, settings={"s": 1}, details={}, tasks=[SimpleNamespace(name="vqa")])  # fmt: skip
    data = SimpleNamespace(samples={"train": 3}, shots=4, split_seed=5, scored="test")
    request = SimpleNamespace(
        method="m", backbone=card, data=data, seed=6, settings={"cache": "none"}
    )
    record = SimpleNamespace(request=request, selection="last", test_evaluations=2, main={"accuracy": 0.81239, "n": 7.0},
                             created="now", scores={"vqa": {"acc": 41.239}})  # fmt: skip
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.adapter.read_manifest", manifest)
    asked.of("petiole.engine.record.read_record", record)
    asked.of("petiole.engine.record.changed_files", [])
    asked.of("petiole.engine.adapter.kind_of", "classification")
    found = inspecting._folder(tmp_path, None)
    assert found.what == f"adapter {tmp_path}"
    assert found.facts == {
        "method": "m", "classes": ["a"], "backbone": "net", "quantize": "int8", "fingerprint": "f", "preprocessing": "p",
        "parameters kept": "1,234", "settings": {"s": 1},
    }  # fmt: skip
    (tmp_path / "record.json").write_text("")
    found = inspecting._folder(tmp_path, None)
    assert found.what == f"run {tmp_path}"
    assert found.facts == {
        "method": "m", "backbone": "net", "quantize": "int8", "images": {"train": 3}, "shots": 4, "split seed": 5, "seed": 6,
        "selection": "last", "test set opened": "2x", "accuracy": "0.8124", "n": "7", "created": "now", "files": "as they were written",
    }  # fmt: skip
    asked.of("petiole.engine.record.changed_files", ["a", "b"])
    assert inspecting._folder(tmp_path, None).facts["files"] == "changed or missing: a, b"
    asked.of("petiole.engine.adapter.kind_of", "text")
    details = SimpleNamespace(folded=True, answers=list(range(3129)))
    asked.of("petiole.tasks.text.adapter.TextDetails.model_validate", details)
    found = inspecting._folder(tmp_path, None)
    assert found.what == f"run {tmp_path}"
    assert found.facts == {
        "method": "m", "folded": "yes", "tasks": ["vqa"], "language model": "net", "fingerprint": "f", "images seen by": "none",
        "answers": "3,129, chosen", "parameters trained": "5,678", "settings": {"s": 1}, "seed": 6, "scored": "test",
        "vqa acc": "41.24 %", "created": "now", "files": "changed or missing: a, b",
    }  # fmt: skip
    (tmp_path / "record.json").unlink()
    card.vision_width, details.answers, details.folded = 9, [], False
    found = inspecting._folder(tmp_path, None)
    assert (found.what, found.facts["images seen by"], found.facts["answers"], found.facts["folded"]) == (f"adapter {tmp_path}", "given features", "written", "no")  # fmt: skip
    card.vision_backbone = SimpleNamespace(name="clip")
    assert inspecting._folder(tmp_path, None).facts["images seen by"] == "clip"


def test_facts_of_a_tuned_encoder(asked: Asked, tmp_path: Path) -> None:
    spec = SimpleNamespace(
        depth=2, entries=16, width=8, sha256="0123456789abcdef", grid=(3, 5), tap=1
    )
    manifest = SimpleNamespace(method="craft", backbone=SimpleNamespace(name="lm"), ledger=SimpleNamespace(trainable=7), settings={}, details={})  # fmt: skip
    details = SimpleNamespace(codebook=spec, language="")
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.adapter.read_manifest", manifest)
    asked.of("petiole.tasks.codebook.adapter.CodebookDetails.model_validate", details)
    asked.of(
        "petiole.engine.record.read_record",
        SimpleNamespace(scores={"l": {"exact_match": 62.549}, "m": {"f1": 1.0}}),
    )
    asked.of("petiole.engine.record.changed_files", [])
    found = inspecting._encoder(tmp_path)
    assert found.facts == {
        "method": "craft", "trained before": "lm", "language models": "every one over this codebook",
        "codebook": "2 x 16 entries of width 8, 0123456789ab", "image tokens": "3 x 5, after block 1", "trained parameters": 7,
        "settings": {},
    }  # fmt: skip
    (tmp_path / "record.json").write_text("")
    details.language = "x"
    found = inspecting._encoder(tmp_path)
    assert found.facts["exact match, l"] == "62.55"
    assert "exact match, m" not in found.facts
    assert (found.facts["language models"], found.facts["files"]) == (
        "lm only",
        "as they were written",
    )


def test_how_a_cache_of_a_refiner_is_read(asked: Asked, tmp_path: Path) -> None:
    assert inspecting._cache(tmp_path, {"entries": 3}, None) == {}
    assert inspecting._cache(tmp_path, {"cache": "none", "entries": 3}, None) == {}
    assert inspecting._cache(tmp_path, {"cache": "mean"}, None) == {}
    asked.of("petiole.tasks.classification.adapter.ClassificationAdapter.load", "adapter")
    found = SimpleNamespace(
        entries=3,
        effective_rank=2.25,
        cosine=0.12345,
        read_entropy=None,
        changed=None,
        usage=[],
        nearest=[],
    )
    asked.of("petiole.tasks.classification.refiner_cache.describe", found)
    settings = {"cache": "mean", "entries": 3}
    facts = inspecting._cache(tmp_path, settings, None)
    assert facts == {"entries": 3, "effective rank": "2.2", "mean cosine of entries": "0.123", "entropy of reads": "differs by image: give --images"}  # fmt: skip
    found.read_entropy, found.changed = 0.98765, (3, 7)
    facts = inspecting._cache(tmp_path, settings, None)
    assert facts["entropy of reads"] == "0.9877 of 1 (all classes read alike)"
    assert facts["with the mean read"] == "3 of 7 answers change"
    assert facts["patches"].startswith("not compared")
    found.usage, found.nearest = (
        [0.25],
        [[(Path("x/y/z.png"), 3, 4, 0.987), (Path("a/b.png"), 0, 1, 0.5)]],
    )
    facts = inspecting._cache(tmp_path, settings, None)
    assert facts["entry 0"] == "25.0 % of tokens; y/z.png (3, 4) 0.99; a/b.png (0, 1) 0.50"
    assert "patches" not in facts

"""What ``fit``, ``demo`` and ``synthesize`` hand to the rooms below them: they are exchanged for a list of what they were asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.asked import PLAIN, Asked, workspace
from petiole.commands.demo import demo
from petiole.commands.fit import FitResult, fit
from petiole.commands.options import ModelOptions
from petiole.commands.synthesize import synthesize
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError
from petiole.protocols.selection import Selection
from petiole.tasks.classification.workspace import Classification, Subset


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

    fitted.of("petiole.backbones.registry.load_backbone", None)
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


def test_a_slip_in_a_setting_is_told_before_any_data_is_read(fitted: Asked) -> None:
    with pytest.raises(ConfigError, match=r"rnak"):
        fit("photos", method="lora-qkv", settings=["rnak=3"], out=Path("o"), **PLAIN)
    assert "open_task" not in fitted.names

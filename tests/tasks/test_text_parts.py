"""Texts and questions over a codebook: tasks, announcements, what is refused, how pictures were shown."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from petiole.engine.run import RunSpec
from petiole.engine.trainer import Callbacks
from petiole.errors import AdapterError, ConfigError
from petiole.methods.registry import create
from petiole.tasks.codebook.task import CodebookRun
from petiole.tasks.codebook.workspace import CodebookQuestions, CodebookWorkspace
from petiole.tasks.text import adapter as text_adapter
from petiole.tasks.text import registry as text_registry
from petiole.tasks.text import scoring
from petiole.tasks.text.adapter import TextAdapter
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace


def test_tasks_on_videos_have_long_texts() -> None:
    choice, caption = text_registry._video_choice("v"), text_registry._video_caption("v")
    assert (choice.suffix, choice.max_text, choice.max_target) == ("v: ", 600, 20)
    assert (caption.suffix, caption.max_text, caption.max_target) == ("v: ", 600, 20)
    assert (choice.scorer, caption.scorer) == (scoring.video_choice_scores, scoring.caption_scores)
    assert (choice.headline, caption.headline, caption.beams) == ("accuracy", "cider", 5)


@dataclass
class Timed:
    """A run that takes two seconds a step."""

    spec: RunSpec
    asked: ClassVar[list[Any]] = []

    @property
    def method(self) -> Any:
        return create(self.spec.method, self.spec.settings)

    image_folder = "folder"

    def build(self) -> str:
        return "adapted"

    def train(self, adapted: str, callbacks: Callbacks) -> float:
        assert (adapted, callbacks.quiet) == ("adapted", True)
        steps = self.spec.settings["steps"]
        self.asked.append((self.spec.method, steps))
        return 2.0 * steps


TRAIN = {"train": (1,) * 80, "test": (2,) * 3}


def test_texts_are_announced_and_each_method_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    Timed.asked.clear()
    task = TextGeneration("m", ())
    data: Any = [SimpleNamespace(name=f"t{i}", parts=TRAIN, notes=("n",) * i) for i in range(2)]
    workspace = TextWorkspace(task, SimpleNamespace(name="bart"), tuple(data))  # type: ignore[arg-type]
    monkeypatch.setattr(TextWorkspace, "prepare", lambda _, spec: Timed(spec))
    first = RunSpec(task, "vl-adapter", Path("a"), {"epochs": 2.0, "batch_size": 16})
    other = RunSpec(task, "vl-lora", Path("b"), {"steps": 90, "batch_size": 0})
    said = workspace.describe([first, replace(first, seed=1), other])
    # 20 steps twice, two passes of 160 samples by 16, and 90 steps: 2 s each.
    assert said == [
        "task     t0: 80 train, 3 test", "task     t1: 80 train, 3 test", "note     t1: n",
        "training 3 x bart, 2 passes of 16 samples, fp32 on cpu",
        "time     about 4 minutes of training, by three steps timed here; scoring not counted",
    ]  # fmt: skip
    assert Timed.asked == [(m, n) for m in ("vl-adapter", "vl-lora") for n in (1, 3)]
    assert (
        workspace.describe([other])[3] == "training 1 x bart, 90 steps of 32 samples, fp32 on cpu"
    )
    monkeypatch.setattr("petiole.engine.timing.step_seconds", lambda _: 0.0)
    assert len(workspace.describe([other])) == 4


def test_questions_over_a_codebook_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = SimpleNamespace(name="m", sharded=None)
    others: Any = (SimpleNamespace(name="o", sharded=None),)
    data: Any = SimpleNamespace(root="boards", parts=TRAIN, notes=("read",))
    task = CodebookQuestions("boards", "m")  # type: ignore[arg-type]
    workspace = CodebookWorkspace(task, model, data, others)
    monkeypatch.setattr("petiole.tasks.codebook.workspace.word_notes", lambda *_: ("said",))
    monkeypatch.setattr("petiole.tasks.codebook.workspace.held", lambda one: f"{one.name} whole" if one.name == "o" else "")  # fmt: skip
    monkeypatch.setattr("petiole.tasks.codebook.task.CodebookRun", lambda _, spec: Timed(spec))
    asked: list[Any] = []

    def train(*given: Any, **how: Any) -> float:
        asked.append((given[2:], how["seed"], how["callbacks"].quiet))
        return 3.0 * given[1].recipe.steps

    monkeypatch.setattr("petiole.tasks.codebook.training.train", train)
    first = RunSpec(task, "craft", Path("a"), {"epochs": 2.0, "batch_size": 16}, seed=5)
    said = workspace.describe([first, RunSpec(task, "craft", Path("b"), {"steps": 9})])
    assert said == [
        "data     boards: 80 train, 3 test", "note     read", "note     said",
        "training craft before m, 2 passes of 16 questions", "scoring  m, o", "sharding o whole",
        "time     about a minute of training, by three steps timed here; scoring not counted",
    ]  # fmt: skip
    assert asked == [(("folder", TRAIN["train"]), 5, True)] * 2
    steps = replace(first, settings={"steps": 500, "batch_size": 0})
    assert workspace.describe([steps])[3] == "training craft before m, 500 steps of 0 questions"
    monkeypatch.setattr("petiole.engine.timing.step_seconds", lambda _: 0.0)
    assert len(workspace.describe([steps])) == 6


@pytest.mark.parametrize(
    ("model", "other", "said"),
    [
        ({}, {"discrete": False}, "m and o do not both see codes"),
        ({"sharded": True}, None, "trains inside m, and --fsdp is for"),
        ({}, {}, "changes m alone, so no other language model gains"),
    ],
)
def test_language_models_that_gain_nothing_are_refused(
    model: dict[str, Any], other: dict[str, Any] | None, said: str
) -> None:
    spec = SimpleNamespace(check=lambda *_: None)
    own = SimpleNamespace(**{"name": "m", "spec": spec, "discrete": True, "sharded": None, **model})
    others = [] if other is None else [SimpleNamespace(**{"name": "o", "spec": spec, "discrete": True, **other})]  # fmt: skip
    run: Any = SimpleNamespace(
        workspace=SimpleNamespace(model=own, others=others), spec=SimpleNamespace(method="llm-lora"),
        method=SimpleNamespace(adapts_language=True),
    )  # fmt: skip
    with pytest.raises(ConfigError, match=said):
        CodebookRun._check_others(run)
    run.method.adapts_language = False
    if other != {"discrete": False}:
        CodebookRun._check_others(run)


def test_how_pictures_were_shown_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    stated = SimpleNamespace(name="vit", fingerprint="f" * 64)
    card = SimpleNamespace(vision_width=4, vision_backbone=stated, visual_tokens=9)
    adapted = SimpleNamespace(vision_tower=None, model=SimpleNamespace(device="cpu"))
    adapter: Any = SimpleNamespace(
        manifest=SimpleNamespace(backbone=card, method="m"), adapted=adapted
    )
    made = SimpleNamespace(name="vit", fingerprint="f" * 64)
    monkeypatch.setattr(text_adapter, "load_backbone", lambda name, device: (seen.append((name, device)), made)[1])  # fmt: skip
    monkeypatch.setattr(text_adapter, "BackboneVisuals", lambda *of: ("frozen", *of))
    monkeypatch.setattr(text_adapter, "PixelSource", lambda *of: ("trained", *of))
    root = Path("pictures")
    assert TextAdapter.visuals(adapter, root) == ("frozen", root, made, None, 9)
    assert seen == [("vit", "cpu")]
    made.fingerprint = "e" * 64
    with pytest.raises(
        AdapterError, match=r"saw through vit with fingerprint f{12}, but vit has e{12}"
    ):
        TextAdapter.visuals(adapter, root)
    adapted.vision_tower = SimpleNamespace(backbone="tower")
    assert TextAdapter.visuals(adapter, root) == ("trained", root, "tower", 9)
    card.vision_backbone = None
    with pytest.raises(AdapterError, match="was trained on given features"):
        TextAdapter.visuals(adapter, root)
    card.vision_width = 0
    with pytest.raises(AdapterError, match="was trained on text alone"):
        TextAdapter.visuals(adapter, root)

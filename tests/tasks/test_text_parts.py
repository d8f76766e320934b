"""Texts and questions over a codebook: tasks, announcements, what is refused, how pictures were shown."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.encoder_decoder import Inputs
from petiole.backbones.encoder_decoder.tokens import IGNORED
from petiole.engine.feature_job import FeatureReport
from petiole.engine.run import RunSpec
from petiole.engine.trainer import Callbacks
from petiole.errors import AdapterError, ConfigError
from petiole.layers.tasks import PerTask
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks.codebook import training as codebook_training
from petiole.tasks.codebook.task import CodebookRun
from petiole.tasks.codebook.workspace import CodebookQuestions, CodebookWorkspace
from petiole.tasks.text import adapter as text_adapter
from petiole.tasks.text import collator, scoring, visual_backbone
from petiole.tasks.text import fold as text_fold
from petiole.tasks.text import registry as text_registry
from petiole.tasks.text import training as text_training
from petiole.tasks.text import workspace as text_workspace
from petiole.tasks.text.adapter import TextAdapter
from petiole.tasks.text.model import GenerationBatch, GenerationLoss
from petiole.tasks.text.visual_base import VisualFeatures
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
    assert workspace.describe([steps])[3] == "training craft before m, 500 steps of 64 questions"
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


@pytest.mark.parametrize(("change", "refused"), [(2**-14, False), (1.1 * 2**-14, True)])
def test_folding_may_change_scores_by_rounding_alone(change: float, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Scores of 3, relative to 1 + 3."""
    monkeypatch.setattr(text_fold, "TOLERANCE", 2**-14)
    asked: list[Any] = []

    class Said(nn.Module):
        def __init__(self, value: float) -> None:
            super().__init__()
            self.value = value
            self.model = SimpleNamespace(
                device="cpu", config=SimpleNamespace(vocab_size=9),
                module=SimpleNamespace(visual=SimpleNamespace(width=5, options=SimpleNamespace(boxes="none"))),
            )  # fmt: skip
            self.vision_tower = None

        def forward(self, *given: Any) -> Tensor:
            asked.append(given)
            return torch.full((2, 3), self.value)

    adapted, folded = Said(3.0), Said(3.0 + 4 * change)
    folded.tasks = PerTask([nn.Identity() for _ in range(3)])
    with pytest.raises(AdapterError, match="Static weights would give scores that differ") if refused else nullcontext():  # fmt: skip
        text_fold._check(adapted, folded)  # type: ignore[arg-type]
    assert len(asked) == 2
    for inputs, labels, tasks in asked:
        assert tasks == range(3)
        assert (inputs.ids.shape, labels.shape, inputs.visual.shape) == ((3, 8), (3, 8), (3, 4, 5))
        assert inputs.mask.all()


def test_losses_of_a_method_are_added_with_their_weights() -> None:
    logits = torch.tensor([[[2.0, 0.0, 1.0]] * 2] * 3)
    labels = torch.tensor([[0, IGNORED], [1, 2], [0, 0]])
    batch: Any = SimpleNamespace(inputs=None, labels=labels, tasks=(0, 0, 0), weights=torch.tensor([0.5, 0.25, 1.0]))  # fmt: skip

    class Loss(nn.Module):
        def __init__(self, weight: float) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, inputs: Any) -> Tensor:
            assert (inputs.batch, inputs.model) == (batch, "model")
            return 10 * inputs.logits[0, 0, 0]

    adapted: Any = nn.Module()
    adapted.forward = lambda *_: logits
    adapted.model, adapted.plan = "model", SimpleNamespace(losses=())
    plain = float(GenerationLoss(adapted)(batch))
    p = torch.tensor([2.0, 0.0, 1.0]).softmax(0).log()
    assert plain == pytest.approx(float(-(0.5 * p[0] + 0.25 * (p[1] + p[2]) + 2 * p[0])))
    adapted.plan.losses = (Loss(0.5), Loss(2.0))
    assert float(GenerationLoss(adapted)(batch)) == pytest.approx(plain + 50.0)


@pytest.mark.parametrize("skip", [False, True])
def test_an_extractor_tells_which_images_files_hold(skip: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    """A file may hold many images; a video is a folder of them."""
    (tmp_path / "clip").mkdir()
    asked: list[Any] = []
    ids = {tmp_path / "all.parquet/1": "one", tmp_path / "all.parquet/2": "two", tmp_path / "z.png": "one"}  # fmt: skip
    found = [
        FeatureReport(ids, {tmp_path / "torn.png": "it is torn"} if skip else {}, 2),
        FeatureReport({tmp_path / "clip/f1.png": "three"}, {}, 1),
    ]
    made: Any = object.__new__(visual_backbone.BackboneVisuals)
    made.images_root, made._ids = tmp_path, {}
    made._picture, made._frame = SimpleNamespace(key="pictures"), SimpleNamespace(key="frames")
    made._files = lambda name: [tmp_path / name / "f1.png"] if name == "clip" else [tmp_path / name]
    made._check_video = lambda *_, **__: None
    made._megabytes = lambda kind, count: {"pictures": 10.0, "frames": 1.0}[kind.key] * count
    made._digest_of = lambda files: sorted(files)
    monkeypatch.setattr(visual_backbone, "left_out", lambda bad, count, skip_bad: [f"{len(bad)} of {count}"] * (skip_bad and bool(bad)))  # fmt: skip

    def extract(paths: Any, key: str) -> Any:
        asked.append((paths, key))
        return found[len(asked) - 1]

    told = made.prepare(["z.png", "all.parquet", "clip"], skip_bad=skip, extractor=extract)
    assert asked == [
        ([tmp_path / "all.parquet", tmp_path / "z.png"], "pictures"),
        ([tmp_path / "clip/f1.png"], "frames"),
    ]
    assert made._ids == {**ids, tmp_path / "clip/f1.png": "three"}
    assert (told.images, told.computed, told.megabytes) == (3, 3, 21.0)
    assert told.notes == (("1 of 4",) if skip else ())
    torn = ["torn.png"] * skip
    assert told.digest == ["all.parquet/1", "all.parquet/2", "clip", *torn, "z.png"]
    assert told.left_out == tuple(torn)


def test_tokens_that_a_batch_computes() -> None:
    ids, labels = torch.zeros(3, 5, dtype=torch.long), torch.zeros(3, 2, dtype=torch.long)
    mask = torch.ones(3, 5, dtype=torch.bool)
    for visual, count in ((None, 0), (torch.zeros(3, 4, 7), 12)):
        batch = GenerationBatch(Inputs(ids, mask, visual), labels, torch.ones(3), (0,) * 3)
        assert batch.token_counts == {"text_tokens": 15, "visual_tokens": count, "answer_tokens": 6}


@pytest.mark.parametrize(("kind", "size"), [("text", 32), ("codebook", 64)])
def test_a_batch_has_so_many_samples_where_none_is_stated(
    kind: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    module: Any = {"text": text_training, "codebook": codebook_training}[kind]
    made: list[Any] = []
    monkeypatch.setattr(module, "TaskBatches", lambda counts, sizes, *rest: made.append((counts, sizes, *rest)) or [1])  # fmt: skip
    monkeypatch.setattr(module, "accelerate", lambda *_: SimpleNamespace(process_index=0, num_processes=1))  # fmt: skip
    adapted: Any = nn.Linear(1, 1)
    adapted.model, adapted.head = SimpleNamespace(module=None), None
    for batch, wanted in ((0, size), (7, 7)):
        recipe = Recipe(steps=0, batch_size=batch)
        if kind == "codebook":
            monkeypatch.setattr(module, "BatchLoader", lambda *_: None)
            monkeypatch.setattr(module, "CodebookLoss", lambda *_: adapted)
            method: Any = SimpleNamespace(recipe=recipe, losses=lambda _: ())
            module.train(adapted, method, None, [1, 2, 3], seed=4)
            assert made.pop() == ({"all": 3}, {"all": wanted}, 4)
        else:
            monkeypatch.setattr(module, "GenerationLoss", lambda *_: adapted)
            task = SimpleNamespace(name="t", training=lambda _: [1, 2, 3], task=SimpleNamespace(batch_size=lambda base: 2 * base))  # fmt: skip
            options = text_training.TextOptions()
            module.train(adapted, SimpleNamespace(tasks=[task]), recipe, options, seed=4)
            assert made.pop() == ({"t": 3}, {"t": 2 * wanted}, 4, options.mode)


class Asked(Exception):
    """A model was asked for."""


def test_the_shape_of_a_language_model_is_known_before_its_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    asked: list[Any] = []

    def load(request: Any, device: str) -> Any:
        asked.append((request.name, request.meta, device))
        raise Asked

    monkeypatch.setattr(text_workspace, "load_any", load)
    with pytest.raises(Asked):
        text_workspace.open_text(TextGeneration("bart", ()))
    assert asked == [("bart", True, "meta")]


@pytest.mark.parametrize("quiet", [False, True])
def test_the_cost_of_features_is_told_in_one_line_by_a_few_images(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    told: list[Any] = []
    ran: list[int] = []
    times = iter([5.0, 7.0])
    made: Any = object.__new__(visual_backbone.BackboneVisuals)
    made.backbone, made.cache = SimpleNamespace(name="vit"), SimpleNamespace(root="/cache")
    made._features = SimpleNamespace(
        read=lambda chosen, _: [one.path for one, _ in chosen], run=lambda images, roles: ran.append(len(images)) or roles
    )  # fmt: skip
    made._pooled, made._megabytes = lambda kind, state: state, lambda kind, count: 0.5 * count  # noqa: ARG005
    monkeypatch.setattr(visual_backbone.time, "perf_counter", lambda: next(times))
    monkeypatch.setattr(visual_backbone.console, "print", lambda *given, **how: told.append((given, how)))  # fmt: skip
    monkeypatch.setattr(visual_backbone, "fill", lambda _, key, ids, read, __, **how: told.append((key, ids, read(ids[:1]), how)))  # fmt: skip
    kind: Any = SimpleNamespace(what="pictures", role="patches", key="key")
    made._store(kind, {}, quiet=quiet)
    assert told == []
    made._store(kind, {f"i{n}": Path(f"{n}.png") for n in (5, 3, 1, 2, 4)}, quiet=quiet)
    filled = ("key", [f"i{n}" for n in range(1, 6)], [Path("1.png")], {"label": "features of pictures", "quiet": quiet})  # fmt: skip
    line = "features 5 pictures through vit: about 2 s, 2.5 MB to store in /cache"
    plain = {"highlight": False, "markup": False, "soft_wrap": True}
    assert told == ([filled] if quiet else [((line,), plain), filled])
    assert ran == ([] if quiet else [1, 4]), "the first call is slower"


def test_what_is_not_stored_is_computed_without_a_word() -> None:
    asked: list[Any] = []
    made: Any = object.__new__(visual_backbone.BackboneVisuals)
    made._ids = {Path("a"): "1", Path("b"): "2", Path("c"): "1"}
    made._identify = lambda *given, **how: asked.append((given, how)) or ("missing", ("a note",))
    made._store = lambda *given, **how: asked.append((given, how))
    rows = {one: {"cut": torch.tensor(int(one))} for one in "12"}
    made.cache = SimpleNamespace(read=lambda *given: asked.append(given) or rows)
    kind: Any = SimpleNamespace(key=SimpleNamespace(cut=("cut",)))
    paths = [Path("c"), Path("b"), Path("a")]
    assert [int(value) for value in made._values(kind, paths)] == [1, 2, 1]
    quiet = {"quiet": True}
    assert asked == [((kind, paths), quiet), ((kind, "missing"), quiet), (kind.key, ["1", "2", "1"])]  # fmt: skip


def test_images_of_a_row_stand_side_by_side_and_those_that_it_lacks_are_marked() -> None:
    shown = {
        name: VisualFeatures(torch.full((2, 3), float(n)), 2, padding=torch.tensor([False, n > 1]), boxes=torch.full((2, 4), -float(n)))
        for n, name in enumerate("abc", 1)
    }  # fmt: skip
    seen = SimpleNamespace(visuals=shown.__getitem__)
    blind = SimpleNamespace(visuals=None)

    def found(*rows: str, owners: Any = None) -> dict[str, Any]:
        samples: Any = [SimpleNamespace(images=tuple(row)) for row in rows]
        return collator._seen(owners or [seen] * len(rows), samples)

    assert found("ab", owners=[blind]) == found("") == {}
    both = found("b", "ac")
    assert both["visual"][..., 0].tolist() == [[2, 2, 0, 0], [1, 1, 3, 3]]
    assert both["boxes"][..., 3].tolist() == [[-2, -2, 0, 0], [-1, -1, -3, -3]]
    assert both["padding"].tolist() == [[False, True, False, False], [False, False, False, True]]
    assert both["absent"].tolist() == [[False, False, True, True], [False] * 4]
    assert both["images"] == 2
    assert both.keys() == {"visual", "boxes", "padding", "absent", "images"}
    assert found("ab", "ca").keys() == {"visual", "boxes", "padding", "images"}
    third = found("a", "b", owners=[blind, seen])
    assert third["absent"].tolist() == [[True] * 2, [False] * 2]

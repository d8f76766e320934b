"""Small parts of tasks on their own: what is refused, what is told, what is searched, who judges which images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from builders.comparisons import images
from builders.group import together
from petiole.data.dataset import Dataset
from petiole.engine.record import lines
from petiole.engine.run import RunSpec
from petiole.engine.task import TaskRun
from petiole.engine.timing import in_words
from petiole.engine.trainer import Callbacks
from petiole.errors import AdapterError, ConfigError, DataError, RunError
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import SolvedHead
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks import image_targets, target_workspace
from petiole.tasks.classification import held_back, path_search, training, transfer_eval
from petiole.tasks.classification.cost_estimate import _count
from petiole.tasks.classification.doubt import Doubt
from petiole.tasks.classification.held_back import HeldBack
from petiole.tasks.classification.model import Predictions
from petiole.tasks.codebook.task import CodebookRun
from petiole.tasks.codebook.workspace import CodebookQuestions, CodebookWorkspace
from petiole.tasks.image_targets import TargetRun, VectorRun
from petiole.tasks.multilabel.task import MultiLabelRun
from petiole.tasks.regression.adapter import Scale
from petiole.tasks.regression.task import RegressionRun
from petiole.tasks.segmentation.dense import dense
from petiole.tasks.segmentation.workspace import Segmentation
from petiole.tasks.target_workspace import Pairs, TargetTask, TargetWorkspace
from petiole.tasks.text import adapter as text_adapter
from petiole.tasks.text import registry as text_registry
from petiole.tasks.text import scoring
from petiole.tasks.text.adapter import TextAdapter
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace
from petiole.testing import backbones as tiny


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (20, "under half a minute"),
        (20.5, "about a minute"),
        (89.9, "about a minute"),
        (90, "about 2 minutes"),
        (5399, "about 90 minutes"),
        (5400, "about 1.5 hours"),
    ],
)
def test_seconds_are_told_in_the_unit_that_suits(seconds: float, said: str) -> None:
    assert in_words(seconds) == said


def test_one_is_told_without_a_plural() -> None:
    assert [_count(n, "run") for n in (0, 1, 2, 1200)] == [
        "0 runs",
        "1 run",
        "2 runs",
        "1,200 runs",
    ]


# --- doubt -------------------------------------------------------------------------------------------


@dataclass
class Calibrated:
    """As much of a calibration as doubt asks for."""

    bounds: ClassVar[Mapping[float, float]] = {0.5: 0.3, 0.9: inf}
    images: int = 7

    def bound(self, coverage: float) -> float:
        return self.bounds[coverage]


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5])
@pytest.mark.parametrize("option", ["coverage", "abstain_below"])
def test_doubt_takes_probabilities(option: str, value: float) -> None:
    known: Any = Calibrated()
    with pytest.raises(ConfigError, match=rf"--{option.replace('_', '-')} is a probability"):
        Doubt(known, adapter="a", **{option: value})
    with pytest.raises(ConfigError, match=r"a is not calibrated, so --"):
        Doubt(None, adapter="a", **{option: 0.5})


def test_what_is_asked_for_beside_labels() -> None:
    known: Any = Calibrated()
    plain = Doubt(None, adapter="a")
    assert plain.notes == ["the adapter is not calibrated: its probabilities rank classes, no more"]
    assert plain.label_set("x", {"x": 0.9}) == []
    assert plain.abstain(0.1, True) is None
    sets = Doubt(known, 0.5, adapter="a")
    assert (sets.notes, sets.bound) == ([], 0.3)
    assert sets.label_set("y", {"x": 0.75, "z": 0.6, "y": 0.2}) == ["x", "y"]
    few = Doubt(known, 0.9, adapter="a")
    assert few.notes == [
        "7 left-out images are too few for sets at 0.9: each set holds all classes"
    ]
    assert few.label_set("x", {"x": 0.9, "y": 0.0}) == ["x", "y"]
    careful = Doubt(known, abstain_below=0.6, adapter="a")
    assert [careful.abstain(p, odd) for p, odd in ((0.59, None), (0.6, None), (0.6, True), (0.6, False))] == [True, False, True, False]  # fmt: skip


# --- training ----------------------------------------------------------------------------------------


class Layer:
    """A layer that has the path that was chosen last."""

    def __init__(self) -> None:
        self.settled = 0

    def settle(self) -> None:
        self.settled += 1


def search(tmp_path: Path, patch: pytest.MonkeyPatch, judged: Mapping[str, float]) -> tuple[Any, list[Any], Path]:  # fmt: skip
    """Over three paths, of which the best is asked for twice; what was chosen, and in which order."""
    layers, done = [Layer(), Layer()], list[Any]()
    names = list(judged)

    def best(score: Any) -> tuple[str, ...]:
        found = [score(tuple(name.split(","))) for name in [*names, names[0]]]
        return tuple(names[int(np.argmax(found))].split(","))

    def choose(given: list[Layer], paths: tuple[str, ...]) -> None:
        assert given is layers
        done.append(",".join(paths))

    patch.setattr(path_search, "choose_paths", choose)
    plan = SimpleNamespace(search=SimpleNamespace(layers=layers, best=best), settled={})
    adapted: Any = SimpleNamespace(plan=plan)
    held: Any = SimpleNamespace(accuracy=lambda: (done.append("judged"), judged[done[-2]])[1])
    path_search.search_paths(adapted, held, Callbacks(checkpoint=tmp_path / "checkpoint"))
    assert [layer.settled for layer in layers] == [1, 1]
    return plan, done, tmp_path / path_search.PATHS


def test_paths_are_judged_once_kept_and_the_best_is_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = {"a,b": 0.25, "b,b": 0.75, "b,a": 0.5}
    plan, done, file = search(tmp_path, monkeypatch, judged)
    assert plan.settled == {"paths": "b,b"}
    assert done == ["a,b", "judged", "b,b", "judged", "b,a", "judged", "b,b"]
    assert {row["paths"]: row["accuracy"] for row in lines(file)} == judged
    size = file.stat().st_size
    file.write_text("".join(f"{line}\n" for line in file.read_text().splitlines()[:2]))
    _, again, file = search(tmp_path, monkeypatch, judged)
    assert again == ["b,a", "judged", "b,b"], "what a killed search has tried is known"
    assert file.stat().st_size == size


def test_held_back_images_are_shared_among_those_that_judge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seven images, of which 0, 3 and 5 are right; three processes judge three, two and two of them."""
    labels = torch.tensor([0, 0, 0, 1, 0, 1, 0])
    said = torch.tensor([0, 1, 1, 1, 1, 1, 1])
    asked: list[tuple[int, list[int]]] = []

    class Rows:
        def __init__(self, table: Any, mine: list[int]) -> None:  # noqa: ARG002
            self.mine = mine

    def predict(self: HeldBack, table: Any, count: int) -> Predictions:  # noqa: ARG001
        asked.append((count, table.mine))
        return Predictions(torch.zeros(count, 1), torch.eye(2)[said[table.mine]])

    held = object.__new__(HeldBack)
    held.adapted = SimpleNamespace(backbone=SimpleNamespace(device=torch.device("cpu")))  # type: ignore[assignment]
    held.table, held.labels = None, labels  # type: ignore[assignment]
    monkeypatch.setattr(held_back, "RowsTable", Rows)
    monkeypatch.setattr(HeldBack, "_predictions", predict)
    with monkeypatch.context() as patch:
        assert together(lambda _: held.accuracy(), patch, size=3) == [pytest.approx(3 / 7)] * 3
    assert sorted(asked) == [(2, [1, 4]), (2, [2, 5]), (3, [0, 3, 6])]
    assert held.accuracy() == pytest.approx(3 / 7)
    assert asked[-1] == (7, [*range(7)])


def test_a_batch_is_shared_in_whole_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    for rank, rows in enumerate(([0, 1, 2], [3, 4], [5, 6])):
        accelerator: Any = SimpleNamespace(num_processes=3, process_index=rank)
        assert training._share(torch.arange(7), accelerator).tolist() == rows
        assert len(training._share(torch.arange(3), accelerator)) == 1
        with pytest.raises(ConfigError, match="A batch of 2 images cannot be shared by 3"):
            training._share(torch.arange(2), accelerator)


def test_classes_are_balanced_in_shuffled_batches_alone() -> None:
    data = images("a", [0, 0, 0, 1])
    assert training._class_weights(data, Recipe()) is None
    with pytest.raises(ConfigError, match="class_weight=balanced is for shuffled batches"):
        training._class_weights(data, Recipe(class_weight="balanced", batch_size=0))
    found = training._class_weights(data, Recipe(class_weight="balanced", batch_size=2))
    assert found is not None
    assert float(found[1] / found[0]) == pytest.approx(3)
    assert found.dtype == torch.float32


def test_solved_heads_and_trainings_without_steps_hold_nothing_back() -> None:
    data = images("a", [0, 0, 1, 1])
    for head, steps in ((nn.Linear(1, 1), 0), (create("ridge").plan(tiny.resnet(), 2).head, 5)):
        with pytest.raises(ConfigError, match="this method takes none"):
            HeldBack(SimpleNamespace(head=head), data, None, Recipe(steps=steps))  # type: ignore[arg-type]


# --- other images ------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [True, False])
def test_an_adapter_is_scored_once_on_other_images(
    tmp_path: Path, named: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[Any] = []

    class Names:
        pass

    monkeypatch.setattr(transfer_eval, "ClassNameHead", Names if named else nn.Conv1d)
    data = images("birds", [0, 1, 1, 1])
    adapted = SimpleNamespace(head=Names(), cut=("v",), name=lambda *of: names.append(of))
    adapter = SimpleNamespace(adapted=adapted, classes=["x", "y"], manifest=SimpleNamespace(method="m"))  # fmt: skip
    opened: list[Any] = []
    monkeypatch.setattr(transfer_eval.ClassificationAdapter, "load", lambda *of, **how: (opened.append((of, how)), adapter)[1])  # fmt: skip
    found = Predictions(torch.zeros(4, 1), torch.tensor([[9.0, 0]] * 2 + [[0, 9.0]] * 2))
    monkeypatch.setattr(transfer_eval, "predict", lambda _, batches: found if batches == 4 else None)  # fmt: skip
    table = SimpleNamespace(batches=lambda count: count)
    workspace: Any = SimpleNamespace(backbone="b", table=lambda *_: table)
    one = transfer_eval.score_transfer(tmp_path, "birds", workspace, data)
    assert (one.name, one.classes, one.test_evaluations) == ("birds", ["x", "y"], 1)
    assert one.scores["accuracy"] == 0.75
    assert names == ([(data.classes, "birds")] if named else [])
    assert transfer_eval.score_transfer(tmp_path, "birds", workspace, data) == one
    assert len(opened) == 1, "what is there is read"
    with pytest.raises(RunError, match="measured on other images"):
        transfer_eval.score_transfer(tmp_path, "birds", workspace, images("b", [0, 1]))
    assert transfer_eval.score_transfer(tmp_path, "again", workspace, data).test_evaluations == 2
    others = replace(data, classes=("x", "z"))
    if named:
        assert transfer_eval.score_transfer(tmp_path, "z", workspace, others).classes == ["x", "z"]
    else:
        with pytest.raises(ConfigError, match="m has a fixed set of classes"):
            transfer_eval.score_transfer(tmp_path, "z", workspace, others)


class Solved(SolvedHead):
    """A head that is solved in a way of its own."""

    def solve(self, *_: Any) -> None: ...


# --- targets -----------------------------------------------------------------------------------------


class Part:
    """What is said of images, as far as a workspace asks."""

    def __init__(self, name: str, count: int, domain: str = "target") -> None:
        self.images = images(name, [i % 2 for i in range(count)], domain=domain)

    def select(self, data: Dataset) -> Part:
        part = object.__new__(Part)
        part.images = data
        return part

    def joined(self, other: Part) -> Part:
        return self.select(self.images.concat(other.images))

    def __replace__(self, images: Dataset) -> Part:
        return self.select(images)


@dataclass(frozen=True)
class Made(TargetTask):
    """Parts that are given."""

    kind: ClassVar[str] = "made"
    column: ClassVar[str] = "made"

    def parts(self, data: Any) -> dict[str, Any]:
        return dict(data)

    @staticmethod
    def names(parts: Any) -> tuple[str, ...]:
        return tuple(f"n{i}" for i in range(len(parts[0].images)))

    @classmethod
    def run(cls, workspace: Any, spec: Any) -> TaskRun:
        raise NotImplementedError


def workspace_of(data: Any, **more: Any) -> TargetWorkspace:
    return TargetWorkspace(Made("b", data, **more))


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts made here are no data classes."""
    real = target_workspace.replace
    monkeypatch.setattr(target_workspace, "replace", lambda one, **what: one.__replace__(**what) if isinstance(one, Part) else real(one, **what))  # fmt: skip


@pytest.mark.usefixtures("replaced")
def test_parts_of_a_table_are_those_that_it_names_or_a_share_is_held_back() -> None:
    train, test = Part("a", 8), Part("b", 3)
    both = workspace_of({"train": train, "test": test}).targets
    assert (both["train"], both["test"]) == (train, test)
    split = workspace_of({"train": train}, test_fraction=0.25).targets
    assert (len(split["train"].images), len(split["test"].images)) == (6, 2)
    assert not set(split["train"].images.ids) & set(split["test"].images.ids)
    with pytest.raises(DataError, match=r"no rows to train on; mark some with split train"):
        _ = workspace_of({"test": test}).targets
    other = workspace_of({"train": train, "test": Part("c", 2)}, test={"train": test}).targets
    assert other["test"] is test
    other = workspace_of({"train": train}, test={"train": Part("d", 1), "test": test}).targets
    assert other["test"] is test
    for given in ({"train": Part("s", 4)}, {"source": Part("s", 4)}):
        workspace = workspace_of({"train": train, "test": test}, source=given)
        assert set(workspace.targets["source"].images.domains) == {"source"}
        assert len(workspace.learned.images) == 12
        assert len(workspace.names) == 12
    assert workspace_of({"train": train, "test": test}).learned is train


@pytest.mark.usefixtures("replaced")
def test_a_run_on_targets_is_announced_by_its_first_method() -> None:
    data = {"train": Part("a", 9), "test": Part("b", 3)}
    workspace = workspace_of(data, source={"train": Part("s", 1)})
    workspace.__dict__["backbone"] = SimpleNamespace(name="vit")
    first = RunSpec(workspace.task, "lora-qkv", Path("a"), {"steps": 7})
    second = RunSpec(workspace.task, "ridge", Path("b"), {"epochs": 2}, SimpleNamespace(shots=4))
    told = workspace.describe([first, second])
    assert told == [
        "data     9 images to train on with 1 of the source domain, 3 held back, targets: "
        "n0, n1, n2, n3, n4, n5, n6, n7, ...",
        "training 2 x lora-qkv on vit, solved or 7 steps at most",
    ]
    few = workspace_of({"train": Part("a", 8), "test": Part("b", 3)})
    few.__dict__["backbone"] = SimpleNamespace(name="vit")
    told = few.describe([replace(first, settings={"epochs": 2}, options=SimpleNamespace(shots=4))])
    assert told[0].startswith("data     4 of 8 images to train on, 3 held back, ")
    assert told[0].endswith("n6, n7")
    assert told[1].endswith("solved or 2 passes")


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"losses": (1,)}, "m has losses on classes, and made has none"),
        ({"teacher": "t"}, "m has losses on classes, and made has none"),
        ({"search": object()}, "m searches by accuracy"),
        ({"head": object.__new__(Solved)}, "The head of m is solved for classes"),
    ],
)
def test_methods_that_need_classes_are_refused_where_there_are_none(
    part: dict[str, Any], said: str
) -> None:
    run: Any = SimpleNamespace(
        spec=SimpleNamespace(method="m"), workspace=SimpleNamespace(task=SimpleNamespace(kind="made"))
    )  # fmt: skip
    plan = SimpleNamespace(losses=(), teacher="", search=None, head=nn.Linear(1, 1))
    TargetRun.check(run, plan)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=said):
        TargetRun.check(run, SimpleNamespace(**{**vars(plan), **part}))  # type: ignore[arg-type]
    for field in ("mixup", "train_on"):
        spec: Any = SimpleNamespace(settings={"lr": 1, field: 1})
        with pytest.raises(ConfigError, match=rf"^{field} speaks of classes or domains, and made"):
            TargetRun.__init__(run, run.workspace, spec)


def test_batches_of_targets_are_shuffled_and_no_larger_than_the_images() -> None:
    def made(images: int, **recipe: Any) -> Recipe:
        return image_targets._shuffled(Recipe(steps=3, select="best", **recipe), images, 2)

    assert (made(5).batch_size, made(500).batch_size) == (5, image_targets.BATCH)
    assert [made(n, batch_size=4, drop_last=True).drop_last for n in (4, 5)] == [False, True]
    assert not made(9, batch_size=4).drop_last
    assert {made(9).select, made(9).train_on} == {"last", "joint"}


def test_scores_without_a_value_are_left_out() -> None:
    assert image_targets.known({"a": 0.0, "b": float("nan"), "c": 1.0}) == {"a": 0.0, "c": 1.0}


def regression(truth: np.ndarray, names: tuple[str, ...]) -> Any:
    run = object.__new__(RegressionRun)
    run.truth, run.names = truth, names
    run.train_images = images("ages", [0])
    return run


def test_numbers_are_standardised_and_one_that_never_changes_is_refused() -> None:
    run = regression(np.array([[1.0, 5.0], [3.0, 5.5]]), ("age", "size"))
    assert run.scale == Scale(mean=[2.0, 5.25], sd=[1.0, 0.25])
    assert run.wanted().tolist() == [[-1, -1], [1, 1]]
    same = regression(np.array([[1.0, 5.0], [3.0, 5.0]]), ("age", "size"))
    with pytest.raises(DataError, match=r"ages: all training images have the size 5, so"):
        _ = same.scale


@pytest.mark.parametrize("several", [True, False])
def test_what_is_told_of_numbers_by_hand(several: bool, tmp_path: Path) -> None:
    names = ("age", "size") if several else ("age",)
    run = regression(np.array([[0.0, 0.0], [2.0, 4.0]])[:, : len(names)], names)
    truth = np.array([[1.0, 3.0], [2.0, 3.0], [6.0, 3.0]])[:, : len(names)]
    run.outputs = torch.tensor([[0.0, 0.0], [1.0, 0.0], [5.0, 1.0]])[:, : len(names)], truth
    told = run.finish(None, tmp_path)
    true = told["true age" if several else "true"]
    assert true == {"mean": 3.0, "sd": pytest.approx(np.std([1, 2, 6])), "least": 1.0, "most": 6.0}
    found = told["predicted age" if several else "predicted"]
    assert (found["least"], found["most"], found["mean"]) == (1.0, 6.0, 3.0)
    if several:
        assert told["mae"] == {"age": 0.0, "size": 1.0}
        assert told["r2"] == {"age": 1.0}, "of what never changes there is none"
        assert told["true size"]["sd"] == 0
    else:
        assert set(told) == {"true", "predicted"}


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("cosine-ln", "changes image vectors"),
        ("knn", "solved for classes of images"),
        ("coop", "losses on the classes|made of class names"),
        ("cls-residual-lora", "changes image vectors|losses on the classes"),
    ],
)
def test_pixels_are_no_place_for_methods_of_image_vectors(method: str, said: str) -> None:
    from petiole.testing import dual_encoder as clips

    backbone = clips.towers() if method == "coop" else tiny.plain()
    with pytest.raises(ConfigError, match=said), torch.random.fork_rng():
        dense(create(method), backbone, 3, method)


def test_masks_are_read_from_files() -> None:
    with pytest.raises(DataError, match="Masks are read from a folder or a table"):
        Segmentation("b", Path("a")).parts(Pairs([]))


# --- texts -------------------------------------------------------------------------------------------


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


# --- ridge on labels ---------------------------------------------------------------------------------


def test_ridge_is_solved_for_all_images_and_then_brought_into_the_loss_s_form(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = object.__new__(RidgeHead)
    left, asked, finished = torch.rand(3, 2), list[Any](), list[Any]()
    x, wanted = torch.rand(3, 4), torch.rand(3, 2)

    def solved_from(*given: Any) -> Any:
        asked.append(given)
        return x, None, None

    monkeypatch.setattr(image_targets.training, "solved_from", solved_from)
    monkeypatch.setattr(RidgeHead, "solve_targets", lambda _, *given: (asked.append(given), left.double())[1])  # fmt: skip
    run: Any = SimpleNamespace(
        method=SimpleNamespace(recipe=Recipe(train_on="target")), train_images="images",
        finish_ridge=lambda *given: finished.append(given),
    )  # fmt: skip
    adapted = SimpleNamespace(head=head)
    VectorRun._solve(run, adapted, "table", wanted)  # type: ignore[arg-type]
    (first, second) = asked
    assert first[:3] == (adapted, "images", "table")
    assert first[3].train_on == "joint"
    assert torch.equal(second[0], x)
    assert torch.equal(second[1], wanted)
    assert (second[2].tolist(), second[3].tolist()) == ([1.0] * 3, [True] * 3)
    [(given, outputs)] = finished
    assert given is head
    assert (outputs.dtype, outputs.tolist()) == (torch.float32, left.tolist())


def test_ridge_s_outputs_are_scaled_to_the_likeliest_labels() -> None:
    """z = s (W x + b), s by a fine grid: the labels are drawn as if s were 3."""
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(400, 2, generator=generator)
    truth = (torch.rand(400, 2, generator=generator) < (3 * left).sigmoid()).double()
    head: Any = SimpleNamespace(weight=torch.ones(2, 3), bias=torch.full((2,), 2.0))
    run = object.__new__(MultiLabelRun)
    run.truth = truth.numpy()
    run.finish_ridge(head, left)
    grid = np.exp(np.linspace(np.log(0.5), np.log(50), 2000))
    z = left.double()[None] * torch.from_numpy(grid)[:, None, None]
    likely = (truth * z - torch.nn.functional.softplus(z)).mean((1, 2))
    best = grid[int(likely.argmax())]
    assert 2 < best < 4
    assert float(head.weight[0, 0]) == pytest.approx(best, rel=0.01)
    assert head.bias.tolist() == pytest.approx([2 * float(head.weight[0, 0])] * 2)


@pytest.mark.parametrize("ridge", [True, False])
def test_ridge_learns_signs_and_steps_learn_shares(ridge: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    run = object.__new__(MultiLabelRun)
    run.truth, run.names = np.array([[0.0, 1.0]]), ("a", "b")
    plan = SimpleNamespace(head=object.__new__(RidgeHead) if ridge else nn.Linear(1, 1))
    monkeypatch.setattr(MultiLabelRun, "plan", lambda _: plan)
    assert run.wanted().tolist() == ([[-1, 1]] if ridge else [[0, 1]])
    z, t = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0, 1.0]])
    hand = -(torch.log(1 - z.sigmoid()) * (1 - t) + torch.log(z.sigmoid()) * t).mean()
    assert float(run.loss(z, t)) == pytest.approx(float(hand))


def test_what_is_told_of_labels_by_hand(tmp_path: Path) -> None:
    run = object.__new__(MultiLabelRun)
    run.names = ("often", "never")
    outputs = torch.tensor([[2.0, -1.0], [0.0, 1.0], [-3.0, -1.0]])
    run.outputs = outputs, np.array([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    told = run.finish(None, tmp_path)  # type: ignore[arg-type]
    assert told["average precision"] == {"often": pytest.approx((1 + 2 / 3) / 2)}
    assert told["test images"] == {"often": 2.0, "never": 0.0}
    assert told["given"] == {"often": 2.0, "never": 1.0}, "one half is given"


def test_targets_are_learned_in_shuffled_batches_of_the_images_own_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []

    class Trained:
        def __init__(self, *given: Any) -> None:
            made.append(given)

        def run(self, callbacks: Callbacks) -> None:
            _, _, _, feed, _, recipe, a_pass, seed = made[0]
            assert (recipe.steps, recipe.batch_size, a_pass, seed) == (3, 2, 2.0, 9)
            batches = [feed(step) for step in range(3)]
            rows = [state["row"].tolist() for state, _ in batches]
            assert sorted(rows[0] + rows[1]) == [0, 1, 2, 3]
            for state, targets in batches:
                assert targets[:, 0].tolist() == [10 * row for row in state["row"].tolist()]
            assert callbacks.samples == 6

    adapted: Any = nn.Sequential(nn.Dropout(0.5)).train()
    adapted.backbone, adapted.head = SimpleNamespace(module=None), nn.Linear(1, 1)
    monkeypatch.setattr(image_targets, "Trainer", Trained)
    monkeypatch.setattr(image_targets, "accelerate", lambda *_: SimpleNamespace(device=torch.device("cpu")))  # fmt: skip
    monkeypatch.setattr(image_targets, "make_optimizer", lambda *_: None)
    run: Any = SimpleNamespace(
        method=SimpleNamespace(recipe=Recipe(steps=3, batch_size=2, views=0)), train_images=images("a", [0, 1, 0, 1]), names=("n",),
        workspace=SimpleNamespace(task=SimpleNamespace(precision="fp32")), spec=SimpleNamespace(seed=9),
    )  # fmt: skip
    table: Any = SimpleNamespace(fetch=lambda rows, _: {"row": rows})
    wanted = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    TargetRun._descend(run, adapted, table, wanted, Callbacks())
    assert len(made) == 1
    assert not any(part.training for part in adapted.modules())

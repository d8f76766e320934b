"""Images with targets: their parts, what is refused, what is learned, ridge and what is told by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from builders.comparisons import images
from petiole.data.dataset import Dataset
from petiole.engine.run import RunSpec
from petiole.engine.task import TaskRun
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError, DataError
from petiole.layers.ridge import RidgeHead
from petiole.layers.solved import SolvedHead
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks import image_targets, target_workspace
from petiole.tasks.image_targets import TargetRun, VectorRun
from petiole.tasks.multilabel import workspace as labels_of
from petiole.tasks.multilabel.task import MultiLabelRun
from petiole.tasks.regression.adapter import Scale
from petiole.tasks.regression.task import RegressionRun
from petiole.tasks.segmentation.dense import dense
from petiole.tasks.segmentation.workspace import Segmentation
from petiole.tasks.target_workspace import Pairs, TargetTask, TargetWorkspace
from petiole.testing import backbones as tiny


class Solved(SolvedHead):
    """A head that is solved in a way of its own."""

    def solve(self, *_: Any) -> None: ...


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
        def __init__(self, *given: Any, precision: str) -> None:
            made.append(given)
            assert precision == "fp16"

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
        workspace=SimpleNamespace(task=SimpleNamespace(precision="fp16")), spec=SimpleNamespace(seed=9),
    )  # fmt: skip
    table: Any = SimpleNamespace(fetch=lambda rows, _: {"row": rows})
    wanted = torch.tensor([[0.0], [10.0], [20.0], [30.0]])
    TargetRun._descend(run, adapted, table, wanted, Callbacks())
    assert len(made) == 1
    assert not any(part.training for part in adapted.modules())


def test_numbers_have_no_head_of_class_names() -> None:
    run = regression(np.array([[1.0], [3.0]]), ("age",))
    run.spec = SimpleNamespace(method="coop")
    run.workspace = SimpleNamespace(task=SimpleNamespace(kind="regression"))
    plan = SimpleNamespace(losses=(), teacher="", search=None, head=nn.Linear(1, 1))
    run.check(plan)
    plan.head = SimpleNamespace(rename=print, forget=print)
    with pytest.raises(ConfigError, match=r"^The head of coop is made of class names"):
        run.check(plan)
    run.truth = np.array([[1.0], [1.0]])
    with pytest.raises(DataError, match="there is nothing to learn"):
        run.check(plan)
    with pytest.raises(ConfigError, match="coop has losses on classes"):
        run.check(SimpleNamespace(**{**vars(plan), "teacher": "t"}))


def test_labels_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    parts: Any = [SimpleNamespace(images=SimpleNamespace(name="photos"))]
    monkeypatch.setattr(labels_of, "names_in", lambda given: given is parts and ("a", "b"))
    assert labels_of.MultiLabel.names(parts) == ("a", "b")
    monkeypatch.setattr(labels_of, "names_in", lambda _: ())
    with pytest.raises(DataError, match=r"^photos: no image has a label\."):
        labels_of.MultiLabel.names(parts)

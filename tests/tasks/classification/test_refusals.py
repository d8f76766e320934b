"""What parts of classification refuse, and with which words."""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import petiole
from builders.comparisons import TASK, images, opened
from petiole.backbones.hooks import Attach
from petiole.engine.run import RunSpec
from petiole.errors import AdapterError, ConfigError, DataError
from petiole.layers.lowrank import LowRank
from petiole.methods.prompt_learning.class_vectors import ClassVectors
from petiole.methods.prompt_learning.refined_head import RefinedByImage
from petiole.methods.registry import create
from petiole.tasks.classification import (
    contract,
    cost_estimate,
    merge,
    module,
    peft_folder,
    refiner_cache,
)
from petiole.tasks.classification import distillation_targets as targets
from petiole.tasks.classification.export import plain, session
from petiole.tasks.classification.mixing import mixing
from petiole.tasks.classification.model import ANCHOR, AdaptedClassifier
from petiole.tasks.classification.refiner_cache import describe, read_entropy
from petiole.tasks.classification.workspace import ClassificationWorkspace, Subset
from petiole.testing import backbones as tiny


def test_a_recall_is_of_the_images_of_its_class_in_its_slice() -> None:
    data = images("p", [0, 1, 1, 0, 1], ("x", "y", "z"))
    logits = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]])
    judged: Any = SimpleNamespace(data=data, _logits=logits, _place=lambda path: path.as_posix())

    def recall(**clause: Any) -> Any:
        given: Any = SimpleNamespace(**{"slice": "*", "min": 0.5, **clause})
        return contract.ContractTest._recall(judged, given)

    whole = recall(name="y")
    assert (whole.name, whole.value, whole.bound, whole.at_least, whole.images) == ("recall of y", 2 / 3, 0.5, True, 3)  # fmt: skip
    some = recall(name="y", slice="p[12].png")
    assert (some.name, some.value, some.images) == ("recall of y on p[12].png", 0.5, 2)
    with pytest.raises(
        DataError, match=r"^\[\[recall\]\] is of class z, of which p has no image\."
    ):
        recall(name="z")
    with pytest.raises(DataError, match=r"^No image of class y matches the slice 'q\*'; paths look like 'p1\.png'\.$"):  # fmt: skip
        recall(name="y", slice="q*")


def test_nothing_is_estimated_of_what_cannot_be_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_estimate, "time_job", lambda *_: None)
    assert cost_estimate.seconds_of(opened(), RunSpec(TASK, "ridge", Path("f"))) == (0.0, 0.0)


def test_a_teacher_needs_a_vector_for_each_class_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    teacher = SimpleNamespace(adapted=SimpleNamespace(head=nn.Linear(1, 1)))
    monkeypatch.setattr(targets.ClassificationAdapter, "load", lambda *given, **more: asked.append((given, more)) or teacher)  # fmt: skip
    adapted: Any = SimpleNamespace(plan=SimpleNamespace(teacher="runs/t"))
    features: Any = SimpleNamespace(device=torch.device("cpu"))
    with pytest.raises(AdapterError, match=r"^runs/t has no one vector for each class name"):
        targets.distillation_targets(features, adapted, images("t", [0]), create("promptkd").recipe)
    assert asked == [((Path("runs/t"),), {"device": "cpu"})]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"losses": (nn.Identity(),)}, r"^mixup and CutMix give an image two labels, and Identity takes one"),
        ({"teacher": "t"}, r"and its teacher takes one"),
        ({"patch": 14}, r"^b gives each image a grid of its own shape"),
        ({"cutmix": 1.0, "mixup": 0.0}, r"^CutMix pastes pixels, and this method trains on stored block\.1\.out"),
        ({"patch": 14, "cut": ("final.vector",)}, ""),
        ({}, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_mixed_is_refused(change: dict[str, Any], said: str) -> None:
    given = {"mixup": 0.5, "cutmix": 0.0, "losses": (), "teacher": "", "patch": None, "cut": ("block.1.out",)} | change  # fmt: skip
    backbone = SimpleNamespace(name="b", finals=("final.vector",), preprocessing=SimpleNamespace(patch=given["patch"]))  # fmt: skip
    plan = SimpleNamespace(losses=given["losses"], anchors=(), teacher=given["teacher"])
    adapted: Any = SimpleNamespace(plan=plan, training_cut=given["cut"], backbone=backbone)
    recipe: Any = SimpleNamespace(mixup=given["mixup"], cutmix=given["cutmix"])
    if not said:
        found = mixing(adapted, recipe, 7)
        assert found is not None
        assert (found.mixup, found.cutmix, found.seed) == (0.5, 0.0, 7)
        return
    with pytest.raises(ConfigError, match=said):
        mixing(adapted, recipe, 7)


class Named(nn.Module):
    """A head of class names that reads none of two letters."""

    def rename(self, names: Any) -> None:
        if any(len(name) == 2 for name in names):
            raise ConfigError("a name of two letters")

    def forget(self) -> None: ...


@pytest.mark.parametrize(("data", "said"), [("", "^a name"), ("birds", "^birds: a name")])
def test_class_names_that_a_head_cannot_read_are_told_with_their_data(data: str, said: str) -> None:
    loss = nn.ModuleList([nn.Sequential(Named())])
    adapted: Any = SimpleNamespace(head=nn.Identity(), plan=SimpleNamespace(losses=[loss]))
    AdaptedClassifier.name(adapted, ["a", "b"], data)
    with pytest.raises(ConfigError, match=said):
        AdaptedClassifier.name(adapted, ["a", "bb"], data)


@pytest.mark.parametrize(
    ("method", "classes", "said"),
    [
        ("linear-probe", 0, r"at least one name, each once, not 0\.$"),
        ("linear-probe", True, r"each once, not True\.$"),
        ("linear-probe", 1.5, r"each once, not 1\.5\.$"),
        ("linear-probe", "ab", r"a list of at least one name, each once, not 'ab'\.$"),
        ("linear-probe", ["a", ""], r"not \['a', ''\]\.$"),
        ("linear-probe", ["a", 1], r"not \['a', 1\]\.$"),
        ("linear-probe", ["a", "b", "a"], r"each once, not \['a', 'b', 'a'\]\.$"),
        ("ridge", 2, r"^The head of ridge is solved, not trained by gradient\."),
    ],
)
def test_a_module_has_classes_and_a_head_that_is_trained(
    method: str, classes: Any, said: str
) -> None:
    network = tiny.plain()
    with pytest.raises(ConfigError, match=said):
        petiole.adapt(network, method, classes=classes)
    with pytest.raises(ConfigError, match=r"^petiole\.adapt takes a backbone of images, not Linear\."):  # fmt: skip
        petiole.adapt(nn.Linear(1, 1), method, classes=2)  # type: ignore[arg-type]


def test_a_module_moves_with_its_backbone_and_learns_without_a_calibration() -> None:
    network = tiny.plain()
    made = petiole.adapt(network, "lora-qkv", classes=2)
    made.calibration = "known"  # type: ignore[assignment]
    assert made.eval().calibration == "known"  # type: ignore[comparison-overlap]
    assert made.train().calibration is None
    assert made.double() is made
    kinds = {p.dtype for part in (made, network.module) for p in part.parameters()}
    assert kinds == {torch.float64}
    assert made(torch.zeros(1, 3, *network.preprocessing.size, dtype=torch.float64)).dtype == torch.float64  # fmt: skip


def test_what_is_opened_as_a_module_is_a_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    other = SimpleNamespace(adapted=nn.Linear(1, 1), manifest=None)
    monkeypatch.setattr(module.ClassificationAdapter, "load", lambda *_, **__: other)
    with pytest.raises(AdapterError, match=r"^runs/a holds no classifier of images\.$"):
        module.load_adapter("runs/a")


@pytest.mark.parametrize(("ranks", "written"), [((2, 2), True), ((2, 3), False)])
def test_peft_has_one_rank_for_all(ranks: tuple[int, int], written: bool, tmp_path: Path) -> None:
    network = tiny.plain()
    attach = [
        Attach(f"block.{i}.attn.q", LowRank(network.width, rank), f"block.{i}.attn.in")
        for i, rank in enumerate(ranks)
    ]
    peft_folder._as_lora(attach, network, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == (
        {peft_folder.CONFIG, peft_folder.WEIGHTS} if written else set()
    )
    if written:
        assert json.loads((tmp_path / peft_folder.CONFIG).read_text()) == {
            "peft_type": "LORA", "base_model_name_or_path": network.name, "target_modules": ["blocks.0.attn.qkv", "blocks.1.attn.qkv"],
            "r": 2, "lora_alpha": 2.0, "use_dora": False, "inference_mode": True,
        }  # fmt: skip


def test_only_what_refines_has_a_cache_and_one_entry_is_read_by_all() -> None:
    adapter: Any = SimpleNamespace(
        adapted=SimpleNamespace(head=nn.Identity()), manifest=SimpleNamespace(method="ridge")
    )
    with pytest.raises(AdapterError, match=r"^ridge has no cache of local tokens\.$"):
        describe(adapter)
    assert read_entropy(torch.ones(3, 1)) == 0.0
    assert read_entropy(torch.full((3, 2), 0.5)) == 1.0


def test_updates_are_not_rounded_to_a_few_bits() -> None:
    adapted: Any = SimpleNamespace(
        backbone=SimpleNamespace(quantized="int8"),
        plan=SimpleNamespace(attach=(1,), tune=(), injected=None),
    )
    with pytest.raises(AdapterError, match=r"^This adapter was trained beside weights stored as int8"):  # fmt: skip
        merge.merge(adapted)


@pytest.mark.parametrize(("change", "refused"), [(2**-10, False), (1.1 * 2**-10, True), (float("nan"), True)])  # fmt: skip
def test_merging_may_change_logits_by_rounding_alone(change: float, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Logits of -3, relative to 1 + 3, by the weights that the merge changed alone."""
    own = {"a": torch.zeros(1), "b": torch.ones(1)}
    network: Any = SimpleNamespace(module=SimpleNamespace(named_parameters=own.items))
    plan = create("lora-qkv").plan(tiny.plain(), 3)
    adapted: Any = SimpleNamespace(backbone=network, plan=plan)
    made: list[Any] = []

    def model(given: Any, bare: Any) -> Any:
        made.append(SimpleNamespace(copies={"a": torch.zeros(1)}))
        assert given is network
        assert (bare.attach, bare.injected, bare.tune, bare.head) == ((), None, ("a",), plan.head)
        return made[0]

    monkeypatch.setattr(merge, "TOLERANCE", 2**-10)
    monkeypatch.setattr(merge, "AdaptedClassifier", model)
    monkeypatch.setattr(merge, "golden_logits", lambda one: torch.tensor([1.0, -3.0 + 4 * change * (one is not adapted)]))  # fmt: skip
    with pytest.raises(AdapterError, match=r"^Merged weights would give logits that differ by") if refused else nullcontext():  # fmt: skip
        merge._check(adapted, {**own, "a": torch.full((1,), 5.0)})
    assert made[0].copies["a"].tolist() == [5]


def test_a_library_that_leaves_more_than_weights_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    own = {"a": torch.zeros(1)}
    network: Any = SimpleNamespace(module=SimpleNamespace(state_dict=lambda: own))
    plan: Any = SimpleNamespace(injected=SimpleNamespace(product=nn.Linear(1, 1)))
    found = {"a": torch.ones(1)}
    monkeypatch.setattr(merge, "_library", lambda _: found)
    assert merge._start(network, plan) is found
    found["b"] = torch.ones(1)
    with pytest.raises(AdapterError, match=r"^The library that made Linear leaves more than weights"):  # fmt: skip
        merge._start(network, plan)


def needed(plan: Any, subset: Subset, source: Any) -> Any:
    """What a run reads, by name."""
    bench: Any = opened(
        shape=SimpleNamespace(vector="vector"), shift=SimpleNamespace(source=source),
        method_of=lambda _: SimpleNamespace(recipe="recipe"), plan_of=lambda _: plan,
        parts=lambda _: ("train", "test"),
    )  # fmt: skip
    return list(ClassificationWorkspace._needs(bench, RunSpec(TASK, "m", Path("f"), {}, subset)))


def test_what_a_run_reads_of_the_frozen_half() -> None:
    cut = lambda _, training=False: "trained" if training else "shown"  # noqa: E731
    plain = [("train", "trained", "recipe"), ("train", "vector", None), ("test", "vector", None), ("test", "shown", None)]  # fmt: skip
    plain = [(data, (at,) if at == "vector" else at, how) for data, at, how in plain]
    plan = SimpleNamespace(cut=cut, anchors=())
    assert needed(plan, Subset(), "source") == plain
    assert needed(plan, Subset(vectors=True), None) == plain
    assert needed(plan, Subset(vectors=True), "source") == [*plain, ("source", "shown", None)]
    anchored = SimpleNamespace(cut=cut, anchors=("anchor",))
    assert needed(anchored, Subset(), None) == [plain[0], ("train", ("anchor",), "recipe"), *plain[1:]]  # fmt: skip


def test_training_reads_anchors_and_a_teacher_beside_its_cut(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    from petiole.tasks.classification import workspace

    monkeypatch.setattr(workspace, "JoinedTable", lambda parts: parts)
    monkeypatch.setattr(workspace, "distillation_targets", lambda *given: ("taught", *given))
    bench: Any = opened(table=lambda *given: given, features="features", feature_seconds=0.0)

    def table(anchors: tuple[str, ...], teacher: str) -> Any:
        plan = SimpleNamespace(anchors=anchors, teacher=teacher)
        adapted: Any = SimpleNamespace(plan=plan, training_cut="cut")
        made = ClassificationWorkspace.training_table(bench, adapted, "data", "recipe")  # type: ignore[arg-type]
        return made, (ANCHOR, ("taught", "features", adapted, "data", "recipe"))

    own, anchors = ("", ("data", "cut", "recipe")), (ANCHOR, ("data", ("a",), "recipe"))
    assert table((), "")[0] == [own]
    assert table(("a",), "")[0] == [own, anchors]
    found, taught = table(("a",), "t")
    assert found == [own, anchors, taught]


def test_damaged_class_means_are_refused_also_where_their_length_is_right() -> None:
    import base64

    from pydantic import ValidationError

    from petiole.tasks.classification.novelty import Novelty

    means = base64.b64encode(np.ones(6, dtype="<f2").tobytes()).decode()
    assert Novelty(means=means, width=3, threshold=0.5).similarity(torch.ones(1, 3)).shape == (1,)
    with pytest.raises(ValidationError, match="base64"):
        Novelty(means=f"{means[:4]}*{means[4:]}", width=3, threshold=0.5)


def test_layers_of_peft_are_written_by_peft(tmp_path: Path) -> None:
    def save(folder: str) -> None:
        for name in (peft_folder.WEIGHTS, peft_folder.CONFIG, "README.md"):
            (Path(folder) / name).write_text(f"of {name}")

    plan = SimpleNamespace(injected=SimpleNamespace(product=SimpleNamespace(save_pretrained=save)))
    peft_folder.write(SimpleNamespace(plan=plan), tmp_path / "a/peft")  # type: ignore[arg-type]
    written = {file.name: file.read_text() for file in (tmp_path / "a/peft").iterdir()}
    assert written == {n: f"of {n}" for n in (peft_folder.WEIGHTS, peft_folder.CONFIG)}


class Asked(Exception):
    """Features were asked for."""


def test_a_cache_is_looked_into_without_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def features(*given: Any, **more: Any) -> Any:
        asked.append((given, more))
        raise Asked

    monkeypatch.setattr(refiner_cache, "Features", features)
    monkeypatch.setattr(refiner_cache, "open_data", lambda _: images("p", [0, 1]))
    backbone = SimpleNamespace(vector="vector", patches="patches")
    head: Any = object.__new__(RefinedByImage)
    adapted = SimpleNamespace(backbone=backbone, cut="cut", head=head, attached=nullcontext)
    adapter: Any = SimpleNamespace(adapted=adapted)
    cache: Any = SimpleNamespace(entries=torch.eye(2))
    for look in (
        lambda: refiner_cache._queries(adapter, Path("p")),
        lambda: refiner_cache._changed(adapter, head, cache, Path("p")),
        lambda: refiner_cache._among(adapter, nn.Identity(), cache, Path("p")),  # type: ignore[arg-type]
    ):
        with pytest.raises(Asked):
            look()
        assert asked.pop() == ((backbone, None), {"quiet": True})


def test_without_onnx_runtime_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"^ONNX Runtime cannot be imported \(.*onnxruntime.*\)\. Install: pip"):  # fmt: skip
        session.onnxruntime()


@pytest.mark.parametrize(("curved", "refused"), [(0.1, False), (10.0, True)])
def test_a_head_is_linear_up_to_rounding_of_its_own_logits(curved: float, refused: bool) -> None:
    class Head(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 1e4 * x[:, :2] + 1e4 * curved * plain.CLOSE * (x[:, 2:4] ** 2).clamp(max=1)

    plan = SimpleNamespace(reads=("v",), pool=nn.Identity(), refine=nn.Identity(), head=Head())
    adapted: Any = SimpleNamespace(plan=plan, backbone=SimpleNamespace(vector="v", width=5))
    with pytest.raises(AdapterError, match="is no linear map") if refused else nullcontext():
        weight, bias = plain.linear_head(adapted)
        assert torch.allclose(weight, 1e4 * torch.eye(5)[:2], atol=1.0)
        assert bias.tolist() == [0, 0]


def test_a_teacher_answers_every_view(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    teacher = SimpleNamespace(head=object.__new__(ClassVectors), name=lambda *given: asked.append(given), backbone="theirs", cut="cut")  # fmt: skip
    table = lambda *given: asked.append(given) or "table"  # noqa: E731
    monkeypatch.setattr(targets.ClassificationAdapter, "load", lambda *_, **__: SimpleNamespace(adapted=teacher))  # fmt: skip
    monkeypatch.setattr(targets, "Features", lambda *given: asked.append(given) or SimpleNamespace(table=table))  # fmt: skip
    monkeypatch.setattr(targets, "views_of", lambda _: (2, "crops"))
    monkeypatch.setattr(targets, "_logits", lambda by, given, rows, index: torch.stack([10.0 * index + rows] * 2, 1) if (by, given) == (teacher, "table") else None)  # fmt: skip
    features: Any = SimpleNamespace(device=torch.device("cpu"), cache="c", precision="p", dtype="d")
    adapted: Any = SimpleNamespace(plan=SimpleNamespace(teacher="t"), head=nn.Identity())
    data = images("t", [0, 1, 0])
    made = targets.distillation_targets(features, adapted, data, "recipe")  # type: ignore[arg-type]
    assert asked == [(data.classes, "t"), ("theirs", "c", "p", "d"), (data, "cut", 2, "crops")]
    rows, views = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 2])
    assert made.fetch(rows, views)["logits"].tolist() == [[2, 2], [10, 10], [21, 21]]


def test_a_drop_from_zero_shot_is_of_both_on_the_other_classes(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    named: list[Any] = []

    class Model:
        def __init__(self, *right: int) -> None:
            self.right = right

        def to(self, device: str) -> Model:
            assert device == "cpu"
            return self

        def name(self, classes: Any) -> None:
            named.append((self.right, tuple(classes)))

    novel = images("n", [0, 1, 1, 0])
    bare = Model(0, 1, 1, 0)
    monkeypatch.setattr(contract, "as_dataset", lambda given: novel if given == Path("n") else None)
    monkeypatch.setattr(contract, "create", lambda name: SimpleNamespace(plan=lambda *given: (name, *given)))  # fmt: skip
    monkeypatch.setattr(contract, "AdaptedClassifier", lambda network, plan: bare if plan == ("zero-shot", network, 2) else None)  # fmt: skip
    monkeypatch.setattr(contract, "logits_of", lambda model, samples: torch.eye(2)[list(model.right[: len(samples)])])  # fmt: skip
    adapted: Any = Model(1, 1, 0, 0)
    adapted.backbone = SimpleNamespace(device="cpu")
    judged: Any = SimpleNamespace(adapter=SimpleNamespace(adapted=adapted, classes=["a", "b"]))
    clause: Any = SimpleNamespace(images=Path("n"), max_drop=0.1)
    line = contract.ContractTest._zero_shot(judged, clause)
    share = float((torch.tensor([1, 1, 0, 0]).numpy() == novel.labels).mean())
    whole = float((torch.tensor([0, 1, 1, 0]).numpy() == novel.labels).mean())
    assert (line.name, line.value, line.bound, line.at_least, line.images) == ("drop from zero-shot on n", whole - share, 0.1, False, 4)  # fmt: skip
    assert whole != share
    assert named == [(bare.right, ("x", "y")), (adapted.right, ("x", "y")), (adapted.right, ("a", "b"))]  # fmt: skip

"""Passes beside training that are to be as in prediction, and which images the leak check will compare."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from builders.comparisons import QUIET, TASK, images, opened
from petiole.backbones.frozen_network import IMAGES
from petiole.engine.feature_extractor import Features
from petiole.engine.feature_store import FeatureCache
from petiole.engine.run import RunSpec
from petiole.errors import AdapterError
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.methods.test_time.base import FrozenClassifier
from petiole.tasks.classification import distillation_targets as targets
from petiole.tasks.classification import spectrum, training, workspace
from petiole.tasks.classification.export import network as network_of
from petiole.tasks.classification.export.network import traced
from petiole.tasks.classification.export.plain import linear_head
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.tasks.text.model import AdaptedTextModel
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips
from petiole.testing import encoder_decoder as languages
from petiole.testing.random_weights import seeded, shaken
from petiole.testing.text_methods import TextCase


def test_a_batch_again_is_as_in_prediction_and_leaves_the_mode(tmp_path: Path) -> None:  # noqa: ARG001
    network = tiny.plain()
    adapted = AdaptedClassifier(network, create("lora-qkv", {"dropout": 0.5}).plan(network, 3))
    tiny.shaken(adapted)
    loss = ClassificationLoss(adapted, 0.5, 0.0).train()
    batch = {IMAGES: torch.rand(2, 3, *network.preprocessing.size)}
    with torch.no_grad():
        drops = [adapted(batch).logits for _ in range(2)]
        calm = [loss._again(batch).logits for _ in range(2)]
        assert adapted.training
        wanted = adapted.eval()(batch).logits
    assert not torch.equal(*drops)
    assert torch.equal(calm[0], wanted)
    assert torch.equal(calm[1], wanted)


def test_what_is_exported_is_as_in_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"lora": True, "lora_dropout": 0.5, "post_norm": "none"}
    network = tiny.plain()
    adapted = AdaptedClassifier(network, create("linear-probe", settings).plan(network, 3))
    with seeded():
        shaken(adapted)
    one, other = linear_head(adapted.train()), linear_head(adapted.eval())
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    modes: list[bool] = []

    calls: list[Any] = []
    monkeypatch.setattr(network_of.Classifier, "forward", lambda _, pixels: calls.append(tuple(pixels.shape)))  # fmt: skip

    def export(given: nn.Module, *_: object, **__: object) -> None:
        assert calls == [(2, 3, 28, 28)], "class vectors are known before"
        assert not torch.is_grad_enabled()
        assert network.carries, "the adapter is at work"
        modes.extend(part.training for part in given.modules())
        raise RuntimeError("enough")

    monkeypatch.setattr(torch.export, "export", export)
    with pytest.raises(AdapterError, match="enough"):
        traced(adapted.train())
    assert modes
    assert not any(modes)


def test_a_language_model_that_drops_out_rests_after_each_pass() -> None:
    network = languages.model("bart")
    adapted = AdaptedTextModel(network, create("vl-adapter").plan(network), dropout=True).train()
    language, modes = network.module.language, []
    handle = language.register_forward_pre_hook(lambda *_: modes.append(language.training))
    encoder = language.get_encoder().register_forward_pre_hook(lambda *_: modes.append(language.training))  # fmt: skip
    batch = TextCase("vl-adapter", "bart").batch()
    adapted(batch.inputs, batch.labels, batch.tasks)
    assert modes[0]
    assert all(modes)
    assert not any(part.training for part in language.modules())
    handle.remove()
    encoder.remove()


def test_a_teacher_before_its_first_step_does_not_drop_out() -> None:
    network = tiny.plain()
    bench: Any = SimpleNamespace(backbone=network, shift=SimpleNamespace(classes="abc"), features=SimpleNamespace(device="cpu"))  # fmt: skip
    fresh = spectrum._untrained(bench, RunSpec(TASK, "lora-qkv", Path("f"), {"dropout": 0.5}))
    assert not any(part.training for part in fresh.modules())


def test_thumbnails_are_of_target_images(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []
    monkeypatch.setattr(workspace, "store_thumbnails", lambda cache, given, **more: kept.append((cache, sorted(one.id for one in given), more)))  # fmt: skip
    parts = (images("s", [0, 1], domain="source"), images("t", [0, 1]), images("u", [1]))
    bench = opened(
        task=TASK, features=SimpleNamespace(cache="cache"), parts=lambda _: parts, _needs=lambda _: (),
    )  # fmt: skip
    object.__setattr__(bench, "task", SimpleNamespace(cache=Path("c"), quiet=True))
    bench.store([RunSpec(TASK, "ridge", Path("f"))], "share")
    assert kept == [("cache", ["t0", "t1", "u0"], {"share": "share", "quiet": True})]


def test_the_leak_check_computes_both_sides_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Eight and eight images are one chunk of sixteen; one after the other each would be filled up to one."""
    network = tiny.plain()
    features = Features(network, FeatureCache(tmp_path), quiet=True)
    height, width = network.preprocessing.size
    monkeypatch.setattr(features, "read", lambda chosen, _: torch.zeros(len(chosen), 3, height, width))  # fmt: skip
    chunks: list[int] = []
    lower = network.lower
    monkeypatch.setattr(network, "lower", lambda batch, cut: chunks.append(len(batch)) or lower(batch, cut))  # fmt: skip
    monkeypatch.setattr(workspace, "stored_thumbnails", lambda *_, **__: None)
    monkeypatch.setattr(workspace, "find_leaks", lambda *_, features, **__: [len(part) for part in features])  # fmt: skip
    bench = opened(features=features, backbone=network, _leaks={}, feature_seconds=0.0, task=QUIET)
    assert bench.leaks(images("t", [0] * 8), images("u", [1] * 8)) == [8, 8]
    assert chunks == [16]
    assert bench.feature_seconds > 0


def test_what_a_teacher_says_has_no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its prompts could be trained, and the student's targets hold nothing of it."""
    network = clips.towers()
    teacher = AdaptedClassifier(network, create("coop", {}).plan(network, 3))
    teacher.name(("a", "b", "c"))
    with teacher.attached():
        assert teacher.head.embeddings().requires_grad  # type: ignore[union-attr]
    vectors: list[Any] = []

    class Student(nn.Module):
        def learn(self, embeddings: Tensor, _: Any) -> None:
            vectors.append(embeddings)

    class Rows:
        def fetch(self, rows: Tensor, _: Tensor) -> Any:
            return {cut: torch.rand(len(rows), *shape) for cut, shape in given.items()}

    with torch.no_grad():
        state = teacher.backbone.lower(tiny.images(teacher.backbone), teacher.cut)
    given = {cut: tuple(value.shape[1:]) for cut, value in state.items()}
    monkeypatch.setattr(targets.ClassificationAdapter, "load", lambda *_, **__: SimpleNamespace(adapted=teacher))  # fmt: skip
    monkeypatch.setattr(targets, "TaughtByClassVectors", Student)
    monkeypatch.setattr(targets, "Features", lambda *_: SimpleNamespace(table=lambda *_: Rows()))
    features: Any = SimpleNamespace(
        device=torch.device("cpu"), cache=None, precision="fp32", dtype=None
    )
    student: Any = SimpleNamespace(plan=SimpleNamespace(teacher="t"), head=Student())
    recipe = create("promptkd").recipe
    table = targets.distillation_targets(features, student, images("x", [0, 1, 2], ("a", "b", "c")), recipe)  # fmt: skip
    (learned,) = vectors
    assert learned.shape[0] == 3
    assert not learned.requires_grad
    rows = torch.arange(3)
    said = table.fetch(rows, torch.zeros_like(rows))["logits"]
    assert said.shape == (3, 3)
    assert not said.requires_grad


def test_copies_of_a_classifier_that_rests_get_no_gradient() -> None:
    network = tiny.plain()
    plan = create("full").plan(network, 3)
    own = dict(network.module.named_parameters())
    copies = {name: own[name].clone().requires_grad_() for name in plan.tune}
    resting = FrozenClassifier(network, plan, copies)
    assert resting.copies.keys() == copies.keys()
    assert not any(copy.requires_grad for copy in resting.copies.values())


@pytest.mark.parametrize("fails", [False, True])
def test_a_batch_again_leaves_no_class_vectors_behind(fails: bool) -> None:
    done: list[Any] = []

    class Adapted:
        training = True

        def eval(self) -> None:
            done.append("eval")

        def train(self, mode: bool) -> None:
            done.append(mode)

        def _enter(self) -> None:
            done.append("forget")

        def __call__(self, state: str) -> str:
            done.append(state)
            if fails:
                raise KeyError
            return "output"

    loss: Any = SimpleNamespace(adapted=Adapted())
    with pytest.raises(KeyError) if fails else nullcontext():
        assert ClassificationLoss._again(loss, "state") == "output"  # type: ignore[arg-type,comparison-overlap]
    assert done == ["eval", "forget", "state", "forget", True]


def test_seconds_of_the_frozen_half_are_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    times, asked = iter([5.0, 7.0, 10.0, 13.0]), list[Any]()
    monkeypatch.setattr(workspace, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    store = lambda samples, cut: asked.append(([one.id for one in samples], cut))  # noqa: E731
    bench = opened(feature_seconds=1.0, backbone=SimpleNamespace(vector="v"), features=SimpleNamespace(store=store))  # fmt: skip
    bench._store_vectors(images("t", [0, 1]), images("u", [0]))
    assert bench.feature_seconds == 3.0
    assert bench._timed(lambda: "table") == "table"
    assert bench.feature_seconds == 6.0
    assert asked == [(["t0", "t1", "u0"], ("v",))]


def test_class_vectors_are_made_anew_whenever_an_adapter_is_put_on() -> None:
    """Its weights may have changed since; within, they are kept."""
    forgotten: list[int] = []
    network = tiny.plain()
    adapted = AdaptedClassifier(network, create("linear-probe").plan(network, 2))
    adapted.head.rename, adapted.head.forget = print, lambda: forgotten.append(1)  # type: ignore[assignment]
    for times in (1, 2):
        with adapted.attached(), adapted.attached():
            assert len(forgotten) == times


def test_what_is_trained_may_begin_elsewhere_than_what_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    network = tiny.plain()
    plan = create("linear-probe").plan(network, 2)
    monkeypatch.setattr(type(plan), "cut", lambda _, backbone, training=False: (backbone, training))
    adapted = AdaptedClassifier(network, plan)
    assert (adapted.cut, adapted.training_cut) == ((network, False), (network, True))
    loss = ClassificationLoss(adapted, 0.5, 0.0, torch.ones(2))
    assert loss.class_weights is not None
    assert "class_weights" not in loss.state_dict(), "they are the data's"


def test_a_training_without_steps_is_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    monkeypatch.setattr(training, "_start", lambda *given: begun.append(given))
    adapted: Any = nn.Sequential(nn.Dropout()).train()
    adapted.head, adapted.plan = nn.Linear(1, 1), SimpleNamespace(search=None)
    data = images("t", [0, 1])
    training.train(adapted, data, "table", recipe := Recipe(steps=0), seed=0)  # type: ignore[arg-type]
    assert begun == [(adapted, data, "table", recipe.resolved(2, 2))]
    assert not any(part.training for part in adapted.modules())

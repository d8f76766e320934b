"""Passes beside training that are to be as in prediction, and which images the leak check will compare."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders.comparisons import TASK, images, opened
from petiole.backbones.base import IMAGES
from petiole.engine.run import RunSpec
from petiole.methods.registry import create
from petiole.tasks.classification import spectrum, workspace
from petiole.tasks.classification.model import AdaptedClassifier, ClassificationLoss
from petiole.testing import backbones as tiny


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

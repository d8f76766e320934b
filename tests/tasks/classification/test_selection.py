"""The best step by held-back images, early stopping, and mixed batches."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from petiole.backbones.frozen_network import IMAGES
from petiole.data.dataset import Dataset
from petiole.errors import ConfigError, DataError
from petiole.methods.registry import create
from petiole.tasks.classification import training
from petiole.tasks.classification.mixing import Mixing
from petiole.tasks.classification.model import AdaptedClassifier


def fit(
    kit: SimpleNamespace, callbacks: training.Callbacks, method: str = "cosine", **settings: object
) -> AdaptedClassifier:
    chosen = create(method, {"steps": 40, "views": 0, "lr": 0.01, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = AdaptedClassifier(kit.backbone, chosen.plan(kit.backbone, len(kit.data.classes)))
        training.train(adapted, kit.data, kit.table, chosen.recipe, seed=0, callbacks=callbacks)
    return adapted


def quiet(**fields: object) -> training.Callbacks:
    return training.Callbacks(quiet=True, **fields)


BEST = {"select": "best", "held_back": 0.34}


def test_patience_ends_a_training_that_gets_worse(kit: SimpleNamespace) -> None:
    """Labels of the held-back images contradict the others, so every step that learns makes them worse."""
    steps: list[int] = []
    callbacks = quiet(log=lambda step, *_: steps.append(step))
    fit(kit, callbacks, "source-only", lr=0.05, steps=400, patience=2, warmup=0.0, **BEST)
    assert "stopped early" in callbacks.selection
    assert "of 400: lowest held-back log-loss" in callbacks.selection
    assert max(steps) < 399


def test_the_best_step_is_what_is_left(kit: SimpleNamespace) -> None:
    callbacks = quiet()
    best = fit(kit, callbacks, "source-only", lr=0.05, **BEST)
    step = int(callbacks.selection.split()[1])
    assert 0 < step < 40
    last = fit(kit, quiet(), "source-only", lr=0.05)
    assert not torch.equal(best.head.weight, last.head.weight)


@pytest.mark.parametrize("extra", [{}, {"average_decay": 0.9}, {"mixup": 0.4}])
def test_selection_resumes_to_the_same_bits(
    kit: SimpleNamespace, tmp_path: Path, extra: dict[str, object]
) -> None:
    def stop(step: int, *_: float) -> None:
        if step == 20:
            raise KeyboardInterrupt

    whole = quiet()
    want = fit(kit, whole, **BEST, **extra).state_dict()
    file = tmp_path / "checkpoint.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(kit, quiet(log=stop, checkpoint=file, every=0.0), **BEST, **extra)
    again = quiet(checkpoint=file, every=0.0)
    got = fit(kit, again, **BEST, **extra).state_dict()
    assert all(torch.equal(got[name], value) for name, value in want.items())
    assert any(bool(value.any()) for value in want.values())
    assert again.selection == whole.selection


@pytest.mark.parametrize(
    ("method", "settings", "says"),
    [
        ("ridge", {"steps": 5}, "takes none: set select=last"),
        ("cosine", {"steps": 0}, "takes none: set select=last"),
    ],
)
def test_nothing_to_choose_from_is_an_error(
    kit: SimpleNamespace, method: str, settings: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        fit(kit, quiet(), method, **settings, **BEST)


def test_one_image_a_class_cannot_be_held_back(
    kit: SimpleNamespace, dataset: Callable[..., Dataset]
) -> None:
    kit.data = dataset(12, 1)
    with pytest.raises(DataError, match="select=best holds back target images"):
        fit(kit, quiet(), **BEST)


def test_patience_without_a_best_step_is_an_error() -> None:
    with pytest.raises(ConfigError, match="set select=best, or patience=0"):
        create("cosine", {"patience": 3})


def test_mixup_is_a_weighted_mean_and_depends_on_seed_and_step_alone() -> None:
    mix = Mixing(0.5, 0.0, seed=3)
    x = torch.arange(12.0).reshape(6, 2)
    labels, is_target = torch.arange(6), torch.tensor([True, False] * 3)
    state, _, _, partner = mix(7, {"final.cls": x}, labels, is_target)
    want = partner.share * x + (1 - partner.share) * x[partner.labels]
    torch.testing.assert_close(state["final.cls"], want)
    assert torch.equal(partner.is_target, is_target[partner.labels])
    again = mix(7, {"final.cls": x}, labels, is_target)
    assert again[3].share == partner.share
    assert mix(8, {"final.cls": x}, labels, is_target)[3].share != partner.share


def test_cutmix_pastes_as_much_as_its_share_says() -> None:
    images = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16)
    labels = torch.arange(4)
    for step in range(20):
        state, _, _, partner = Mixing(0.0, 1.0, seed=0)(
            step, {IMAGES: images}, labels, torch.ones(4, dtype=torch.bool)
        )
        for i, (own, other) in enumerate(zip(labels, partner.labels, strict=True)):
            if own != other:
                kept = float((state[IMAGES][i] == own).float().mean())
                assert kept == pytest.approx(partner.share, abs=1e-6)
    assert np.isfinite(partner.share)


def test_mixing_says_where_it_cannot_be(kit: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="Alignment takes one: set mixup=0"):
        fit(kit, quiet(), "cls-residual-lora", mixup=0.2)
    with pytest.raises(ConfigError, match="CutMix pastes pixels"):
        fit(kit, quiet(), cutmix=0.2)


def test_mixed_batches_change_what_is_learned(kit: SimpleNamespace) -> None:
    plain, mixed = fit(kit, quiet()), fit(kit, quiet(), mixup=0.4)
    assert not torch.equal(plain.head.weight, mixed.head.weight)

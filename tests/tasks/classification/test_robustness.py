"""What eval says of attacks and corruptions, and which of them it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import petiole
from builders.comparisons import images
from builders.images import write_images
from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError
from petiole.methods.adversary import attack, perturb
from petiole.tasks.classification import robustness
from petiole.tasks.classification.model import Predictions


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images and an adapter whose head is solved on them."""
    root = tmp_path_factory.mktemp("robustness")
    write_images(root / "photos", 3, seed=0)
    petiole.fit(
        root / "photos", backbone="petiole/tiny-vit", method="ridge", out=root / "run", quiet=True
    )
    return root


def test_eval_says_what_is_left(place: Path) -> None:
    found = petiole.evaluate(
        place / "run",
        place / "photos",
        attack="pgd",
        epsilon="8/255",
        attack_steps=3,
        corrupt=["contrast", "pixelate"],
        severity=[5],
    )
    corrupted = ["contrast 5", "pixelate 5", "mean of the corruptions"]
    assert list(found.scores) == ["test", *corrupted, "pgd, 8/255"]
    one, two, mean = (found.scores[name]["accuracy"] for name in corrupted)
    assert mean == pytest.approx((one + two) / 2)
    assert found.scores["pgd, 8/255"]["accuracy"] < found.scores["test"]["accuracy"]
    none = petiole.evaluate(place / "run", place / "photos", attack="fgsm", epsilon=0)
    assert none.scores["fgsm, 0"]["accuracy"] == none.scores["test"]["accuracy"]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"attack": "pdg"}, "pgd"),
        ({"attack": "fgsm", "attack_steps": 3}, "fgsm"),
        ({"attack": "pgd", "attack_steps": 0}, "at least 1"),
        ({"attack": "pgd", "epsilon": "1/0"}, "4/255"),
        ({"attack": "pgd", "epsilon": 2}, "scale 0 to 1"),
        ({"attack": "pgd", "epsilon": "1e999999999"}, "scale 0 to 1"),
        ({"epsilon": 0.1}, "--attack pgd"),
        ({"corrupt": ["rain"]}, "corruption"),
        ({"corrupt": ["fog"], "severity": [6]}, "1 to 5"),
        ({"severity": [1]}, "--corrupt all"),
    ],
)
def test_what_makes_no_attack_is_refused(place: Path, options: dict, found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        petiole.evaluate(place / "run", place / "photos", **options)


def test_a_loss_without_a_gradient_to_the_pixels_says_so() -> None:
    stated = Preprocessing.symmetric(8)
    with pytest.raises(ConfigError, match="no gradient to the pixels"):
        perturb(lambda x: x.detach().sum(), torch.zeros(1, 3, 8, 8), stated, 0.1, attack("pgd"))


def test_each_batch_is_attacked_by_its_summed_loss_and_moves_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """Pixels are logits: the attack of a batch adds its loss to all of them."""
    told: list[Any] = []

    @contextmanager
    def bar(*given: Any, quiet: bool) -> Iterator[Any]:
        told.append((*given, quiet))
        yield told.append

    def changed(loss: Any, pixels: Any, *how: Any) -> Any:
        told.append(how)
        return pixels + loss(pixels)

    class Model(nn.Module):
        backbone = SimpleNamespace(preprocessing="how", device="cpu")

        def forward(self, state: Any) -> Any:
            assert not self.training
            return SimpleNamespace(logits=state["images"])

    z, labels = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 1.0]]), torch.tensor([0, 0, 1])
    batches = [(z[:2], labels[:2]), (z[2:], labels[2:])]
    monkeypatch.setattr(robustness, "progress", bar)
    monkeypatch.setattr(robustness, "perturb", changed)
    monkeypatch.setattr(robustness, "_batches", lambda model, samples: batches if samples == data.samples else [])  # noqa: ARG005  # fmt: skip
    monkeypatch.setattr(robustness, "predict", lambda model, states: Predictions(states[0]["images"], model(states[0]).logits))  # fmt: skip
    data, model = images("t", [0, 0, 1]), Model().train()
    found = robustness.logits_under_attack(model, data, "pgd", 0.1, quiet=True)  # type: ignore[arg-type]
    nll = -z.log_softmax(1)[range(3), labels]
    wanted = torch.cat([z[:2] + nll[:2].sum(), z[2:] + nll[2:].sum()])
    torch.testing.assert_close(found, wanted)
    assert told == [("attack", 3, True), ("how", 0.1, "pgd"), 2, ("how", 0.1, "pgd"), 1]
    assert model.training


def test_images_are_read_in_batches_with_their_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robustness, "BATCH", 2)
    monkeypatch.setattr(robustness, "load", lambda sample: float(sample.id[1:]))
    monkeypatch.setattr(robustness, "evaluate_transform", lambda how: torch.tensor if how == "how" else None)  # fmt: skip
    adapted: Any = SimpleNamespace(backbone=SimpleNamespace(preprocessing="how", device="cpu"))
    data = images("t", [1, 0, 1])
    found = [(x.tolist(), y.tolist()) for x, y in robustness._batches(adapted, data.samples)]
    order = [float(one.id[1:]) for one in data.samples]
    assert found == [(order[:2], [0, 1]), (order[2:], [1])]


@pytest.mark.parametrize(("names", "levels"), [(["fog", "snow"], [1, 3]), (["fog"], [1])])
def test_corruptions_are_scored_one_by_one_and_several_in_the_mean(names: list[str], levels: list[int], monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    data = images("t", [0, 1, 1, 1])
    monkeypatch.setattr(robustness, "corruption", lambda name, level: (name, level))
    monkeypatch.setattr(robustness, "logits_of", lambda _, samples, change: 5 * torch.eye(2)[[0, *[1] * (change[1] - 1), *[0] * (4 - change[1])]] if samples == data.samples else None)  # fmt: skip
    found = robustness.under_corruptions("model", data, names, levels)  # type: ignore[arg-type]
    keys = [f"{name} {level}" for name in names for level in levels]
    several = len(keys) > 1
    assert list(found) == [*keys, *[robustness.MEAN] * several]
    assert [found[key]["accuracy"] for key in keys] == [{1: 0.25, 3: 0.75}[int(key[-1])] for key in keys]  # fmt: skip
    if several:
        for score, mean in found[robustness.MEAN].items():
            assert mean == pytest.approx(sum(found[key][score] for key in keys) / len(keys))

"""What eval says of attacks and corruptions, and which of them it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import petiole
from builders.images import write_images
from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError
from petiole.methods.adversary import attack, perturb


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

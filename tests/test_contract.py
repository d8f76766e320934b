"""The contracts, walked over every registered method on every tiny model of its kind, and over every backbone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from builders.snapshot import kept_row
from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.registry import create, methods
from petiole.testing import backbones as tiny
from petiole.testing import check_method
from petiole.testing.image_case import ImageCase
from petiole.testing.methods import FAMILIES, carries

LEDGERS = Path(__file__).with_name("known_ledgers.json")
"""What is counted, as it was when it was last looked into; ``PETIOLE_SNAPSHOT=1`` writes it anew after a change that is meant."""
OWN = {name for name, e in methods().items() if e.cls.__module__.startswith("petiole.")}
FRESH = {name: build() for name, build in tiny.TIMM.items()}
LIKE = {"dinov2": "vit"}
"""Backbones that need a folder carry what these do."""
ALL = [(method, backbone) for method in methods() for backbone in tiny.NAMES]
WALK = [pair for pair in ALL if carries(FRESH[LIKE.get(pair[1], pair[1])], pair[0])]
OTHERS = [
    (name, family)
    for name, entry in methods().items()
    if entry.cls.adapts != "images"
    for family in FAMILIES[entry.cls.adapts]
]


@pytest.mark.parametrize(("method", "backbone"), [*WALK, *OTHERS])
def test_contract(method: str, backbone: str) -> None:
    assert check_method(method, [backbone]) == (backbone,)


@pytest.mark.parametrize(
    ("method", "backbone"), [pair for pair in ALL if pair not in WALK and pair[1] in FRESH]
)
def test_a_method_that_a_backbone_cannot_carry_says_so(method: str, backbone: str) -> None:
    with pytest.raises(ConfigError, match=r"has none\. Use a (ViT|CLIP|codebook)"):
        create(method).plan(FRESH[backbone], 3)


@pytest.mark.parametrize(("method", "backbone"), WALK)
def test_the_ledger_of_the_shape_is_that_of_the_weights(
    method: str, backbone: str, tmp_path: Path
) -> None:
    real = tiny.build(backbone, tmp_path)
    shape = tiny.build(backbone, tmp_path)
    shape.module.to("meta")
    assert shape.is_meta
    counted = ledger(real, create(method), 3)
    assert ledger(shape, create(method), 3) == counted
    now = {name: value for name, value in counted if type(value) is int and value}
    if method in OWN:
        assert kept_row(LEDGERS, f"{method} on {backbone}", now) == now


def test_one_adapter_serves_two_threads(tmp_path: Path) -> None:
    """A thread that comes while another has the adapter on still gets the adapter's answer."""
    pair = ImageCase("houlsby", tiny.plain(), tmp_path)
    adapted = pair.trained
    want, got = pair.logits(adapted), list[torch.Tensor]()
    second = threading.Thread(target=lambda: got.append(pair.logits(adapted)))
    with adapted.attached():
        second.start()
        second.join(0.3)
    second.join()
    assert torch.equal(got[0], want)

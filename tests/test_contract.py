"""The contract, walked over every registered method on every tiny backbone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

import backbones_for_tests as tiny
import contract
from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.registry import create, methods

FRESH = {name: build() for name, build in tiny.TIMM.items()}
LIKE = {"dinov2": "vit"}
"""Backbones that need a folder carry what these do."""
ALL = [(method, backbone) for method in methods() for backbone in tiny.NAMES]
WALK = [pair for pair in ALL if tiny.carries(FRESH[LIKE.get(pair[1], pair[1])], pair[0])]


@pytest.mark.parametrize(("method", "backbone"), WALK)
def test_contract(method: str, backbone: str, tmp_path: Path) -> None:
    backbone_of_its_own = tiny.build(backbone, tmp_path / "model")
    contract.check(contract.Pair(method, backbone_of_its_own, tmp_path / "adapter"))


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
    assert ledger(shape, create(method), 3) == ledger(real, create(method), 3)


def test_one_adapter_serves_two_threads(tmp_path: Path) -> None:
    """A thread that comes while another has the adapter on still gets the adapter's answer."""
    pair = contract.Pair("houlsby", tiny.plain(), tmp_path)
    adapted = pair.trained
    want, got = pair.logits(adapted), list[torch.Tensor]()
    second = threading.Thread(target=lambda: got.append(pair.logits(adapted)))
    with adapted.attached():
        second.start()
        second.join(0.3)
    second.join()
    assert torch.equal(got[0], want)

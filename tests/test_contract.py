"""The contract, walked over every registered method on every tiny backbone."""

from __future__ import annotations

from pathlib import Path

import backbones_for_tests as tiny
import contract
import pytest

from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.registry import create, methods

NEED_BLOCKS = {"lora-qkv", "houlsby"}
WALK = [
    (method, backbone)
    for method in methods()
    for backbone in tiny.NAMES
    if not (method in NEED_BLOCKS and backbone == "resnet")
]


@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize(("method", "backbone"), WALK, ids=lambda name: str(name))
def test_contract(method: str, backbone: str, check: contract.Callable, tmp_path: Path) -> None:  # type: ignore[type-arg]
    check(contract.Pair(method, tiny.build(backbone, tmp_path / "model"), tmp_path / "adapter"))


@pytest.mark.parametrize("method", sorted(NEED_BLOCKS))
def test_a_method_that_a_backbone_cannot_carry_says_so(method: str) -> None:
    with pytest.raises(ConfigError, match=r"test/resnet has none\. Use a ViT, or"):
        create(method).plan(tiny.resnet(), 3)


@pytest.mark.parametrize(("method", "backbone"), WALK, ids=lambda name: str(name))
def test_the_ledger_of_the_shape_is_that_of_the_weights(
    method: str, backbone: str, tmp_path: Path
) -> None:
    real = tiny.build(backbone, tmp_path)
    shape = tiny.build(backbone, tmp_path)
    shape.module.to("meta")
    assert shape.is_meta
    assert ledger(shape, create(method), 3) == ledger(real, create(method), 3)

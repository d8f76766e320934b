"""The contracts, walked over every registered method, and over every backbone.

A contract on every pair of a method and an image backbone would prove most things many times: adapters of nearly the
same shape at the same roles meet the same code of the backbone. So every method is checked on the first backbone that
carries it, and on every other one where it is the first to use a kind of module, role or weight (``_uses``).
``check_method(name)`` walks all of a method's backbones.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.registry import create, methods
from petiole.testing import backbones as tiny
from petiole.testing import check_method
from petiole.testing.image_case import ImageCase
from petiole.testing.methods import FAMILIES, carries

FRESH = {name: build() for name, build in tiny.TIMM.items()}
LIKE = {"dinov2": "vit"}
"""Backbones that need a folder carry what these do."""
ALL = [(method, backbone) for method in methods() for backbone in tiny.NAMES]
CARRIED = [pair for pair in ALL if carries(FRESH[LIKE.get(pair[1], pair[1])], pair[0])]


def _uses(method: str, backbone: str) -> set[str]:
    """Kinds of modules that a plan has, and of the roles and weights that it touches, whatever the block's number."""
    plan = create(method).plan(FRESH[LIKE.get(backbone, backbone)], 3)
    names = [*(a.role for a in plan.attach), *plan.reads, *plan.tune, *plan.swapped]
    modules = {type(module).__name__ for part in plan.modules() for module in part.modules()}
    return modules | {re.sub(r"\d+", "N", name) for name in names}


def _cover() -> Iterator[tuple[str, str]]:
    """Of ``CARRIED`` what the module's docstring says."""
    methods_seen, used = set[str](), defaultdict[str, set[str]](set)
    for method, backbone in CARRIED:
        uses = _uses(method, backbone)
        if method not in methods_seen or not uses <= used[backbone]:
            yield method, backbone
        methods_seen.add(method)
        used[backbone] |= uses


WALK = list(_cover())
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
    ("method", "backbone"), [pair for pair in ALL if pair not in CARRIED and pair[1] in FRESH]
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
    pair = ImageCase("houlsby", tiny.plain(), tmp_path)
    adapted = pair.trained
    want, got = pair.logits(adapted), list[torch.Tensor]()
    second = threading.Thread(target=lambda: got.append(pair.logits(adapted)))
    with adapted.attached():
        second.start()
        second.join(0.3)
    second.join()
    assert torch.equal(got[0], want)

"""What all tests share: helpers importable by name, one thread, a backbone of every family."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import gettempdir

import pytest
import torch

from petiole.allocator import tune_collector
from petiole.backbones.base import Backbone
from petiole.testing import backbones as tiny

pytest_plugins = ("builders.images",)

torch.set_num_threads(1)
tune_collector()
# Code that tests compile is kept apart from everybody else's, which may be damaged, or be damaged by theirs.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", str(Path(gettempdir(), f"petiole-tests-{os.getuid()}"))
)


@pytest.fixture(params=tiny.NAMES)
def backbone(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """Every tiny backbone in turn, fresh."""
    return tiny.build(request.param, tmp_path / "model")


@pytest.fixture(params=[name for name in tiny.NAMES if name != "resnet"])
def transformer(request: pytest.FixtureRequest, tmp_path: Path) -> Backbone:
    """Every tiny transformer in turn, fresh."""
    return tiny.build(request.param, tmp_path / "model")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a CUDA device where there is none."""
    if not torch.cuda.is_available():
        reason = "needs a CUDA device, and torch finds none here"
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason=reason))

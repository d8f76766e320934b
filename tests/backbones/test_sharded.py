"""What spreading a language model does to its blocks, told by stand-ins of torch's sharding."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.distributed.device_mesh
import torch.distributed.fsdp
from torch import nn

from petiole.backbones.codebook_lvlm import sharded
from petiole.backbones.codebook_lvlm.model import LVLM
from petiole.errors import ConfigError


class Parts(nn.Module):
    """Two blocks of a language model, and what stays whole."""

    def __init__(self) -> None:
        super().__init__()
        self.language = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])})
        self.whole = nn.Linear(2, 2)


def model(**more: Any) -> LVLM:
    own = {"name": "tiny", "module": Parts(), "sharded": False, "quantized": None}
    return cast("LVLM", SimpleNamespace(**own, fingerprint="", **more))


@pytest.fixture
def together(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Three processes, and what is asked of torch."""
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(sharded, "opened", lambda: True)
    monkeypatch.setattr(sharded, "world", lambda: 3)
    monkeypatch.setattr(
        torch.distributed.device_mesh, "init_device_mesh", lambda *given: ("mesh", *given)
    )
    monkeypatch.setattr(
        torch.distributed.fsdp, "fully_shard", lambda block, **how: asked.append((block, how))
    )
    return asked


def test_every_block_alone_is_spread_over_all_processes_and_gathered_for_its_pass(
    together: list[tuple[Any, ...]],
) -> None:
    spread = model()
    parts = cast("Any", spread.module)
    sharded.shard(spread, "meta")
    how = {"mesh": ("mesh", "meta", (3,)), "reshard_after_forward": True}
    assert together == [(block, how) for block in parts.language["blocks"]]
    assert spread.sharded
    assert all(p.is_meta for p in parts.parameters())


def test_what_is_not_spread_says_why(
    together: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharded, "is_packed", lambda weight: weight.ndim == 2)
    with pytest.raises(ConfigError, match="tiny has weights that are stored as integers"):
        sharded.shard(model(), "cpu")
    monkeypatch.setattr(sharded, "opened", lambda: False)
    with pytest.raises(ConfigError, match="over several processes, and this is one"):
        sharded.shard(model(), "cpu")
    assert not together


def test_what_a_process_keeps_is_said_of_a_spread_model_alone(
    together: list[tuple[Any, ...]],
) -> None:
    assert sharded.held(model()) == ""
    assert not together
    wide = model()
    cast("Any", wide.module).language = nn.Linear(1000, 500, bias=False)
    wide.sharded = True
    assert (
        sharded.held(wide) == "each of 3 processes keeps 2.0 of the 2.0 MB of tiny's language model"
    )

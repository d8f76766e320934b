"""A layer with paths: a supernet that draws them, and a choice by name."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.searchable import choose_paths, searchable_layers
from training_for_tests import batches, descend


class EitherBranch(nn.Module):
    """x -> x + scale * x or x -> x + shift."""

    used_within = "run"
    paths = ("scale", "shift")

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.path = "scale"

    def choose(self, path: str) -> None:
        self.path = path

    def forward(self, x: Tensor) -> Tensor:
        return x + (x * self.scale if self.path == "scale" else self.shift)


class Supernet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = EitherBranch(4), EitherBranch(4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return ((self.second(self.first(x)).sum(1) - y) ** 2).mean()


def test_paths_are_chosen_by_name() -> None:
    net = Supernet()
    assert set(searchable_layers(net)) == {"first", "second"}
    choose_paths(net, {"first": "shift", "second": "scale"})
    assert (net.first.path, net.second.path) == ("shift", "scale")
    with pytest.raises(ConfigError, match="second"):
        choose_paths(net, {"first": "shift"})
    with pytest.raises(ConfigError, match="no path 'turn'"):
        choose_paths(net, {"first": "scale", "second": "turn"})
    assert net.first.path == "shift"  # nothing was half done


def test_a_supernet_trains_what_is_on_its_paths() -> None:
    """Paths that have not had their turn do not stop the run."""
    net = Supernet()
    choose_paths(net, {"first": "shift", "second": "scale"})
    trained = descend(net, batches, weight_decay=0.0)
    assert trained["first.shift"].any()
    assert not trained["first.scale"].any()

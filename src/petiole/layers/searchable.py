"""Layers with discrete paths, trained as a supernet and then searched."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from petiole.errors import ConfigError, unknown


@runtime_checkable
class SearchableLayer(Protocol):
    """A layer that computes along one of several paths (as in GLoRA: Chavan et al., 2023, section 3.3).

    Not every path is taken in a given number of steps, so such a layer states ``used_within = "run"``.

    Attributes:
        paths: names of all paths.
        path: the one in use.
    """

    used_within: str

    @property
    def paths(self) -> tuple[str, ...]: ...

    @property
    def path(self) -> str: ...

    def choose(self, path: str) -> None:
        """Compute along ``path`` from now on."""
        ...

    def settle(self) -> None:
        """Keep what the path in use needs and forget the rest."""
        ...

    def size(self, path: str) -> int:
        """Numbers that ``settle`` would keep of ``path``."""
        ...


def searchable_layers(module: nn.Module) -> list[SearchableLayer]:
    """All searchable layers inside a module, in its order."""
    return [layer for layer in module.modules() if isinstance(layer, SearchableLayer)]


def choose_paths(layers: Sequence[SearchableLayer], paths: Iterable[str]) -> None:
    """Put every layer on its path.

    Raises:
        ConfigError: there are more or fewer paths than layers, or a layer has no such path; nothing is changed then.
    """
    chosen = list(paths)
    if len(chosen) != len(layers):
        raise ConfigError(f"{len(chosen)} paths are given for {len(layers)} searchable layers.")
    for layer, path in zip(layers, chosen, strict=True):
        if path not in layer.paths:
            raise unknown("path", path, layer.paths)
    for layer, path in zip(layers, chosen, strict=True):
        layer.choose(path)

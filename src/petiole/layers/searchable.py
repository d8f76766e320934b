"""Layers with discrete paths, trained as a supernet and then searched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol, runtime_checkable

from torch import nn

from petiole.errors import ConfigError


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


def searchable_layers(module: nn.Module) -> dict[str, SearchableLayer]:
    """All searchable layers inside a module, by their names in it."""
    return {
        name: layer for name, layer in module.named_modules() if isinstance(layer, SearchableLayer)
    }


def choose_paths(module: nn.Module, paths: Mapping[str, str]) -> None:
    """Put every searchable layer on its path.

    Args:
        module: that holds them.
        paths: name of a layer -> name of its path, for all layers.

    Raises:
        ConfigError: a layer is left out or unknown, or has no such path.
    """
    layers = searchable_layers(module)
    if layers.keys() != paths.keys():
        raise ConfigError(
            f"Paths are given for {_list(paths)}, and the searchable layers are {_list(layers)}."
        )
    for name, path in paths.items():
        if path not in layers[name].paths:
            raise ConfigError(f"{name} has no path {path!r}. It has {_list(layers[name].paths)}.")
    for name, path in paths.items():
        layers[name].choose(path)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"

"""Trainable modules of another library that stand in for modules of a frozen network.

The library works on a copy of the network. Afterwards the copy's frozen tensors are the network's own
again, so that only what the library added takes memory, and the network itself was never touched.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from petiole.errors import ConfigError
from petiole.layers.packed import dense


class Injected(nn.Module):
    """What a library added to a copy of a network.

    Its ``state_dict`` holds every added tensor, trained or not (fixed random projections too), under
    the name that it has in the copy, with ``/`` for a dot.

    Args:
        network: frozen; stays as it is.
        inject: changes the copy in place, and returns what the library made of it.
        at: path of ``network`` in what is adapted, where it is only a part.

    Attributes:
        product: what ``inject`` returned.
        modules_by_path: path in the network -> the module of the copy that differs from it.

    Raises:
        ConfigError: the library rewrote a frozen weight, or added nothing.
    """

    def __init__(
        self, network: nn.Module, inject: Callable[[nn.Module], Any], at: str = ""
    ) -> None:
        super().__init__()
        memo: dict[int, Any] = {}
        twin = copy.deepcopy(network, memo)
        originals = {id(memo[id(t)]): t for _, t in _tensors(network)}
        # Neither is a submodule: the network's tensors are not this module's.
        self._hidden = (inject(twin), twin)
        self._places: dict[str, tuple[nn.Module, str]] = {}
        prefix = f"{at}." if at else ""
        taken = self._take(twin, network, originals)
        self.modules_by_path = {prefix + path: module for path, module in taken.items()}
        if not self.modules_by_path:
            raise ConfigError("The library added nothing to the network: no module was a target.")

    @property
    def product(self) -> Any:
        return self._hidden[0]

    def _take(
        self, twin: nn.Module, network: nn.Module, originals: Mapping[int, Tensor]
    ) -> dict[str, nn.Module]:
        """Register what was added, tie the rest to the network, and say where they differ."""
        known = {name for name, _ in network.named_modules()}
        changed: dict[str, nn.Module] = {}
        registered: set[int] = set()
        for path, module in twin.named_modules():
            for leaf, tensor in _direct(module):
                original = originals.get(id(tensor))
                if original is not None and not tensor.requires_grad:
                    _tie(module, leaf, tensor, original, path)
                    continue
                where = path
                while where not in known:
                    where = where.rpartition(".")[0]
                changed[where] = twin.get_submodule(where)
                if id(tensor) not in registered:
                    registered.add(id(tensor))
                    self._register(f"{path}.{leaf}".replace(".", "/"), module, leaf, tensor)
        return changed

    def _register(self, name: str, module: nn.Module, leaf: str, tensor: Tensor) -> None:
        if isinstance(tensor, nn.Parameter) and tensor.requires_grad:
            self.register_parameter(name, tensor)
            return
        self.register_buffer(name, tensor.detach())
        self._places[name] = module, leaf

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for module in self.modules_by_path.values():
            module.train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, (module, leaf) in self._places.items():
            value = self.get_buffer(name)
            if leaf in module._buffers:
                module._buffers[leaf] = value
            else:
                module.get_parameter(leaf).data = value
        return self


def _direct(module: nn.Module) -> list[tuple[str, Tensor]]:
    """A module's own parameters and buffers, not those of its children."""
    pairs = [*module._parameters.items(), *module._buffers.items()]
    return [(name, tensor) for name, tensor in pairs if tensor is not None]


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for _, part in module.named_modules():
        yield from _direct(part)


def _tie(module: nn.Module, leaf: str, tensor: Tensor, original: Tensor, path: str) -> None:
    if not (tensor.is_meta or torch.equal(dense(tensor), dense(original))):
        raise ConfigError(
            f"This configuration rewrites the frozen weight {path}.{leaf}, so what is trained would "
            "not be the whole adapter. Choose an initialisation that leaves the weights alone."
        )
    table = module._parameters if leaf in module._parameters else module._buffers
    table[leaf] = original  # type: ignore[assignment]

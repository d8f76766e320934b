"""A frozen network with changes on it: the layers, the copies, and when they are at work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.hooks import attached
from petiole.errors import ConfigError
from petiole.layers.packed import is_packed
from petiole.methods.base import Changes


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within it the model is in evaluation mode and records no gradient; afterwards its mode is what it was."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class AdaptedModel(nn.Module):
    """Everything trained inside a network that itself stays untouched.

    The network is no submodule, so it is never saved, moved or counted.

    Args:
        frozen: the network.
        changes: of one method.
    """

    def __init__(self, frozen: FrozenNetwork, changes: Changes) -> None:
        super().__init__()
        self._frozen = (frozen,)
        self._changes = changes
        self.attach = nn.ModuleDict(
            {_key(changes, i): a.layer for i, a in enumerate(changes.attach)}
        )
        self.shared = nn.ModuleList(changes.shared)
        self.injected = changes.injected
        own = dict(frozen.module.named_parameters())
        if packed := [name for name in changes.tune if is_packed(own[name])]:
            raise ConfigError(
                f"This method trains a copy of {packed[0]}, which {frozen.name} stores as {frozen.quantized}, and integers have no "
                "gradient. Take a method that trains layers of its own (lora-qkv, adaptformer, a head), layernorm or bitfit, or "
                "leave --quantize out."
            )
        self.tuned = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(
                    own[name].clone(), requires_grad=name in changes.tune
                )
                for name in (*changes.tune, *changes.frozen_copies)
            }
        )
        self._depth = 0

    @property
    def frozen(self) -> FrozenNetwork:
        """The network underneath."""
        return self._frozen[0]

    @property
    def changes(self) -> Changes:
        """What one method changed in it."""
        return self._changes

    @property
    def copies(self) -> dict[str, Tensor]:
        """Tuned and kept copies by the name of the network's parameter."""
        return {name.replace("/", "."): copy for name, copy in self.tuned.items()}

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Keep the changes on; needed around a backward pass that recomputes blocks."""
        changes = self._changes
        with self.frozen.lock:  # so that the depth is this thread's own
            on = attached(self.frozen, changes.attach, self.copies, changes.swapped)
            with on if self._depth == 0 else nullcontext():
                if self._depth == 0:
                    self._enter()
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1

    def _enter(self) -> None:
        """Called whenever the changes have just been put on; weights may have changed meanwhile."""


def _key(changes: Changes, index: int) -> str:
    """``block/3/attn/q``, with a count where several layers share the role."""
    role = changes.attach[index].role
    before = sum(a.role == role for a in changes.attach[:index])
    return role.replace(".", "/") + (f"+{before}" if before else "")

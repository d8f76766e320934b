"""A frozen network and the addresses inside it.

A *role* is an address that means the same in every library (``block.3.attn.q``). Most roles are
*sites*: the input or output of a module, or a slice of its last axis, where an adapter can add to
the value.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Self

import torch
from torch import Tensor, nn

from petiole.backbones.weights import fingerprint
from petiole.errors import BackboneError, ConfigError, unknown
from petiole.layers.packed import numbers, stored_bytes

IMAGES = "images"
"""The lowest cut: nothing is computed below it."""

BLOCK_ROLES: tuple[str, ...] = (
    *("in", "attn.in", "attn.q", "attn.k", "attn.v", "attn.out"),
    *("mid", "mlp.in", "mlp.hidden", "mlp.out", "out"),
)
"""What a plain pre-norm block has."""


@dataclass(frozen=True)
class Site:
    """Where a role's value lives in the frozen module.

    Attributes:
        module: the module whose input or output carries the value.
        side: ``in`` (first positional argument) or ``out`` (of several values the first).
        width: size of the value's last axis.
        columns: the slice of the last axis that the role means, e.g. q of a fused qkv.
        rejoin: where the value also flows past ``module`` (a residual), the module whose output is
            added back to it; it receives the same change.
    """

    module: nn.Module
    side: Literal["in", "out"]
    width: int
    columns: slice | None = None
    rejoin: nn.Module | None = None


class FrozenNetwork(nn.Module, ABC):
    """A frozen network with roles. It stays in eval mode and none of its parameters asks for gradients.

    It is an ``nn.Module`` with one child, ``module``. Roles name the parameters as that child does; what trains beside it
    never becomes its child.

    Attributes:
        name: what it was loaded as.
        module: the network.
        width: size d of what it computes in the end: the image vector, or the states of a language model.
        lock: held by whoever uses the module.
        carries: whether an adapter is on it; set by ``hooks.attached``.
        quantized: how its linear layers are stored (``quantized.Quantization``); ``None`` for floats.
    """

    module: nn.Module
    quantized: str | None = None

    def __init__(self, name: str, module: nn.Module, width: int) -> None:
        super().__init__()
        self.name = name
        self.module = module.requires_grad_(False)
        self.width = width
        self.eval()
        self.lock = threading.RLock()
        self.carries = False

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002
        """Stay in eval mode: dropout and batch statistics would make it another function."""
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.__dict__.pop("fingerprint", None)  # ``half`` and its kin change the weights
        applied: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return applied

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every parameter and buffer: name, dtype, shape and bytes.

        Raises:
            BackboneError: an adapter is on, so tuned copies may stand where the weights were.
        """
        with self.lock:
            if self.carries:
                raise BackboneError(
                    f"{self.name} carries an adapter; ask for its fingerprint outside attached()."
                )
            return fingerprint(self.module.state_dict())

    @property
    def parameter_count(self) -> int:
        """Number of frozen parameters (buffers such as BatchNorm statistics not counted)."""
        return sum(map(numbers, self.module.parameters()))

    @property
    def stored_bytes(self) -> int:
        """Bytes of its parameters and buffers, as they are stored; tied ones once."""
        tensors = self.module.state_dict(keep_vars=True).values()
        return sum(map(stored_bytes, {id(tensor): tensor for tensor in tensors}.values()))

    @property
    def is_meta(self) -> bool:
        """Whether this is only the shape of the model, built without weights."""
        return any(p.is_meta for p in self.module.parameters())

    @property
    def device(self) -> torch.device:
        """Where it lives."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """In which it computes: that of its first floating-point parameter."""
        kinds = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return next(kinds, torch.float32)

    @property
    @abstractmethod
    def sites(self) -> Mapping[str, Site]:
        """Roles inside the network, in the order in which data passes them."""

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role, in the order in which data passes them."""
        return tuple(self.sites)

    @abstractmethod
    def role_of(self, parameter: str) -> str:
        """Return the lowest role that changes when the named parameter does."""

    def site(self, role: str) -> Site:
        """Return the site of ``role``.

        Raises:
            ConfigError: no such role; the message lists the nearest, or what blocks of this kind have instead.
        """
        if role not in self.sites:
            block, _, rest = role.rpartition("block.")[2].partition(".")
            at = role.removesuffix(rest)
            has = [each.removeprefix(at) for each in self.sites if block and each.startswith(at)]
            if has and rest in BLOCK_ROLES:
                raise ConfigError(
                    f"{self.name} has no {role}: its blocks have {', '.join(has)} only. Choose a method, or a setting, that "
                    "needs no other."
                )
            raise unknown(f"role of {self.name}", role, self.roles)
        return self.sites[role]

    def parameters_under(self, prefix: str = "") -> tuple[str, ...]:
        """Names of the parameters whose role starts with ``prefix`` (all without one).

        Raises:
            ConfigError: no parameter lies there.
        """
        names = tuple(
            name
            for name, _ in self.module.named_parameters()
            if _within(self.role_of(name), prefix)
        )
        if not names:
            parts = {IMAGES} | {_stem(role) for role in self.sites}
            raise unknown(f"part of {self.name}", prefix, parts)
        return names


def _stem(role: str) -> str:
    return ".".join(role.split(".")[:2]) if role.startswith("block.") else role


def _within(role: str, prefix: str) -> bool:
    return not prefix or role == prefix or role.startswith(prefix + ".")

"""The one face of every frozen model: ordered roles, two halves, preprocessing, fingerprint.

A *role* is an address that means the same in every library (``block.3.attn.q``). Most roles are
*sites*: the input or output of a module, or a slice of its last axis, where an adapter can add to
the value. The final roles (``final.cls``, ``final.patches``, ...) are what heads read.

A backbone runs in two halves. ``lower(images, cut)`` goes up to a cut and never builds a graph;
``upper(state, reads)`` goes on from there. ``upper(lower(x, cut), reads)`` is the same function of
``x`` for every cut.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from torch import Tensor, nn

from petiole.backbones.weights import fingerprint
from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError, unknown

State = dict[str, Tensor]
"""Values by role: all that ``upper`` needs, and all that the feature cache stores."""

IMAGES = "images"
"""The lowest cut: nothing is computed below it."""


@dataclass(frozen=True)
class Site:
    """Where a role's value lives in the frozen module.

    Attributes:
        module: the module whose input or output carries the value.
        side: ``in`` (first positional argument) or ``out``.
        width: size of the value's last axis.
        columns: the slice of the last axis that the role means, e.g. q of a fused qkv.
    """

    module: nn.Module
    side: Literal["in", "out"]
    width: int
    columns: slice | None = None


class Backbone(ABC):
    """A frozen model. Its module stays in eval mode and none of its parameters asks for gradients.

    Attributes:
        name: what ``petiole.load`` was given.
        module: the frozen network.
        preprocessing: as the weights' own configuration states it.
        width: size d of the image vector.
        vector: the role of the image vector (``final.cls`` or ``final.pooled``), shape (B, d).
        patches: the role of the local tokens (``final.patches`` or ``final.map``), (B, N, d).
    """

    vector: str
    patches: str

    def __init__(
        self, name: str, module: nn.Module, preprocessing: Preprocessing, width: int
    ) -> None:
        self.name = name
        self.module = module.eval().requires_grad_(False)
        self.preprocessing = preprocessing
        self.width = width
        self.lock = threading.RLock()

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over every parameter and buffer: name, dtype, shape and bytes."""
        return fingerprint(self.module.state_dict())

    @property
    def parameter_count(self) -> int:
        """Number of frozen parameters (buffers such as BatchNorm statistics not counted)."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def is_meta(self) -> bool:
        """Whether this is only the shape of the model, built without weights."""
        return any(p.is_meta for p in self.module.parameters())

    def width_of(self, role: str) -> int:
        """Size of the last axis of a final role."""
        return self.width

    @property
    @abstractmethod
    def sites(self) -> Mapping[str, Site]:
        """Roles inside the network, in the order in which data passes them."""

    @property
    @abstractmethod
    def finals(self) -> tuple[str, ...]:
        """Roles that heads can read."""

    @property
    @abstractmethod
    def cuts(self) -> tuple[str, ...]:
        """Roles inside the network at which ``lower`` can stop, lowest first."""

    @abstractmethod
    def role_of(self, parameter: str) -> str:
        """Return the lowest role that changes when the named parameter does."""

    @abstractmethod
    def lower(self, images: Tensor, cut: Sequence[str]) -> State:
        """Run the frozen part below the cut, without building a graph.

        Args:
            images: (B, 3, H, W), preprocessed.
            cut: one role of ``cuts``, or ``("images",)``, or any of ``finals``.
        """

    @abstractmethod
    def upper(self, state: State, reads: Sequence[str], *, checkpoint: bool = False) -> State:
        """Run from the cut to the final roles in ``reads``.

        Args:
            state: what ``lower`` returned.
            reads: final roles wanted.
            checkpoint: recompute each block in the backward pass instead of keeping activations.
        """

    @property
    def depth(self) -> int:
        """Number of transformer blocks; 0 where there are none."""
        return 0

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role, in the order in which data passes them."""
        return (*self.sites, *self.finals)

    def site(self, role: str) -> Site:
        """Return the site of ``role``.

        Raises:
            ConfigError: no such role; the message lists the nearest.
        """
        if role not in self.sites:
            raise unknown(f"role of {self.name}", role, self.roles)
        return self.sites[role]

    def parameters_under(self, prefix: str = "") -> tuple[str, ...]:
        """Names of the parameters whose role starts with ``prefix`` (all without one).

        Raises:
            ConfigError: no parameter lies there.
        """
        names = tuple(
            name for name, _ in self.module.named_parameters() if _within(self.role_of(name), prefix)
        )
        if not names:
            raise unknown(f"part of {self.name}", prefix, {_stem(role) for role in self.sites})
        return names

    def cut_below(self, touched: Sequence[str], reads: Sequence[str]) -> tuple[str, ...]:
        """The highest cut below every touched role: all that lies under it is frozen.

        Args:
            touched: roles that a plan changes or whose parameters it trains.
            reads: final roles that the plan reads; they are the cut when nothing is touched.
        """
        for role in reads:
            if role not in self.finals:
                raise unknown(f"final role of {self.name}", role, self.finals)
        if not touched:
            return tuple(reads)
        order = {role: i for i, role in enumerate((IMAGES, *self.roles))}
        for role in touched:
            if role not in order:
                raise unknown(f"role of {self.name}", role, self.roles)
        lowest = min(order[role] for role in touched)
        return (max((c for c in (IMAGES, *self.cuts) if order[c] <= lowest), key=order.__getitem__),)

    def check_cut(self, cut: Sequence[str]) -> None:
        """Raise ConfigError unless ``lower`` can stop at ``cut``."""
        if set(cut) <= set(self.finals) and cut:
            return
        if len(cut) != 1 or cut[0] not in (IMAGES, *self.cuts):
            raise ConfigError(
                f"{self.name} cannot be cut at {', '.join(cut) or 'nothing'}: "
                f"use one of {IMAGES}, {', '.join(self.cuts) or 'no block'} "
                f"or any of {', '.join(self.finals)}."
            )


def _stem(role: str) -> str:
    return ".".join(role.split(".")[:2]) if role.startswith("block.") else role


def _within(role: str, prefix: str) -> bool:
    return not prefix or role == prefix or role.startswith(prefix + ".")

"""The one face of every frozen model: ordered roles, two halves, preprocessing, fingerprint.

A *role* is an address that means the same in every library (``block.3.attn.q``). Most roles are
*sites*: the input or output of a module, or a slice of its last axis, where an adapter can add to
the value. The final roles (``final.cls``, ``final.patches``, ...) are what heads read.

A backbone runs in two halves. ``lower(images, cut)`` goes up to a cut and never builds a graph;
``upper(state, reads)`` goes on from there. ``upper(lower(x, cut), reads)`` is the same function of
``x`` for every cut. Both wait while another thread has an adapter on the backbone.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor, nn

from petiole.backbones.image_errors import expecting_images
from petiole.backbones.weights import fingerprint
from petiole.data.preprocessing import Preprocessing, evaluate_transform
from petiole.errors import BackboneError, ConfigError, unknown
from petiole.layers.packed import numbers, stored_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

State = dict[str, Tensor]
"""Values by role: all that ``upper`` needs, and all that the feature cache stores."""

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


class Backbone(FrozenNetwork):
    """A frozen model of images, (B, 3, H, W) -> image vectors (B, d).

    Attributes:
        preprocessing: as the weights' own configuration states it.
        vector: the role of the image vector (``final.cls`` or ``final.pooled``), shape (B, d).
        patches: the role of the local tokens (``final.patches`` or ``final.map``), (B, N, d).
    """

    vector: str
    patches: str

    def __init__(
        self, name: str, module: nn.Module, preprocessing: Preprocessing, width: int
    ) -> None:
        super().__init__(name, module, width)
        self.preprocessing = preprocessing

    def preprocess(self, image: Image) -> Tensor:
        """A PIL image of any mode as these weights want it, (3, H, W): upright, RGB, resized, cropped, normalised."""
        from petiole.data.image import upright_rgb

        return evaluate_transform(self.preprocessing)(upright_rgb(image))

    def forward(self, images: Tensor) -> Tensor:
        """Image vectors (B, d) of preprocessed images (B, 3, H, W); gradients reach the images where these ask for them.

        Raises:
            BackboneError: images of another shape, type or device.
        """
        with expecting_images(self, images):
            return self.upper({IMAGES: images}, (self.vector,))[self.vector]

    def features(self, images: Tensor, roles: Sequence[str] = ()) -> State:
        """Values at roles, inside the network or final ones; without any all final ones.

        Args:
            images: (B, 3, H, W), preprocessed.
            roles: of ``roles``.

        Raises:
            BackboneError: images of another shape, type or device.
            ConfigError: no such role.
        """
        from petiole.backbones.hooks import observed

        wanted = tuple(roles) or self.finals
        final = [role for role in wanted if role in self.finals]
        inside = [role for role in wanted if role not in final]
        with expecting_images(self, images), observed(self, inside) as seen:
            values = self.upper({IMAGES: images}, final or (self.vector,))
            return {role: values[role] if role in final else seen[role] for role in wanted}

    @property
    @abstractmethod
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the local tokens, which lie in row order."""

    @property
    def local_tokens(self) -> int:
        """N, number of local tokens of an image."""
        return prod(self.grid)

    @property
    def prefix_tokens(self) -> int:
        """Tokens that stand before the patches inside the blocks: class token and registers."""
        return 0

    @property
    def takes_tokens(self) -> bool:
        """Whether more tokens than the image's may pass the blocks, as prompts do."""
        return True

    @abstractmethod
    def width_of(self, role: str) -> int:
        """Size of the last axis of a final role."""

    def source_of(self, final: str) -> str:
        """Return the lowest role that a final role is made from; mostly only itself."""
        return final

    @property
    @abstractmethod
    def finals(self) -> tuple[str, ...]:
        """Roles that heads can read."""

    @property
    @abstractmethod
    def cuts(self) -> tuple[str, ...]:
        """Roles inside the network at which ``lower`` can stop, lowest first."""

    @torch.no_grad()
    def lower(self, images: Tensor, cut: Sequence[str]) -> State:
        """Run the frozen part below the cut, without building a graph.

        Args:
            images: (B, 3, H, W), preprocessed.
            cut: one role of ``cuts``, or ``("images",)``, or any of ``finals``.

        Raises:
            ConfigError: the backbone cannot be cut there.
        """
        self.check_cut(cut)
        if cut[0] == IMAGES:
            return {IMAGES: images}
        with self.lock:
            if cut[0] in self.finals:
                return self._upper(IMAGES, images, cut, checkpoint=False)
            return {cut[0]: self._lower(images, cut[0])}

    def upper(
        self,
        state: State,
        reads: Sequence[str],
        *,
        checkpoint: bool = False,
        compiled: bool = False,
    ) -> State:
        """Run from the cut to the final roles in ``reads``.

        Args:
            state: what ``lower`` returned.
            reads: final roles wanted.
            checkpoint: recompute each block in the backward pass instead of keeping activations.
            compiled: run it through ``torch.compile``.

        Raises:
            ConfigError: ``reads`` cannot be had from ``state``.
        """
        if all(role in state for role in reads):
            return {role: state[role] for role in reads}
        cut, *others = state
        known = cut in (IMAGES, *self.cuts) and set(reads) <= set(self.finals)
        if others or not known or any(self._above(role) < self._order[cut] for role in reads):
            raise ConfigError(
                f"{self.name} cannot give {', '.join(reads)} from {', '.join(state)}. Final roles are "
                f"{', '.join(self.finals)}; they are had from {IMAGES}, from a cut below them, or as stored."
            )
        run = self._compiled if compiled else self._upper
        with self.lock:
            return run(cut, state[cut], reads, checkpoint=checkpoint)

    @cached_property
    def _compiled(self) -> Callable[..., State]:
        """``_upper`` through torch.compile, which follows hooks and compiles anew for other ones."""
        return torch.compile(self._upper)

    def _above(self, final: str) -> int:
        return self._order[self.source_of(final)]

    @abstractmethod
    def _lower(self, images: Tensor, cut: str) -> Tensor:
        """The value at one of ``cuts``."""

    @abstractmethod
    def _upper(self, cut: str, value: Tensor, reads: Sequence[str], *, checkpoint: bool) -> State:
        """The final roles ``reads``, from the value at ``images`` or at one of ``cuts``."""

    @property
    def depth(self) -> int:
        """Number of transformer blocks; 0 where there are none."""
        return 0

    @property
    def roles(self) -> tuple[str, ...]:
        """Every role, in the order in which data passes them."""
        return (*self.sites, *self.finals)

    @cached_property
    def _order(self) -> Mapping[str, int]:
        return {role: i for i, role in enumerate((IMAGES, *self.roles))}

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
        order = self._order
        for role in touched:
            if role not in order:
                raise unknown(f"role of {self.name}", role, self.roles)
        lowest = min(order[role] for role in (*touched, *map(self.source_of, reads)))
        below = (cut for cut in (IMAGES, *self.cuts) if order[cut] <= lowest)
        return (max(below, key=order.__getitem__),)

    def check_cut(self, cut: Sequence[str]) -> None:
        """Raise ConfigError unless ``lower`` can stop at ``cut``."""
        if cut and set(cut) <= set(self.finals):
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

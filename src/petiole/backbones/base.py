"""The one face of every frozen model of images: ordered roles, two halves, preprocessing.

The final roles (``final.cls``, ``final.patches``, ...) are what heads read.

A backbone runs in two halves. ``lower(images, cut)`` goes up to a cut and never builds a graph;
``upper(state, reads)`` goes on from there. ``upper(lower(x, cut), reads)`` is the same function of
``x`` for every cut. Both wait while another thread has an adapter on the backbone.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import IMAGES, FrozenNetwork
from petiole.backbones.image_errors import expecting_images
from petiole.data.preprocessing import Preprocessing, evaluate_transform
from petiole.errors import ConfigError, unknown

if TYPE_CHECKING:
    from PIL.Image import Image

State = dict[str, Tensor]
"""Values by role: all that ``upper`` needs, and all that the feature cache stores."""


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

"""Several backbones side by side, named ``A+B``: their image vectors become one, for heads on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import Site
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError, ConfigError

MARK = "+"


def names_of(name: str) -> tuple[str, ...]:
    """The backbones that a name joins; one where it joins none."""
    return tuple(part.strip() for part in name.split(MARK))


class JoinedBackbone(Backbone):
    """Frozen backbones A, B, ... of which every image is seen by all.

    The one final role is ``final.joined``, (B, d_A + d_B + ...) = [a / |a|, b / |b|, ...]: each vector has length one, so
    that none drowns the others. Nothing lies in common inside them, so methods inside blocks and those that read patches
    need one backbone.

    Args:
        name: ``A+B``.
        parts: the backbones, at least two.

    Attributes:
        preprocessing: of all parts; the input is their pixels one behind the other, (B, 3, 1, sum of H W).
    """

    vector = "final.joined"
    patches = "final.patches"

    def __init__(self, name: str, parts: Sequence[Backbone]) -> None:
        if len(parts) < 2:
            raise BackboneError(f"{name} joins {len(parts)} backbone. Name two or more: A{MARK}B.")
        super().__init__(
            name,
            nn.ModuleList(part.module for part in parts),
            Preprocessing.joined([part.preprocessing for part in parts]),
            sum(part.width for part in parts),
        )
        # Not its children: their networks are, through ``module``.
        object.__setattr__(self, "parts", tuple(parts))

    parts: tuple[Backbone, ...]

    def join(self, vectors: Sequence[Tensor]) -> Tensor:
        """Image vectors (B, d_A), (B, d_B), ... -> (B, d_A + d_B + ...)."""
        return torch.cat([normalize(vector.float(), dim=-1) for vector in vectors], dim=-1)

    def _upper(self, cut: str, value: Tensor, reads: Sequence[str], *, checkpoint: bool) -> State:  # noqa: ARG002 - the one cut is at the images
        sizes = [part.preprocessing.size for part in self.parts]
        pixels = torch.split(value.flatten(2), [prod(size) for size in sizes], dim=2)
        images = [p.reshape(-1, 3, *size) for p, size in zip(pixels, sizes, strict=True)]
        vectors = [part(seen) for part, seen in zip(self.parts, images, strict=True)]
        return dict.fromkeys(reads, self.join(vectors))

    def _lower(self, images: Tensor, cut: str) -> Tensor:
        raise NotImplementedError(f"{self.name} has no cut {cut} inside")

    @property
    def grid(self) -> tuple[int, int]:
        self._nothing_in_common("patches")

    def width_of(self, role: str) -> int:
        if role != self.vector:
            self._nothing_in_common(role)
        return self.width

    @property
    def sites(self) -> Mapping[str, Site]:
        return {}

    @property
    def finals(self) -> tuple[str, ...]:
        return (self.vector,)

    @property
    def cuts(self) -> tuple[str, ...]:
        return ()

    def role_of(self, parameter: str) -> str:
        self._nothing_in_common(parameter)

    def _nothing_in_common(self, what: str) -> NoReturn:
        raise ConfigError(
            f"{self.name} gives one vector, {self.vector}, and no {what}: its backbones have nothing else in common. Take "
            f"averaged-ridge or another head on the image vector, or one of {', '.join(p.name for p in self.parts)}."
        )

"""What a head of class names may offer to others: one vector for each class, or one for each class and image.

z_ic = s cos(v_i, E_c)        ``ClassVectors``: can be refined, folded into a matrix, taught
z_ic = s cos(v_i, E_c(v_i))   ``ImageClassVectors`` (CoCoOp): can be refined, image by image
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.nn.functional import normalize


@runtime_checkable
class CachedHead(Protocol):
    """A head that keeps what it computed of the class names until it is told to forget it."""

    def forget(self) -> None: ...


class ClassNamed(CachedHead, Protocol):
    """What both kinds have.

    Attributes:
        scale: s.
        width: d.
    """

    scale: Tensor
    width: int

    def rename(self, names: Sequence[str]) -> None: ...


@runtime_checkable
class ClassVectors(ClassNamed, Protocol):
    """One unit vector for each class name: E (C, d)."""

    def embeddings(self) -> Tensor: ...


@runtime_checkable
class ImageClassVectors(ClassNamed, Protocol):
    """Unit class vectors of each of a few images, E (b, C, d).

    Attributes:
        images_at_once: largest b that is sensible.
    """

    images_at_once: int

    def embeddings_of(self, vector: Tensor) -> Tensor: ...


@runtime_checkable
class TaughtByClassVectors(Protocol):
    """A head that takes its classes from a teacher's."""

    def learn(self, embeddings: Tensor, scale: Tensor) -> None: ...


def cosines(vector: Tensor, vectors_of: Callable[[Tensor], Tensor], at_once: int) -> Tensor:
    """v_i · E_c(v_i) with v_i of unit norm, (B, C), at most so many images at a time.

    Args:
        vector: (B, d).
        vectors_of: (b, d) -> (b, C, d).
        at_once: largest b.
    """
    # A batch that is small enough is handed on as it is, so that its vectors can be known again.
    parts = [vector] if len(vector) <= at_once else torch.split(vector, at_once)
    return torch.cat(
        [torch.einsum("bd,bcd->bc", normalize(some, dim=-1), vectors_of(some)) for some in parts]
    )

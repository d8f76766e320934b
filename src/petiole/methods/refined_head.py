"""A head of class names whose vectors read from a cache of local image tokens: TextRefiner's inference.

    E^_c = alpha Linear([E_c, R_c]) + E_c,   z_c = s cos(v, ...) with E^_c as it is, or of unit norm

R_c is what the cache gives for E_c. E^ is a pure function of E, the cache and Linear.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.errors import ConfigError
from petiole.layers.local_cache import LocalCache
from petiole.layers.token_alignment import TokenAlignment


@runtime_checkable
class ClassVectors(Protocol):
    """What a host's head must give: one unit vector for each class name."""

    scale: Tensor
    width: int

    def embeddings(self) -> Tensor: ...

    def rename(self, names: Sequence[str]) -> None: ...

    def forget(self) -> None: ...


@runtime_checkable
class ImageClassVectors(Protocol):
    """A head whose class vectors depend on the image (CoCoOp): (b, C, d) for each of b images."""

    scale: Tensor
    width: int
    images_at_once: int

    def embeddings_of(self, vector: Tensor) -> Tensor: ...


@runtime_checkable
class Pupil(Protocol):
    """A head that takes its classes from a teacher's."""

    def learn(self, embeddings: Tensor, scale: Tensor) -> None: ...


class Refiner(nn.Module):
    """E (C, d) -> E^ (C, d).

    Args:
        width: d.
        alpha: 0 leaves E as it is.
        cache: what is read; ``None`` refines by Linear alone (a control).
        align: g of the training, kept for looking into the cache; prediction has no use for it.
    """

    def __init__(
        self,
        width: int,
        alpha: float,
        cache: LocalCache | None,
        align: TokenAlignment | None = None,
    ) -> None:
        super().__init__()
        self.alpha, self.cache, self.align = alpha, cache, align
        self.map = nn.Linear(width if cache is None else 2 * width, width, bias=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        read = [] if self.cache is None else [self.cache.read(embeddings)]
        mapped: Tensor = self.map(torch.cat([embeddings, *read], dim=-1))
        return self.alpha * mapped + embeddings


class RefinedHead(nn.Module):
    """The host's head with refined class vectors.

    Args:
        host: of the host method.
        refiner: of its class vectors.
        unit: normalise E^ before it meets the image (the paper's cosine; the code does not).
    """

    def __init__(self, host: nn.Module, refiner: Refiner, *, unit: bool) -> None:
        super().__init__()
        self.host, self.refiner, self.unit = host, refiner, unit
        self._known: tuple[Tensor, bool] | None = None
        self._seen: tuple[Tensor, bool, Tensor, Tensor] | None = None

    @property
    def vectors(self) -> ClassVectors:
        """The host's class vectors."""
        if not isinstance(self.host, ClassVectors):
            raise ConfigError(f"{type(self.host).__name__} has no class vectors to refine.")
        return self.host

    @property
    def scale(self) -> Tensor:
        """s, the host's."""
        return self.vectors.scale

    @property
    def width(self) -> int:
        """d, the host's."""
        return self.vectors.width

    def rename(self, names: Sequence[str]) -> None:
        """Set the classes by name."""
        self._known = self._seen = None
        self.vectors.rename(names)

    def forget(self) -> None:
        """Compute everything anew when it is wanted next."""
        self._known = self._seen = None
        self.vectors.forget()

    def learn(self, embeddings: Tensor, scale: Tensor) -> None:
        """Hand a teacher's class vectors to a host that wants them."""
        if not isinstance(self.host, Pupil):
            raise ConfigError(f"{type(self.host).__name__} learns from no teacher.")
        self.host.learn(embeddings, scale)

    def refined(self) -> Tensor:
        """E^ (C, d), computed once until ``forget``: the cache may be written to meanwhile."""
        gradients = torch.is_grad_enabled()
        if self._known is None or (gradients and not self._known[1]):
            self._known = self.refiner(self.vectors.embeddings()), gradients
        return self._known[0]

    def pair(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """E and E^: (C, d) each, or (B, C, d) where the host's depend on the image.

        The latter are computed once for the same images, whose loss terms ask again.
        """
        if not isinstance(self.host, ImageClassVectors):
            return self.vectors.embeddings(), self.refined()
        gradients = torch.is_grad_enabled()
        if self._seen is None or self._seen[0] is not vector or (gradients and not self._seen[1]):
            embeddings = self.host.embeddings_of(vector)
            self._seen = vector, gradients, embeddings, self.refiner(embeddings)
        return self._seen[2:]

    def embeddings(self) -> Tensor:
        """E^ as it meets the image."""
        return self._met(self.refined())

    def forward(self, vector: Tensor) -> Tensor:
        if not isinstance(self.host, ImageClassVectors):
            return self.scale * normalize(vector, dim=-1) @ self.embeddings().to(vector.dtype).T
        few = len(vector) <= self.host.images_at_once
        parts = [vector] if few else torch.split(vector, self.host.images_at_once)
        return self.scale * torch.cat(
            [
                torch.einsum("bd,bcd->bc", normalize(some, dim=-1), self._met(self.pair(some)[1]))
                for some in parts
            ]
        )

    def _met(self, refined: Tensor) -> Tensor:
        return normalize(refined, dim=-1) if self.unit else refined

"""A head of class names whose vectors read from a cache of local image tokens: TextRefiner's inference.

    E^_c = alpha Linear([E_c, R_c]) + E_c,   z_c = s cos(v, ...) with E^_c as it is, or of unit norm

R_c is what the cache gives for E_c. E^ is a pure function of E, the cache and Linear.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from petiole.errors import ConfigError
from petiole.layers.local_cache import LocalCache
from petiole.layers.token_alignment import TokenAlignment
from petiole.methods.prompt_learning.class_vectors import (
    ClassNamed,
    ClassVectors,
    ImageClassVectors,
    TaughtByClassVectors,
    cosines,
)


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
        return self.blend(embeddings, *read)

    def blend(self, embeddings: Tensor, *read: Tensor) -> Tensor:
        """E and R (C, d), if there is a cache -> E^ (C, d)."""
        mapped: Tensor = self.map(torch.cat([embeddings, *read], dim=-1))
        return self.alpha * mapped + embeddings


class Refined(nn.Module, ABC):
    """A host's head with refined class vectors.

    Args:
        host: of the host method.
        refiner: of its class vectors.
        unit: normalise E^ before it meets the image (the paper's cosine; the code does not).
    """

    def __init__(self, host: nn.Module, refiner: Refiner, *, unit: bool) -> None:
        super().__init__()
        self.host, self.refiner, self.unit = host, refiner, unit

    @property
    @abstractmethod
    def named(self) -> ClassNamed:
        """The host, as what it offers."""

    @property
    def scale(self) -> Tensor:
        """s, the host's."""
        return self.named.scale

    @property
    def width(self) -> int:
        """d, the host's."""
        return self.named.width

    def rename(self, names: Sequence[str]) -> None:
        """Set the classes by name."""
        self.forget()
        self.named.rename(names)

    def forget(self) -> None:
        """Compute everything anew when it is wanted next: the cache may be written to meanwhile."""
        self.named.forget()

    @abstractmethod
    def pair(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """E and E^ for these images, (C, d) each or (B, C, d), computed once until ``forget``."""

    def met(self, refined: Tensor) -> Tensor:
        """E^ as it meets the image."""
        return normalize(refined, dim=-1) if self.unit else refined


class RefinedHead(Refined):
    """Over a host with one vector for each class."""

    _known: tuple[Tensor, bool] | None = None

    @property
    def named(self) -> ClassVectors:
        # Asking a protocol costs more than the head's own arithmetic on a batch.
        return cast(ClassVectors, self.host)

    def forget(self) -> None:
        self._known = None
        super().forget()

    def learn(self, embeddings: Tensor, scale: Tensor) -> None:
        """Hand a teacher's class vectors to a host that wants them."""
        if not isinstance(self.host, TaughtByClassVectors):
            raise ConfigError(f"{type(self.host).__name__} learns from no teacher.")
        self.host.learn(embeddings, scale)

    def refined(self) -> Tensor:
        """E^ (C, d)."""
        gradients = torch.is_grad_enabled()
        if self._known is None or (gradients and not self._known[1]):
            self._known = self.refiner(self.named.embeddings()), gradients
        return self._known[0]

    def pair(self, vector: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - the same for all
        return self.named.embeddings(), self.refined()

    def embeddings(self) -> Tensor:
        """E^ as it meets the image."""
        return self.met(self.refined())

    def forward(self, vector: Tensor) -> Tensor:
        return self.scale * normalize(vector, dim=-1) @ self.embeddings().to(vector.dtype).T


class RefinedByImage(Refined):
    """Over a host whose class vectors depend on the image, so these are refined for each image."""

    _known: tuple[Tensor, bool, Tensor, Tensor] | None = None

    @property
    def named(self) -> ImageClassVectors:
        return cast(ImageClassVectors, self.host)

    @property
    def images_at_once(self) -> int:
        """The host's."""
        return self.named.images_at_once

    def forget(self) -> None:
        self._known = None
        super().forget()

    def pair(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        gradients, known = torch.is_grad_enabled(), self._known
        if known is None or known[0] is not vector or (gradients and not known[1]):
            own = self.named.embeddings_of(vector)
            known = self._known = vector, gradients, own, self.refiner(own)
        return known[2:]

    def embeddings_of(self, vector: Tensor) -> Tensor:
        """E^ as it meets each image."""
        return self.met(self.pair(vector)[1])

    def forward(self, vector: Tensor) -> Tensor:
        return self.scale * cosines(vector, self.embeddings_of, self.images_at_once)


def refine(host: nn.Module, refiner: Refiner, *, unit: bool) -> RefinedHead | RefinedByImage:
    """The head that fits the host."""
    kind = RefinedByImage if isinstance(host, ImageClassVectors) else RefinedHead
    return kind(host, refiner, unit=unit)

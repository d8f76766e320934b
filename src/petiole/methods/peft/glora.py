"""GLoRA (Chavan et al., 2023, arXiv 2306.07967): scale and shift the weight and bias of frozen linear layers.

    W' = W + W * A + B,    b' = b + b * D + E + W C

``glora`` takes one path for all layers, or one for each; ``glora-search`` trains a supernet that draws a path for every layer in
every forward, then searches over paths on images held back from the training images (``held_back``), and keeps the best.
The authors' code searches on the test images. All of it merges into W and b.

Published on all four linear layers of a block; k only on request, because without rotary positions what shifts all keys alike changes
no attention, so its C, D and E are never trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError, unknown
from petiole.layers.glora import LARGEST, GLoRA, SearchableGLoRA
from petiole.layers.heads import LinearHead
from petiole.methods.base import Method, Plan
from petiole.methods.blocks import select
from petiole.methods.path_search import PathSearch
from petiole.methods.peft.lora import rows_of
from petiole.methods.recipe import AS_MANY_STEPS, INSIDE_BLOCKS
from petiole.methods.registry import register
from petiole.ranges import PositiveFraction, PositiveInt

LAYERS = {
    "q": ("attn.q", "attn.in"),
    "k": ("attn.k", "attn.in"),
    "v": ("attn.v", "attn.in"),
    "proj": ("attn.proj", "attn.context"),
    "hidden": ("mlp.hidden", "mlp.in"),
    "narrow": ("mlp.narrow", "mlp.act"),
}
"""Target -> the role that a layer gives, and the one that it reads."""


@register("glora", "GLoRA with a fixed path", paper=AS_MANY_STEPS, **INSIDE_BLOCKS)
@dataclass(frozen=True)
class FixedGLoRA(Method):
    """GLoRA along given paths.

    Attributes:
        rank: r.
        paths: kinds of A, B, C, D and E; one path for all layers, or one for each, comma separated.
        targets: which of q, k, v, proj, hidden, narrow, comma separated; of the last three those that the blocks have (a gated
            MLP has no hidden).
        blocks: all | every:k | first:k | last:k | 0,3,7.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    rank: PositiveInt = 4
    paths: str = LARGEST
    targets: str = "q,v,proj,hidden,narrow"
    blocks: str = "all"

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        roles = list(self._roles(backbone))
        layers = self._layers(backbone, roles)
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            attach=tuple(
                Attach(role, layer, reads)
                for (role, reads), layer in zip(roles, layers, strict=True)
            ),
            search=self._search(layers),
        )

    def _search(self, layers: Sequence[GLoRA]) -> PathSearch | None:  # noqa: ARG002 - paths are given
        return None

    def _roles(self, backbone: Backbone) -> Iterator[tuple[str, str]]:
        """(role, the role that it reads) of every layer."""
        for i in select(self.blocks, backbone):
            for name in (part.strip() for part in self.targets.split(",")):
                if name not in LAYERS:
                    raise unknown("GLoRA target", name, LAYERS)
                role, reads = (f"block.{i}.{part}" for part in LAYERS[name])
                if name in "qkv" or role in backbone.sites:
                    yield role, reads

    def _layers(self, backbone: Backbone, roles: list[tuple[str, str]]) -> list[GLoRA]:
        paths = [path.strip() for path in self.paths.split(",")]
        if len(paths) not in (1, len(roles)):
            raise ConfigError(
                f"paths has {len(paths)} paths, and {backbone.name} has {len(roles)} layers for them. Give one for all, or one "
                "for each."
            )
        paths = paths * len(roles) if len(paths) == 1 else paths
        return [
            GLoRA(*_linear(backbone, role), self.rank, path)
            for (role, _), path in zip(roles, paths, strict=True)
        ]


@register(
    "glora-search",
    "GLoRA, its paths searched on held-back images",
    paper={**AS_MANY_STEPS, "epochs": 500.0, "lr": 1e-4, "weight_decay": 1e-4},
    **INSIDE_BLOCKS,
)
@dataclass(frozen=True)
class SearchedGLoRA(FixedGLoRA):
    """A supernet, and a search over its paths; with ``paths`` what a search has found.

    Attributes:
        paths: empty to search.
        population: candidates of a round.
        rounds: of the search.
        parents: best candidates so far, of which the next are made.
        mutation: probability of a new path for a layer of a mutated candidate.
    """

    paths: str = ""
    population: PositiveInt = 50
    rounds: PositiveInt = 20
    parents: PositiveInt = 10
    mutation: PositiveFraction = 0.2

    def _layers(self, backbone: Backbone, roles: list[tuple[str, str]]) -> list[GLoRA]:
        if self.paths:
            return super()._layers(backbone, roles)
        return [
            SearchableGLoRA(*_linear(backbone, role), self.rank, number)
            for number, (role, _) in enumerate(roles)
        ]

    def _search(self, layers: Sequence[GLoRA]) -> PathSearch | None:
        searched = tuple(layer for layer in layers if isinstance(layer, SearchableGLoRA))
        if not searched:
            return None
        return PathSearch(searched, self.population, self.rounds, self.parents, self.mutation)


def _linear(backbone: Backbone, role: str) -> tuple[Tensor, Tensor | None]:
    return rows_of(backbone.site(role), "GLoRA")

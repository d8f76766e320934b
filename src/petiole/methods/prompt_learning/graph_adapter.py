"""After the idea of HeGraphAdapter (arXiv 2410.07854): class vectors that learn from a graph of texts and images.

    nodes  P_c the class as a text, N_c a text of what it is not, V_k the mean of the training images of class k, all of unit norm
    E_c = unit(P_c + sum_t F_t(sum_j a_tcj H_tj)),   a_tc = softmax_j(P_c . H_tj / T),   t over P, N and V
    z_c = s cos(v, E_c)

F_t is a low-rank map for each kind of node, 0 at the start, where the method is zero-shot. Only the abstract could be read: nodes
of both kinds of text and of images, and a small heterogeneous network that updates them. The equation is our reconstruction.
Both towers stay frozen, so training reads stored vectors, and texts are encoded once. Other class names read the same images.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Method, Plan
from petiole.methods.prompt_learning.class_names import towers_of
from petiole.methods.prompt_learning.frozen_texts import FrozenTextHead
from petiole.methods.registry import register
from petiole.ranges import PositiveFloat, PositiveInt

KINDS = ("positive", "negative", "visual")


class GraphHead(FrozenTextHead):
    """The equation above: vectors (B, d) -> logits (B, C).

    Args:
        towers: with the text tower.
        classes: C.
        rank: of F_t; 6 d r parameters in all.
        temperature: T.
        templates: of P and of N, with one ``{}`` each.
    """

    visual: Tensor

    def __init__(
        self,
        towers: TwoTowers,
        classes: int,
        *,
        rank: int,
        temperature: float,
        templates: tuple[str, str],
    ) -> None:
        super().__init__(towers, classes, *templates)
        self.temperature = temperature
        self.messages = nn.ModuleDict({kind: LowRank(self.width, rank) for kind in KINDS})
        # Until the training images are known; from zeros their map would learn nothing.
        self.register_buffer("visual", normalize(torch.randn(classes, self.width), dim=-1))

    @torch.no_grad()
    def gather(self, vectors: Tensor, labels: Tensor, is_target: Tensor) -> None:  # noqa: ARG002 - both domains
        """Set V from training vectors (n, d) and labels (n,); a class without images stays 0."""
        owners = one_hot(labels, len(self.visual)).to(vectors)
        self.visual.copy_(normalize(owners.T @ normalize(vectors, dim=-1), dim=-1))

    def embeddings(self) -> Tensor:
        """E (C, d)."""
        texts, opposites = self.texts()
        nodes, moved = (texts, opposites, self.visual.to(texts.dtype)), texts
        for kind, node in zip(KINDS, nodes, strict=True):
            shares = (texts @ node.T / self.temperature).softmax(-1)
            moved = moved + self.messages[kind](shares @ node)
        return normalize(moved, dim=-1)

    def forward(self, vector: Tensor) -> Tensor:
        return self.scale * normalize(vector, dim=-1) @ self.embeddings().to(vector.dtype).T


@register(
    "graph-adapter",
    "class vectors updated over a graph of texts and images",
    batch_size=32,
    epochs=20,
    train_on="target",
)
@dataclass(frozen=True)
class GraphAdapter(Method):
    """A graph of class texts, their opposites and training images.

    Attributes:
        rank: of the maps.
        temperature: T, of the shares.
        template: of the class.
        opposite: of what it is not.
    """

    rank: PositiveInt = 16
    temperature: PositiveFloat = 0.1
    template: str = "a photo of a {}."
    opposite: str = "a photo of no {}."

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        head = GraphHead(
            towers_of(backbone),
            classes,
            rank=self.rank,
            temperature=self.temperature,
            templates=(self.template, self.opposite),
        )
        return Plan(head=head, reads=(backbone.vector,), start=head.gather)

"""OGEN (Zang et al., ICLR 2024): features of classes that are not in the batch, made by a small network; a plug-in.

    Phi(Q, K, V) = unit(attention(Q, K, V) + MLP(Q))                        4 heads, trained and then dropped
    i_c = mu_c + r sigma_c,   r ~ U(0, 1), one for a batch                  a feature of class c, of its own statistics

For a sample with feature i of class u, which is treated as unknown, and its k nearest classes c by the cosine of mu:

    a = Phi(E_u, E_c, i_c)    the sample's class from its neighbours
    b = Phi(E_c, E_u, i)      its neighbours from the sample
    n = Phi(E_n, E_u, i)      the k nearest *new* classes by name, where ``unknown_names`` states any

    L = 512 (MSE(a, i) + MSE(b, i_c))                                                    first fifth of the training
    L + CE(a, u) / 4 + CE(b, c) / 4 + CE(n among the new) / 2 + CE(host) / 4             after it

Every CE is a mean over its features. Texts of queries and keys are constants, but for the queries E_n. mu and sigma are those of
the training images' unit features, computed once before the first step. Where ``unknown_names`` are those that the method is tested on, the
names of novel classes were seen in training, and a table should say so.

Against forgetting, the run learns from the mean of its own weights over a growing window of steps (``average_window``). This part of
the paper could not be read in code: that the squared difference is of logits, and the window's length, are our reconstruction.

Published training: CoOp with "a photo of a", SGD 2e-3, batches of 32, 10 epochs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.methods.base import Loss, LossInputs, Method, Plan
from petiole.methods.prompt_learning.class_names import TextHead
from petiole.methods.recipe import PROMPT_LEARNING
from petiole.methods.registry import create, register
from petiole.methods.self_distillation import SelfDistillation
from petiole.ranges import NonNegativeFloat, PositiveInt, UnitInterval

RECONSTRUCTION = 512.0
"""Weight of the squared errors."""
HEADS = 4
"""Of the attention; as many of them as divide the width."""


class FeatureGenerator(nn.Module):
    """Phi: (B, q, d) of texts, (B, m, d) of texts and of features -> features (B, q, d) of unit norm.

    Args:
        width: d.
        dropout: on the attention's weights.
    """

    def __init__(self, width: int, dropout: float = 0.1) -> None:
        super().__init__()
        heads = max(h for h in range(1, HEADS + 1) if width % h == 0)
        self.attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        read, _ = self.attention(query, key, value, need_weights=False)
        return normalize(read + self.mlp(query), dim=-1)


class Generated(NamedTuple):
    """A batch's features and what was made of them: i (B, d), neighbours' classes (B, k), i_c (B, k, d), a (B, d), b (B, k, d)."""

    own: Tensor
    near: Tensor
    features: Tensor
    unknown: Tensor
    known: Tensor


class UnknownClasses(Loss[LossInputs]):
    """The loss above.

    Args:
        head: the host's.
        k: neighbours.
        unknown_names: new classes.
        warm_up: share of the training in which the generator alone learns.
    """

    mean: Tensor
    spread: Tensor
    neighbours: Tensor
    passed: Tensor

    def __init__(
        self, head: TextHead, k: int, unknown_names: tuple[str, ...], warm_up: float
    ) -> None:
        super().__init__()
        classes, width = len(head.names), head.width
        self._head, self.unknown_names, self.warm_up = (head,), unknown_names, warm_up
        self.k, self.steps = min(k, classes - 1), 0
        self.generator = FeatureGenerator(width)
        self.register_buffer("mean", torch.zeros(classes, width))
        self.register_buffer("spread", torch.zeros(classes, width))
        self.register_buffer("neighbours", _nearest(self.mean, self.k))
        self.register_buffer("passed", torch.zeros((), dtype=torch.long))

    def lasts(self, steps: int, a_pass: int) -> None:  # noqa: ARG002 - shares of the whole
        """See ``Timed``."""
        self.steps = steps

    @torch.no_grad()
    def know(self, vectors: Tensor, labels: Tensor) -> None:
        """Take mean and standard deviation of each class's features (n, d), and its neighbours by them.

        A class without an image keeps 0.
        """
        unit = normalize(vectors.float(), dim=-1)
        for label in sorted(set(labels.tolist())):
            own = unit[labels == label]
            self.mean[label] = own.mean(0)
            self.spread[label] = own.std(0, correction=0)
        self.neighbours.copy_(_nearest(self.mean, self.k))

    def generate(self, inputs: LossInputs, texts: Tensor) -> Generated:
        """What the generator makes of a batch and class vectors (C, d)."""
        own = normalize(inputs.vector.float(), dim=-1)
        near = self.neighbours[inputs.labels]
        share = torch.rand((), device=own.device)
        features = self.mean[near] + share * self.spread[near]
        mine, others = texts[inputs.labels][:, None].detach(), texts[near].detach()
        unknown = self.generator(mine, others, features)[:, 0]
        return Generated(own, near, features, unknown, self.generator(others, mine, own[:, None]))

    def forward(self, inputs: LossInputs) -> Tensor:
        (head,) = self._head
        assert inputs.supervised is not None
        texts = head.embeddings().float()
        made = self.generate(inputs, texts)
        squares = mse_loss(made.unknown, made.own) + mse_loss(made.known, made.features)
        logits = head.scale * made.unknown @ texts.T
        among = head.scale * made.known.flatten(0, 1) @ texts.T
        named = cross_entropy(logits, inputs.labels) + cross_entropy(among, made.near.flatten())
        named = (named + inputs.supervised()) / 4
        if self.unknown_names:
            named = named + self._new(inputs, texts, made.own) / 2
        started = self.passed >= self.warm_up * self.steps
        if self.training:
            self.passed += 1
        return RECONSTRUCTION * squares + torch.where(started, named, 0.0 * named)

    def _new(self, inputs: LossInputs, texts: Tensor, own: Tensor) -> Tensor:
        """CE of features of the nearest new classes among all new ones."""
        (head,) = self._head
        with head.reading(self.unknown_names):
            new = head.embeddings().float()
        mine = texts[inputs.labels].detach()
        near = (mine @ new.detach().T).topk(min(self.k, len(new))).indices
        made = self.generator(new[near], mine[:, None], own[:, None])
        return cross_entropy(head.scale * made.flatten(0, 1) @ new.T, near.flatten())


def _nearest(mean: Tensor, k: int) -> Tensor:
    """The k nearest other classes by cosine, (C, k), of means (C, d)."""
    unit = normalize(mean, dim=-1)
    cosine = (unit @ unit.T).fill_diagonal_(-2.0)
    return cosine.topk(k).indices


OWN: dict[str, Any] = {"epochs": 10, "average_window": 10, "average_as": "teacher"}


@register(
    "coop+ogen",
    "coop, and generated features of classes that are not in the batch",
    host="coop",
    **PROMPT_LEARNING | OWN,
)
@dataclass(frozen=True)
class OGEN(Method):
    """A feature generator over a host.

    Attributes:
        host: registered name of a method whose head reads class names (coop, maple, ivlp, promptsrc, clip-lora).
        host_settings: of the host.
        neighbours: k.
        unknown_names: new classes, comma separated; with none the loss of new classes is left out.
        warm_up: share of the training in which the generator alone learns.
        self_distillation: weight of the squared difference from the averaged model's logits; 0 for none.
    """

    host: str = "coop"
    host_settings: dict[str, Any] = field(default_factory=dict, hash=False)
    neighbours: PositiveInt = 3
    unknown_names: str = ""
    warm_up: UnitInterval = 0.2
    self_distillation: NonNegativeFloat = 1.0

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        plan = create(self.host, self.host_settings).plan(backbone, classes)
        head = plan.head
        self._check(head, classes, supervised=plan.supervised)
        assert isinstance(head, TextHead)
        names = tuple(name.strip() for name in self.unknown_names.split(",") if name.strip())
        loss = UnknownClasses(head, self.neighbours, names, self.warm_up)
        losses: tuple[Loss[Any], ...] = (*plan.losses, loss)
        if self.self_distillation:
            losses += (SelfDistillation(self.self_distillation, measure="mse"),)

        def start(vectors: Tensor, labels: Tensor, is_target: Tensor) -> None:
            if plan.start:
                plan.start(vectors, labels, is_target)
            loss.know(plan.refine(vectors), labels)

        return replace(plan, losses=losses, supervised=0.0, start=start)

    def _check(self, head: nn.Module, classes: int, *, supervised: float) -> None:
        if not isinstance(head, TextHead) or not supervised:
            raise ConfigError(
                f"OGEN needs a host that is taught by labels and reads the name of any class; {self.host} does not. Use coop, maple, ivlp, "
                "promptsrc or clip-lora."
            )
        if classes < 2:
            raise ConfigError("OGEN takes a class for unknown beside known ones: it needs two.")

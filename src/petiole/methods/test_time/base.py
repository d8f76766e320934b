"""Adapting at test time: from several views of one unlabelled image, for that image alone.

What is trained for an image is made fresh for it and belongs to no module of the adapter, so there is nothing to put back: the reset is exact.
Several images are adapted at once, each with tensors of its own; their losses are added, and no gradient or optimiser state of
one enters another's, so that together they end as they would alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from petiole.backbones.base import Backbone, State
from petiole.backbones.hooks import Attach, attached
from petiole.errors import ConfigError
from petiole.methods.base import Plan
from petiole.methods.prompt_learning.class_vectors import ClassVectors
from petiole.methods.settings import check_names, validated
from petiole.ranges import FINITE, PositiveInt
from petiole.registry import Registry

WORDS = "text.embed"
"""The role of word embeddings, where learned contexts stand."""
ROWS = 16
"""Images in the last forward pass, as in prediction without adaptation on CPU: so many give the same bits."""


class Adapted(NamedTuple):
    """Refined vectors (B, d) and logits (B, C), one row an image."""

    vectors: Tensor
    logits: Tensor


class FrozenClassifier:
    """A trained classifier whose own weights rest.

    Args:
        backbone: frozen.
        plan: of the adapter, with its trained layers.
        copies: of the backbone's parameters, trained by the adapter.
    """

    def __init__(self, backbone: Backbone, plan: Plan, copies: Mapping[str, Tensor]) -> None:
        self.backbone, self.plan = backbone, plan
        self.copies = {name: copy.detach() for name, copy in copies.items()}
        self.classes: Tensor | None = None
        if isinstance(plan.head, ClassVectors):
            with torch.no_grad(), self.attached():
                plan.head.forget()
                self.classes = plan.head.embeddings()

    @contextmanager
    def attached(
        self,
        attach: Sequence[Attach] = (),
        *,
        before: Sequence[Attach] = (),
        words: bool = True,
    ) -> Iterator[None]:
        """With layers ``before`` the adapter, the adapter, and layers behind it; ``words=False`` without its word embeddings."""
        own = [a for a in self.plan.attach if words or a.role != WORDS]
        with attached(self.backbone, [*before, *own, *attach], self.copies, self.plan.swapped):
            yield

    @torch.no_grad()
    def lower(self, images: Tensor, attach: Sequence[Attach] = ()) -> State:
        """Images (n, 3, H, W) up to the lowest block that the adapter or these layers change."""
        cut = replace(self.plan, attach=(*self.plan.attach, *attach)).cut(self.backbone)
        return self.backbone.lower(images, cut)

    def vectors(self, state: State) -> Tensor:
        """Refined vectors (n, d); called within ``attached``."""
        values = self.backbone.upper(state, self.plan.reads)
        refined: Tensor = self.plan.refine(
            self.plan.pool(*(values[role] for role in self.plan.reads))
        )
        return refined

    def scores(self, vectors: Tensor) -> Tensor:
        """Vectors (..., d) -> logits (..., C); class vectors are those of the start."""
        rows, head = vectors.flatten(0, -2), self.plan.head
        if self.classes is None:
            logits: Tensor = head(rows)
        else:
            assert isinstance(head, ClassVectors)
            logits = head.scale * normalize(rows, dim=-1) @ self.classes.to(rows.dtype).T
        return logits.reshape(*vectors.shape[:-1], -1)


@dataclass(frozen=True)
class TestTimeMethod(ABC):
    """Adapts to images one by one, from views of each.

    Attributes:
        views: of an image: the evaluation view and random crops, mirrored or not.
        images_at_once: adapted together, a divisor of 16; memory grows with it, results do not change.
        seed: of what is drawn (starts, dropout, masks), the same for every image.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = FINITE

    views: PositiveInt = 64
    images_at_once: PositiveInt = 4
    seed: int = 0

    def __post_init__(self) -> None:
        if ROWS % self.images_at_once:
            raise ConfigError(f"images_at_once must divide {ROWS}, but is {self.images_at_once}.")

    def check(self, model: FrozenClassifier) -> None:  # noqa: B027 - most fit everything
        """Called once.

        Raises:
            ConfigError: it does not fit this classifier.
        """

    @property
    def name(self) -> str:
        """As it is registered."""
        return next(name for name in TEST_TIME.names() if TEST_TIME.get(name) is type(self))

    @abstractmethod
    def adapt(self, model: FrozenClassifier, views: Tensor) -> Adapted:
        """Adapt to each of B images and predict it.

        Args:
            model: stays as it is.
            views: (B, V, 3, H, W), preprocessed; the first of each image is its evaluation view.
        """


TEST_TIME = Registry[type[TestTimeMethod]](
    "test_time",
    "petiole.methods.test_time",
    "TEST_TIME.register",
    "petiole.test_time",
    described=True,
)


def make_test_time(name: str, settings: Mapping[str, Any] | None = None) -> TestTimeMethod:
    """Build a way to adapt at test time by name; ``settings`` are the fields of its class, texts are converted.

    Raises:
        ConfigError: unknown name or setting, or a value of the wrong type or out of range.
    """
    cls, what = TEST_TIME.find(name), f"--adapt {name}"
    check_names(settings or {}, cls, f"setting of {what}")
    return validated(cls, settings or {}, what)

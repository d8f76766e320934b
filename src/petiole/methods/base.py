"""A method is data plus one small file: settings and ``plan(network) -> layers, head, losses``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES, FrozenNetwork
from petiole.backbones.hooks import Attach
from petiole.layers.injected import Injected
from petiole.layers.pool import First
from petiole.methods.path_search import PathSearch
from petiole.methods.recipe import Recipe
from petiole.ranges import FINITE

Inputs = TypeVar("Inputs")
SOLVED = frozenset({"train_on", "class_weight"})
"""Fields of a recipe that decide a head which is solved: which images it learns from, and how their classes weigh."""


@dataclass(frozen=True)
class LossInputs:
    """What a loss sees of a training step on labelled images.

    Attributes:
        vector: (B, d), refined.
        logits: (B, K).
        labels: (B,).
        is_target: (B,), the images' domain.
        values: final roles that the plan reads or studies, as the adapted model gives them.
        anchors: what stays as it was: final roles of the bare backbone, and a teacher's ``logits``.
        again: the batch once more, without dropout and under the weights of the moment: vector (B, d) and logits
            (B, K). Within ``SelfTeacher.weights`` these are the teacher's.
        supervised: the cross-entropy of the labels, unweighted, for a loss that gives it a weight of its own.
    """

    vector: Tensor
    logits: Tensor
    labels: Tensor
    is_target: Tensor
    values: Mapping[str, Tensor]
    anchors: Mapping[str, Tensor]
    again: Callable[[], tuple[Tensor, Tensor]] | None = None
    supervised: Callable[[], Tensor] | None = None


class SelfTeacher(Protocol):
    """An average of the trained weights that gives targets (recipe: ``average_decay``, ``average_as``)."""

    def weights(self) -> AbstractContextManager[None]:
        """Within the context the network computes with the average, without gradients."""
        ...


@runtime_checkable
class SelfTaught(Protocol):
    """A module of the loss that takes targets from the average of the weights."""

    def learn_from(self, teacher: SelfTeacher) -> None:
        """Called once before the first step, where the recipe keeps an average."""
        ...


@runtime_checkable
class Timed(Protocol):
    """A module of the loss that changes on the way through a training."""

    def lasts(self, steps: int, a_pass: int) -> None:
        """Called once before the first step: optimiser steps of the whole training, done ones included, and of a pass."""
        ...


class TrainingAdversary(Protocol):
    """A module that changes the images of a batch before the step is taken on them.

    Attributes:
        gradient_evaluations: forward and backward passes that it takes for a batch.
    """

    gradient_evaluations: int

    def __call__(self, loss: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """Preprocessed images (B, 3, H, W) -> changed ones, detached; ``loss`` of images is what it raises."""
        ...


class Loss(nn.Module, ABC, Generic[Inputs]):
    """A loss beside the task's own, or one of a codebook model's.

    Its parameters are trained and then dropped: they do not serve prediction. ``Inputs`` is what the kind of network
    gives it: ``LossInputs``, ``TextLossInputs`` or ``CodebookLossInputs``.

    Args:
        weight: lambda, the factor in the total loss.

    A loss may own whole networks, for example one that generates features of classes that are not in the batch
    (as OGEN does: Zang et al., ICLR 2024, section 3.2).

    Attributes:
        used_within: how soon its parameters must have had a gradient: ``step``, ``pass`` or ``run`` (never
            checked: for a loss that starts late).
        studies: roles that it reads and prediction does not.
    """

    studies: tuple[str, ...] = ()
    used_within: Literal["step", "pass", "run"] = "step"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def begin(self) -> None:
        """Called once before training, with nothing on the backbone.

        The plan's head knows the class names by then, and so do heads of class names that this loss registers.
        """

    @abstractmethod
    def forward(self, inputs: Inputs) -> Tensor:
        """Return the unweighted loss of a batch."""


@dataclass(frozen=True, kw_only=True)
class Changes:
    """What a method changes inside a frozen network.

    Attributes:
        attach: layers at roles.
        tune: parameters of the network of which a copy is trained.
        frozen_copies: parameters of the network of which a copy is stored untrained, because they are drawn and not
            pretrained.
        shared: modules that several attached layers use and none of them holds.
        injected: modules of another library that answer in the place of the network's own.
        identity: whether fresh layers leave the network's function bit-equal; ``None`` where that is
            for another library to say.
    """

    attach: tuple[Attach, ...] = ()
    tune: tuple[str, ...] = ()
    frozen_copies: tuple[str, ...] = ()
    shared: tuple[nn.Module, ...] = ()
    injected: Injected | None = None
    identity: bool | None = True

    @property
    def adapters(self) -> tuple[nn.Module, ...]:
        """Every trained module inside the network."""
        inside = (self.injected,) if self.injected else ()
        return (*(a.layer for a in self.attach), *self.shared, *inside)

    @property
    def swapped(self) -> Mapping[str, nn.Module]:
        """Path of a network's module -> the module that answers in its place."""
        return self.injected.modules_by_path if self.injected else {}


@runtime_checkable
class Carrier(Protocol):
    """A module that keeps changes on a frozen network while it is trained.

    Attributes:
        frozen: the network.
        changes: of one method.
    """

    @property
    def frozen(self) -> FrozenNetwork: ...

    @property
    def changes(self) -> Changes: ...


@dataclass(frozen=True, kw_only=True)
class Plan(Changes):
    """What a method puts onto a network.

    An image becomes  logits = head(refine(pool(values of ``reads``))), with ``attach`` and ``tune``
    at work inside the backbone. Language models have a head of their own, so ``reads`` is empty there; in a codebook
    model the changes are those of projector and language model, and ``encoder`` has the others.

    Attributes (those of ``Changes``, such as ``attach`` and ``shared``, stand there):
        head: vector -> logits (B, K). A head with a ``solve`` is solved, not trained.
        reads: final roles that ``pool`` receives, in order.
        pool: values of ``reads`` -> one vector (B, d).
        refine: corrects the vector, (B, d) -> (B, d).
        losses: extra losses.
        anchors: final roles of the bare backbone that the losses compare with.
        teacher: folder of an adapter whose logits the losses read; empty for none.
        supervised: factor on the cross-entropy of the labels.
        start: called once before the first step with the training images' pooled vectors (n, d) in the evaluation
            view, labels (n,) and whether each is of the target (n,): sets head and refinement to where they begin.
        adversary: changes the images of each training batch; training then starts from the pixels.
        encoder: changes in the image encoder below a codebook.
        search: over the paths of attached layers, on images held back from the training images, after the training.
        settled: settings of the method that a training has settled, such as the paths that were found; the adapter's file
            states them.
    """

    head: nn.Module = field(default_factory=nn.Identity)
    reads: tuple[str, ...] = ()
    pool: nn.Module = field(default_factory=First)
    refine: nn.Module = field(default_factory=nn.Identity)
    losses: tuple[Loss[Any], ...] = ()
    anchors: tuple[str, ...] = ()
    teacher: str = ""
    supervised: float = 1.0
    start: Callable[[Tensor, Tensor, Tensor], None] | None = None
    adversary: TrainingAdversary | None = None
    encoder: Changes = field(default_factory=Changes)
    search: PathSearch | None = None
    settled: dict[str, Any] = field(default_factory=dict)

    @property
    def adapters(self) -> tuple[nn.Module, ...]:
        """All that is neither head nor training-only."""
        return (*super().adapters, self.pool, self.refine)

    @property
    def studied(self) -> tuple[str, ...]:
        """All final roles that training reads."""
        return tuple(dict.fromkeys(chain(self.reads, *(loss.studies for loss in self.losses))))

    def cut(self, backbone: Backbone, *, training: bool = False) -> tuple[str, ...]:
        """The highest cut below all that this plan touches in the backbone, and reads of it."""
        inside = [a.role for a in self.attach] + [a.reads for a in self.attach if a.reads]
        if training and self.adversary:
            return (IMAGES,)
        # A path counts as a parameter of that module: some modules have none of their own.
        weights = (*self.tune, *(f"{path}." for path in self.swapped))
        reads = self.studied if training else self.reads
        return backbone.cut_below([*inside, *map(backbone.role_of, weights)], reads)

    def modules(self) -> Iterator[nn.Module]:
        """Every module that the plan owns."""
        return chain(self.adapters, (self.head,), self.losses)


@dataclass(frozen=True)
class Method(ABC):
    """A frozen config that knows where its layers go. Subclasses add fields and ``plan``.

    Attributes:
        lr_grid: learning rates worth trying, from the most careful up; empty where there is none.
        transductive: its protocol trains on unlabelled images of the classes that it is tested on.
        adapts: backbones of images, encoder-decoders, or vision-language models over a codebook.
        recipe_fields: fields of the recipe that the training reads, where those are few: a head that is solved takes
            no steps. ``None`` for all.
    """

    lr_grid: ClassVar[tuple[float, ...]] = ()
    transductive: ClassVar[bool] = False
    adapts: ClassVar[Literal["images", "language", "codebook"]] = "images"
    recipe_fields: ClassVar[frozenset[str] | None] = None
    __pydantic_config__: ClassVar[dict[str, Any]] = FINITE

    recipe: Recipe = field(default_factory=Recipe, kw_only=True)

    # Any, because which kind of network is a method's own to state (``adapts``): a subclass narrows the type.
    @abstractmethod
    def plan(self, network: Any, classes: int) -> Plan:
        """Build fresh layers for this network.

        Args:
            network: a ``Backbone``, a ``Seq2Seq`` or an ``LVLM``, as ``adapts`` says.
            classes: K of the head of an image backbone; without meaning for language models.

        Raises:
            ConfigError: the network is of another kind or lacks a role that the method needs, or a size is
                impossible.
        """

"""What every adaptation of an encoder-decoder shares: which rows of Table 1 it can be, and the V->L block.

Whatever a method adds, the V->L block is trained with it and stored (its codes of places stay as they were drawn, and
are stored too), because a language model was never pre-trained with one. Layer norms or biases may be
trained beside it. (VL-Adapter, Sung et al., 2022; spec vladapter.md, section 2.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import nn

from petiole.backbones.base import Backbone, FrozenNetwork
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.tasks import Sharing, shared
from petiole.methods.base import Changes, Method, Plan

Also = Literal["nothing", "norms", "biases", "everything"]
"""What of the language model's own is trained beside the layers; with everything, the codes of places too."""

PLACES = {"encoder": ("attn", "mlp"), "decoder": ("attn", "cross", "mlp")}
"""Branches that join the stream, of every block of encoder and decoder."""
CODES, DECODER = "visual.codes", "decoder"

LANGUAGE: dict[str, Any] = {
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.01,
    "epsilon": 1e-6,
    "clip": 5.0,
    "epochs": 20,
    "batch_size": 500,
}
"""The published training of all rows (spec 4.1): AdamW, a linear rise and fall, clipped at 5, 20 passes."""


def language_of(backbone: FrozenNetwork) -> Seq2Seq:
    """The model, if it is an encoder-decoder.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(backbone, Seq2Seq):
        raise ConfigError(
            f"This method adapts a language model, and {backbone.name} has none. Use a CLIP-BART or CLIP-T5 "
            "(clip-bart-base, clip-t5-base, petiole/tiny-vl, or a BART or T5 folder)."
        )
    return backbone


@dataclass(frozen=True)
class LanguageMethod(Method):
    """Layers in a language model, for several tasks.

    Attributes:
        tasks: how many; set by the data.
        sharing: single | multiple | half_up | half_down, see ``layers.tasks``.
        also: what of the language model's own is trained too.
        dropout: let the language model drop out in training, at the rates of its configuration.
        eyes: what of the image backbone is trained too: nothing (``frozen``), ``all``, its ``last`` block or
            stage, its ``norms``.
        classifier: choose from a list of so many answers by a head on the encoder, without a decoder (the
            discriminative variant; published: 3129); 0 writes answers.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)
    adapts: ClassVar[Literal["images", "language", "codebook"]] = "language"
    shares: ClassVar[bool] = True
    """Whether there are layers that tasks can have in common or each for itself."""

    tasks: int = 4
    sharing: Sharing = "single"
    also: Also = "norms"
    dropout: bool = True
    eyes: Literal["frozen", "all", "last", "norms"] = "frozen"
    classifier: Annotated[int, Field(ge=0)] = 0

    def plan(self, backbone: Backbone, classes: int) -> Plan:  # noqa: ARG002 - no image model will do
        language_of(backbone)
        raise ConfigError(
            f"{backbone.name} is adapted with petiole multitask, not with petiole fit."
        )

    def changes(self, model: Seq2Seq) -> Changes:
        """Fresh layers for this model, and what of it is trained and kept.

        Raises:
            ConfigError: a size or a sharing is impossible, or nothing is left to train.
        """
        if self.sharing != "single" and not self.shares:
            raise ConfigError(
                f"{type(self).__name__} has no layers of single tasks, so sharing={self.sharing} means nothing. "
                "Leave it at single."
            )
        attach, common = self.layers(model)
        eyes = [name for name, _ in model.module.named_parameters() if name.startswith("visual.")]
        whole = self.also == "everything"
        tune = tuple(name for name in eyes if whole or name != CODES) + also(model, self.also)
        if self.classifier:
            attach = tuple(a for a in attach if not a.role.startswith(DECODER))
            tune = tuple(name for name in tune if not model.role_of(name).startswith(DECODER))
        if not attach and not tune:
            raise ConfigError(
                f"{model.name} has no V->L block and also={self.also}, so nothing would be trained. Give the model "
                "a vision width, or train norms, biases or layers."
            )
        return Changes(
            attach=attach,
            shared=common,
            tune=tune,
            kept=(CODES,) if CODES in eyes and not whole else (),
            identity=self.starts_as_it_was(),
        )

    @abstractmethod
    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:
        """Attached layers, and modules that several of them use."""

    def starts_as_it_was(self) -> bool:
        """Whether fresh layers change nothing."""
        return False

    def for_tasks(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A layer of this kind as the method shares it."""
        return shared(make, self.tasks, self.sharing)

    def on_branches(self, model: Seq2Seq, make: Callable[[], nn.Module]) -> tuple[Attach, ...]:
        """A layer added to what every branch gives, before dropout, residual and norm."""
        return tuple(
            Attach(f"{stream}.block.{i}.{place}.out", self.for_tasks(make))
            for stream, i, place in blocks(model)
        )


def also(model: Seq2Seq, what: Also) -> tuple[str, ...]:
    """Names of the language model's own parameters that are trained beside the layers."""
    match what:
        case "nothing":
            return ()
        case "norms":
            return model.norm_parameters()
    own = (name for name, _ in model.module.language.named_parameters(prefix="language"))
    return tuple(name for name in own if what == "everything" or is_bias(name))


def is_bias(name: str) -> bool:
    """Whether a parameter is a bias; T5 has none but those of relative positions."""
    return name.endswith(".bias") or "attention_bias" in name


def blocks(model: Seq2Seq) -> Iterator[tuple[str, int, str]]:
    """(stream, block, place) of every branch that joins a stream: 30 in BART-base, 60 in T5-base."""
    for (stream, places), depth in zip(PLACES.items(), model.depths, strict=True):
        for i in range(depth):
            for place in places:
                yield stream, i, place


def attentions(model: Seq2Seq) -> Iterator[str]:
    """Every attention, cross-attention too, as the beginning of its roles: 18 in BART-base, 36 in T5-base."""
    for stream, i, place in blocks(model):
        if place != "mlp":
            yield f"{stream}.block.{i}.{place}"

"""What every adaptation of an encoder-decoder shares: which rows of Table 1 it can be, and the V->L block.

Whatever a method adds, the V->L block is trained with it and stored (its codes of places stay as they were drawn, and
are stored too), because a language model was never pre-trained with one. Layer norms or biases may be
trained beside it. (VL-Adapter, Sung et al., 2022; spec vladapter.md, section 2.)
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from petiole.backbones.base import Backbone, Frozen
from petiole.backbones.hooks import Attach
from petiole.backbones.seq2seq import Seq2Seq
from petiole.errors import ConfigError
from petiole.layers.tasks import Sharing, shared
from petiole.methods.base import Changes, Method, Plan

Also = Literal["nothing", "norms", "biases"]
"""What of the language model's own is trained beside the layers."""

PLACES = ("attn", "cross", "mlp")
CODES = "visual.codes"

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


def language_of(backbone: Frozen) -> Seq2Seq:
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
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    tasks: int = 4
    sharing: Sharing = "single"
    also: Also = "norms"
    dropout: bool = True

    def plan(self, backbone: Backbone, classes: int) -> Plan:  # noqa: ARG002 - no image model will do
        language_of(backbone)
        raise ConfigError(
            f"{backbone.name} is adapted with petiole multitask, not with petiole fit."
        )

    def changes(self, model: Seq2Seq) -> Changes:
        """Fresh layers for this model, and what of it is trained and kept.

        Raises:
            ConfigError: a size is impossible, or the model lacks what is asked for.
        """
        attach, common = self.layers(model)
        eyes = [name for name, _ in model.module.named_parameters() if name.startswith("visual.")]
        own = also(model, self.also)
        return Changes(
            attach=attach,
            shared=common,
            tune=tuple(name for name in (*eyes, *own) if name != CODES),
            kept=(CODES,) if CODES in eyes else (),
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


def also(model: Seq2Seq, what: Also) -> tuple[str, ...]:
    """Names of the language model's own parameters that are trained beside the layers."""
    if what == "norms":
        return model.norm_parameters()
    if what == "biases":
        # T5 has none but the relative ones of position.
        names = (name for name, _ in model.module.language.named_parameters(prefix="language"))
        return tuple(n for n in names if n.endswith(".bias") or "attention_bias" in n)
    return ()


def blocks(model: Seq2Seq) -> Iterator[tuple[str, int, str]]:
    """(stream, block, place) of every branch that joins a stream: 30 in BART-base, 60 in T5-base."""
    for stream, depth in zip(("encoder", "decoder"), model.depths, strict=True):
        for i in range(depth):
            for place in PLACES:
                if place != "cross" or stream == "decoder":
                    yield stream, i, place

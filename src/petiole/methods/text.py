"""What every adaptation of an encoder-decoder shares: which rows of Table 1 it can be, and the V->L block.

Whatever a method adds, the V->L block is trained with it and stored (its codes of places stay as they were drawn, and
are stored too), because a language model was never pre-trained with one. Layer norms or biases may be
trained beside it (VL-Adapter, Sung et al., 2022).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.errors import ConfigError
from petiole.layers.tasks import Sharing, shared
from petiole.methods.base import Changes, Loss, Method, Plan
from petiole.ranges import PositiveInt

Unfreeze = Literal["nothing", "norms", "biases", "everything"]
"""What of the language model's own is trained beside the layers; with everything, the codes of places too."""

BRANCHES = {"encoder": ("attn", "mlp"), "decoder": ("attn", "cross", "mlp")}
"""Branches that join the stream, of every block of encoder and decoder."""
CODES, DECODER = "visual.codes", "decoder"

VL_ADAPTER_RECIPE: dict[str, Any] = {
    "schedule": "linear",
    "warmup": 0.1,
    "weight_decay": 0.01,
    "epsilon": 1e-6,
    "clip": 5.0,
    "epochs": 20,
    "batch_size": 500,
}
"""The published training of all rows (Sung et al., 2022): AdamW, a linear rise and fall, clipped at 5, 20 passes."""


@dataclass(frozen=True)
class TextLossInputs:
    """What a loss sees of a training step on texts.

    Attributes:
        logits: (B, T, V) scores of every token of the labels; (B, A) of every answer where a classifier chooses.
        labels: (B, T) ids of the targets; (B, A) scores of the answers.
        batch: what the task collated: inputs of the encoder, and the task of each row.
        model: the frozen model underneath, with the method's changes on it meanwhile.
    """

    logits: Tensor
    labels: Tensor
    batch: Any
    model: Seq2Seq


def encoder_decoder_of(network: FrozenNetwork) -> Seq2Seq:
    """The model, if it is an encoder-decoder.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(network, Seq2Seq):
        raise ConfigError(
            f"This method adapts a language model, and {network.name} has none. Use a CLIP-BART or CLIP-T5 "
            "(clip-bart-base, clip-t5-base, petiole/tiny-vl, or a BART or T5 folder)."
        )
    return network


@dataclass(frozen=True)
class TextMethod(Method):
    """Layers in an encoder-decoder, for several tasks.

    Attributes:
        tasks: how many; set by the data.
        sharing: single | multiple | half_up | half_down, see ``layers.tasks``.
        unfreeze: what of the language model's own is trained too.
        dropout: let the language model drop out in training, at the rates of its configuration.
        vision: what of the image backbone is trained too: nothing (``frozen``), ``all``, its ``last`` block or
            stage, its ``norms``.
        classifier: choose from a list of so many answers by a head on the encoder, without a decoder (the
            discriminative variant; published: 3129); 0 writes answers.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)
    adapts: ClassVar[Literal["images", "language", "codebook"]] = "language"
    shares: ClassVar[bool] = True
    """Whether there are layers that tasks can have in common or each for itself."""

    tasks: PositiveInt = 4
    sharing: Sharing = "single"
    unfreeze: Unfreeze = "norms"
    dropout: bool = True
    vision: Literal["frozen", "all", "last", "norms"] = "frozen"
    classifier: Annotated[int, Field(ge=0)] = 0

    @abstractmethod
    def layers(self, model: Seq2Seq) -> Changes:
        """Attached layers, modules that several of them use, and whether they start at the frozen model."""

    def losses(self, model: Seq2Seq) -> tuple[Loss[TextLossInputs], ...]:  # noqa: ARG002 - for methods that have some
        """Losses beside the cross-entropy of the tokens."""
        return ()

    def plan(self, network: FrozenNetwork, classes: int = 0) -> Plan:  # noqa: ARG002 - answers are texts
        """Fresh layers for this model, and what of it is trained and stored.

        Raises:
            ConfigError: a size or a sharing is impossible, or nothing is left to train.
        """
        model = encoder_decoder_of(network)
        if self.sharing != "single" and not self.shares:
            raise ConfigError(
                f"{type(self).__name__} has no layers of single tasks, so sharing={self.sharing} means nothing. "
                "Leave it at single."
            )
        if not model.depths[1] and not self.classifier:
            raise ConfigError(
                f"{model.name} has no decoder, so it cannot write answers: set classifier to the number of answers that it "
                "chooses from."
            )
        added = self.layers(model)
        attach, whole = added.attach, self.unfreeze == "everything"
        visual = [name for name, _ in model.module.named_parameters() if name.startswith("visual.")]
        tune = tuple(name for name in visual if whole or name != CODES)
        tune += unfrozen(model, self.unfreeze)
        if self.classifier:
            attach = tuple(a for a in attach if not a.role.startswith(DECODER))
            tune = tuple(name for name in tune if not model.role_of(name).startswith(DECODER))
        if not attach and not tune:
            raise ConfigError(
                f"{model.name} has no V->L block and unfreeze={self.unfreeze}, so nothing would be trained. Give the "
                "model a vision width, or train norms, biases or layers."
            )
        return Plan(
            attach=attach,
            shared=added.shared,
            tune=tune,
            frozen_copies=(CODES,) if CODES in visual and not whole else (),
            identity=added.identity,
            losses=self.losses(model),
        )

    def for_tasks(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A layer of this kind as the method shares it."""
        return shared(make, self.tasks, self.sharing)


def unfrozen(model: Seq2Seq, what: Unfreeze) -> tuple[str, ...]:
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
    """(stream, block, branch) of every branch that joins a stream: 30 in BART-base, 60 in T5-base."""
    for (stream, branches), depth in zip(BRANCHES.items(), model.depths, strict=True):
        for i in range(depth):
            for branch in branches:
                yield stream, i, branch


def attentions(model: Seq2Seq) -> Iterator[str]:
    """Every attention, cross-attention too, as the beginning of its roles: 18 in BART-base, 36 in T5-base."""
    for stream, i, branch in blocks(model):
        if branch != "mlp":
            yield f"{stream}.block.{i}.{branch}"

"""Methods that train copies of some of a network's own parameters and add no layers.

A class for each names the parameters. BatchNorm statistics stay those of the pretraining, because the network stays in
eval mode.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.layers.heads import LinearHead
from petiole.methods.base import Changes, Method, Plan
from petiole.methods.blocks import select
from petiole.methods.codebook.base import CRAFT_RECIPE, LanguageSideMethod
from petiole.methods.recipe import AS_MANY_STEPS, INSIDE_BLOCKS
from petiole.methods.registry import register
from petiole.methods.text import VL_ADAPTER_RECIPE, TextMethod

_NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.RMSNorm)


@dataclass(frozen=True)
class TunedCopies(Method):
    """A linear head, and copies of the parameters of a vision backbone that ``names`` gives."""

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    @abstractmethod
    def names(self, backbone: Backbone) -> tuple[str, ...]:
        """Names of the backbone's parameters of which a copy is trained.

        Raises:
            ConfigError: the backbone has none of the kind.
        """

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            tune=self.names(backbone),
        )


@register("bitfit", "the backbone's biases", paper=AS_MANY_STEPS, **INSIDE_BLOCKS)
@dataclass(frozen=True)
class BitFit(TunedCopies):
    """BitFit (Ben Zaken et al., 2022): biases of projections and of normalisation layers."""

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        own = backbone.parameters_under()
        return tuple(name for name in own if name.rpartition(".")[2] == "bias")


@register(
    "layernorm",
    "scales and shifts of the normalisation layers",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
)
@dataclass(frozen=True)
class LayerNormTuning(TunedCopies):
    """LayerNorm tuning (Basu et al., 2023): 2 d parameters a LayerNorm; on a CNN the BatchNorms' (their statistics stay)."""

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        return norms(backbone)


@register("full", "full fine-tuning", paper=AS_MANY_STEPS, **INSIDE_BLOCKS, lr=1e-4, head_lr=10.0)
@dataclass(frozen=True)
class FullFineTuning(TunedCopies):
    """Every parameter whose role starts with ``part``.

    The copies start from weights that are good already and the head from noise, so the head's rate
    is ten times theirs. ``--set layer_decay=0.75`` lowers the rate block by block towards the image.

    Attributes:
        part: e.g. ``block.11`` or ``final.tokens``; empty for the whole backbone.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (1e-5, 3e-5, 1e-4, 3e-4)

    part: str = ""

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        return backbone.parameters_under(self.part)


@register(
    "partial",
    "fine-tuning of the last blocks",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
    lr=1e-4,
    head_lr=10.0,
)
@dataclass(frozen=True)
class PartialFineTuning(TunedCopies):
    """Copies of whole blocks, usually the last, and of the final normalisation.

    Attributes:
        blocks: last:k | first:k | every:k | 0,3,7 | all.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-5, 1e-4, 3e-4)

    blocks: str = "last:1"

    def names(self, backbone: Backbone) -> tuple[str, ...]:
        chosen = [f"block.{i}" for i in select(self.blocks, backbone)]
        parts = map(backbone.parameters_under, [*chosen, "final.tokens"])
        return tuple(name for part in parts for name in part)


@register(
    "vl-full", "the whole language model", **VL_ADAPTER_RECIPE, lr=1e-4, unfreeze="everything"
)
@register(
    "vl-bitfit", "the language model's biases", **VL_ADAPTER_RECIPE, lr=1e-3, unfreeze="biases"
)
@register(
    "vl-layernorm", "the language model's norms", **VL_ADAPTER_RECIPE, lr=1e-3, unfreeze="norms"
)
@register("vl-projection", "the V->L block alone", **VL_ADAPTER_RECIPE, lr=1e-3, unfreeze="nothing")
@dataclass(frozen=True)
class VLTuning(TextMethod):
    """The V->L block of an encoder-decoder and what ``unfreeze`` names; one copy for all tasks.

    ``vl-full`` is full fine-tuning of VL-Adapter's tables (everything but the image backbone), ``vl-projection`` and
    ``vl-layernorm`` its ablation (Sung et al., 2022), ``vl-bitfit`` VL-PET's row (Ben Zaken et al., 2022).
    """

    shares: ClassVar[bool] = False

    def layers(self, model: Seq2Seq) -> Changes:  # noqa: ARG002
        return Changes()


@register("projector-ft", "the projector alone", **CRAFT_RECIPE | {"lr": 1e-3})
@dataclass(frozen=True)
class ProjectorFT(LanguageSideMethod):
    """Copies of the parameters of a codebook model's projector."""

    def language_changes(self, model: LVLM) -> Changes:
        return Changes(tune=model.parameters_under("visual"))


def norms(backbone: Backbone) -> tuple[str, ...]:
    """Scales and shifts of every normalisation layer."""
    found = {
        f"{path}.{name}"
        for path, module in backbone.module.named_modules()
        if isinstance(module, _NORMS)
        for name, _ in module.named_parameters(recurse=False)
    }
    return tuple(name for name in backbone.parameters_under() if name in found)

"""LoRA (Hu et al., 2022) in whatever network: W x + s B A x at a role, B = 0 at the start.

    lora-qkv, dora               q, k and v of the blocks of a vision backbone, a linear head
    clip-lora                    q, k and v of both towers of a CLIP, class names as the head
    vl-lora, vl-loras, vl-dora   q and v of every attention of an encoder-decoder
    llm-lora                     the attentions of a codebook model's language model

A fused qkv is three roles, so q, k and v each have their own A and B: r (in + out) parameters a projection. s is written
a / r in the paper; rank-stabilised LoRA (Kalajdzievski, 2023) takes a / sqrt(r). DoRA (Liu et al., 2024) trains the length
of every weight row beside its direction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import sqrt
from typing import ClassVar

from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.causal import attention_layers
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.frozen_network import FrozenNetwork, Site
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError, unknown
from petiole.layers.checks import positive
from petiole.layers.dora import DoRA
from petiole.layers.heads import LinearHead
from petiole.layers.injected import Injected
from petiole.layers.lowrank import LowRank
from petiole.methods.base import Changes, Method, Plan
from petiole.methods.blocks import select
from petiole.methods.codebook.base import CRAFT_RECIPE, LanguageSideMethod
from petiole.methods.prompt_learning.class_names import SentenceTemplate, TextHead, towers_of
from petiole.methods.recipe import AS_MANY_STEPS, INSIDE_BLOCKS
from petiole.methods.registry import register
from petiole.methods.text import VL_ADAPTER_RECIPE, TextMethod, Unfreeze, attentions
from petiole.ranges import DropRate, PositiveInt


@dataclass(frozen=True)
class LowRankUpdates:
    """W x + s B A dropout(x), in the projections of any network.

    Attributes:
        rank: r.
        scale: s.
        dropout: on the input of A.
        magnitude: train the rows' lengths too (DoRA).
    """

    rank: int
    scale: float
    dropout: float
    magnitude: bool = False

    def __post_init__(self) -> None:
        positive(rank=self.rank)

    def at(
        self,
        network: FrozenNetwork,
        role: str,
        reads: str,
        share: Callable[[Callable[[], nn.Module]], nn.Module] = lambda make: make(),
    ) -> Attach:
        """A fresh update of the projection that gives ``role`` from ``reads``.

        Args:
            share: makes one layer of several, e.g. one for each task.
        """
        site, width = network.site(role), network.site(reads).width
        scale, dropout = self.scale, self.dropout

        def make() -> LowRank:
            if self.magnitude:
                return DoRA(rows_of(site, "DoRA")[0], self.rank, scale=scale, dropout=dropout)
            return LowRank(width, self.rank, scale=scale, out=site.width, dropout=dropout)

        return Attach(role, share(make), reads)


def rows_of(site: Site, method: str) -> tuple[Tensor, Tensor | None]:
    """The rows (out, in) of the linear layer that produce a value, and their biases (out,) where it has any.

    Raises:
        ConfigError: ``method`` reads them, and there is no such layer, or it is packed.
    """
    layer = site.module
    if not isinstance(layer, nn.Linear):
        raise ConfigError(f"{method} needs a linear layer, not {type(layer).__name__}.")
    if not layer.weight.is_floating_point():
        raise ConfigError(
            f"{method} reads the frozen weights, which bitsandbytes has packed. Take lora-qkv, or --quantize int8."
        )
    rows = site.columns or slice(None)
    return layer.weight[rows], None if layer.bias is None else layer.bias[rows]


@register("lora-qkv", "LoRA on q, k and v of every block", paper=AS_MANY_STEPS, **INSIDE_BLOCKS)
@register(
    "dora",
    "DoRA on q, k and v of every block",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
    magnitude=True,
)
@dataclass(frozen=True)
class LoRA(Method):
    """LoRA on the attention's projections of a vision backbone: 6 d r parameters a block.

    Attributes:
        rank: r. 14 meets the budget of 1.8 % of the row "Standard LoRA QKV" of CLS-Residual LoRA (Yong, 2026).
        scale: a / r.
        rank_stabilised: multiply by sqrt(r), so that the factor is a / sqrt(r).
        magnitude: train the rows' lengths too (DoRA).
        targets: which of q, k, v, comma separated.
        blocks: all | every:k | first:k | last:k | 0,3,7.
        dropout: on the input of A.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    rank: PositiveInt = 16
    scale: float = 1.0
    rank_stabilised: bool = False
    magnitude: bool = False
    targets: str = "q,k,v"
    blocks: str = "all"
    dropout: DropRate = 0.0

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        names = [name.strip() for name in self.targets.split(",")]
        for name in names:
            if name not in ("q", "k", "v"):
                raise unknown("LoRA target", name, ("q", "k", "v"))
        updates = LowRankUpdates(self.rank, self.scale, self.dropout, self.magnitude)
        if self.rank_stabilised:
            updates = replace(updates, scale=self.scale * sqrt(self.rank))
        attach = tuple(
            updates.at(backbone, f"block.{i}.attn.{name}", f"block.{i}.attn.in")
            for i in select(self.blocks, backbone)
            for name in names
        )
        head = LinearHead(backbone.width, classes)
        return Plan(head=head, reads=(backbone.vector,), attach=attach)


@register(
    "clip-lora",
    "LoRA in both towers, class names as the head",
    lr=2e-4,
    weight_decay=1e-2,
    batch_size=32,
    train_on="target",
)
@dataclass(frozen=True)
class CLIPLoRA(Method):
    """CLIP-LoRA (Zanella & Ben Ayed, 2024): r = 2, a = 1 on q, k and v of both towers.

    Published training: AdamW 2e-4, decay 0.01, batches of 32, 500 steps for each shot.

    Attributes:
        rank: r.
        scale: a / r.
        dropout: on the input of A.
        template: of the sentences.
    """

    rank: PositiveInt = 2
    scale: float = 0.5
    dropout: DropRate = 0.25
    template: str = "a photo of a {}."

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        updates = LowRankUpdates(self.rank, self.scale, self.dropout)
        towers = towers_of(backbone)
        blocks = [f"block.{i}" for i in range(towers.depth)]
        blocks += [f"text.block.{i}" for i in range(len(towers.text.blocks))]
        return Plan(
            head=TextHead(towers, classes, SentenceTemplate(templates=(self.template,))),
            reads=(backbone.vector,),
            attach=tuple(
                updates.at(towers, f"{block}.attn.{name}", f"{block}.attn.in")
                for block in blocks
                for name in "qkv"
            ),
        )


@register(
    "vl-lora", "LoRA on q and v of every attention, one for all tasks", **VL_ADAPTER_RECIPE, lr=1e-3
)
@register("vl-loras", "LoRA for each task", **VL_ADAPTER_RECIPE, lr=1e-3, sharing="multiple")
@register(
    "vl-dora", "DoRA on q and v, one for all tasks", **VL_ADAPTER_RECIPE, lr=1e-3, magnitude=True
)
@dataclass(frozen=True)
class VLLoRA(TextMethod):
    """LoRA on q and v of every attention of an encoder-decoder, and all of its biases (Sung et al., 2022).

    v reads the attention's memory: the stream itself, or in cross-attention the encoder's states.

    Attributes:
        rank: r.
        scale: s; published 32 / 128.
        branch_dropout: on the input of A.
        magnitude: train the rows' lengths too (DoRA).
    """

    unfreeze: Unfreeze = "biases"
    rank: PositiveInt = 128
    scale: float = 0.25
    branch_dropout: DropRate = 0.1
    magnitude: bool = False

    def layers(self, model: Seq2Seq) -> Changes:
        updates = LowRankUpdates(self.rank, self.scale, self.branch_dropout, self.magnitude)
        return Changes(
            attach=tuple(
                updates.at(model, f"{at}.{value}", f"{at}.{source}", self.for_tasks)
                for at in attentions(model)
                for value, source in (("q", "in"), ("v", "memory"))
            )
        )


@register("llm-lora", "LoRA in the attention of the language model", **CRAFT_RECIPE | {"lr": 1e-3})
@dataclass(frozen=True)
class LLMLoRA(LanguageSideMethod):
    """LoRA in a causal language model, a row beside CRAFT (arXiv 2602.19449): r 16, alpha 32, dropout 0.05.

    It goes to the attention's projections, which are our choice, and is the library peft's, because every family names
    and fuses them otherwise.

    Attributes:
        rank: r.
        alpha: the product B A is scaled by alpha / r.
        branch_dropout: on the input of A.
    """

    rank: PositiveInt = 16
    alpha: float = 32.0
    branch_dropout: DropRate = 0.05

    def language_changes(self, model: LVLM) -> Changes:
        import peft

        language = model.module.language
        config = peft.LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.branch_dropout,
            target_modules=list(attention_layers(language)),
        )
        injected = Injected(
            language, lambda twin: peft.inject_adapter_in_model(config, twin), "language"
        )
        return Changes(injected=injected)

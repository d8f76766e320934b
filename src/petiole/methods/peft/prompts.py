"""Learned tokens beside a network's own: visual prompts, prompts before a text, prefixes of keys and values.

    vpt-shallow   x_1 = [x_0 ; P],  carried through all blocks                (Jia et al., 2022)
    vpt-deep      [x_i ; _] = Block_i([x_{i-1} ; P_i]),  fresh tokens for every block
    vl-prompt     encoder input = [P] [text] [visual tokens],   P = W_2 tanh(W_1 E + b_1) + b_2    (Sung et al., 2022)
    vl-prefix     attention(q, [P_k; K], [P_v; V])                            (Li & Liang, 2021)

Prompts of class names in a CLIP are in ``methods.prompt_learning``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.errors import ConfigError
from petiole.layers.heads import LinearHead
from petiole.layers.prompt import DropLast, PromptTokens
from petiole.layers.rows import Blank, Overwrite, Prepend, Reparametrised, Rows
from petiole.methods.base import Changes, Method, Plan
from petiole.methods.blocks import select
from petiole.methods.recipe import AS_MANY_STEPS, INSIDE_BLOCKS
from petiole.methods.registry import register
from petiole.methods.text import VL_ADAPTER_RECIPE, TextMethod, Unfreeze, attentions
from petiole.ranges import DropRate, PositiveInt


@register(
    "vpt-shallow", "visual prompts before the first block", paper=AS_MANY_STEPS, **INSIDE_BLOCKS
)
@register(
    "vpt-deep",
    "visual prompts before every block",
    paper=AS_MANY_STEPS,
    **INSIDE_BLOCKS,
    deep=True,
)
@dataclass(frozen=True)
class VPT(Method):
    """Visual prompts: p d parameters, or p d for each block.

    The tokens are taken off again behind the last prompted block.

    Attributes:
        prompts: p.
        deep: fresh prompts for each block, instead of one set from the first block to the last.
        dropout: on the prompts, in training.
        blocks: all | every:k | first:k | last:k | 0,3,7; shallow prompts go from the first of them
            to the last.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (1e-3, 3e-3, 1e-2)

    prompts: PositiveInt = 10
    deep: bool = False
    dropout: DropRate = 0.0
    blocks: str = "all"

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        chosen = select(self.blocks, backbone)
        if not backbone.takes_tokens:
            raise ConfigError(
                f"The blocks of {backbone.name} take the image's own tokens only (their positions are computed inside), so they "
                "take no prompts. Use a method that adapts the blocks (lora-qkv, adaptertune), or a plain ViT."
            )
        spans = [(i, i) for i in chosen] if self.deep else [(chosen[0], chosen[-1])]
        attach = []
        for first, last in spans:
            role = f"block.{first}.in"
            fresh = PromptTokens(self.prompts, backbone.site(role).width, self.dropout)
            attach.append(Attach(role, fresh, how="replace"))
            attach.append(Attach(f"block.{last}.out", DropLast(self.prompts), how="replace"))
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            attach=tuple(attach),
            identity=False,
        )


@register(
    "vl-prompt", "prompts made by an MLP, the same for all tasks", **VL_ADAPTER_RECIPE, lr=1e-3
)
@register("vl-prompts", "prompts for each task", **VL_ADAPTER_RECIPE, lr=1e-3, sharing="multiple")
@dataclass(frozen=True)
class VLPrompt(TextMethod):
    """Prompts before the text of an encoder-decoder. A half-shared one has the MLP (``half_up``) or E (``half_down``) in common.

    P has no positions in BART and stands before the text in T5. Nothing of the language model is trained. The MLP can
    be folded away after training.

    Attributes:
        prompts: rows of E.
        hidden: width in the middle of the MLP.
    """

    unfreeze: Unfreeze = "nothing"
    prompts: PositiveInt = 40
    hidden: PositiveInt = 800

    def layers(self, model: Seq2Seq) -> Changes:
        def make() -> Prepend:
            return Prepend(Reparametrised(self.prompts, model.width, self.hidden))

        prompts = Attach("encoder.text", self.for_tasks(make), how="replace")
        return Changes(attach=(prompts,), identity=False)


@register(
    "vl-prefix", "keys and values before those of the attention", **VL_ADAPTER_RECIPE, lr=1e-3
)
@dataclass(frozen=True)
class VLPrefix(TextMethod):
    """Prefixes in every self-attention of the encoder and every cross-attention of the decoder: 2 n d numbers each.

    Blank places go in front of the text, so that every mask knows them; in each attention their keys and values are
    overwritten by learned ones. What the blank places compute besides is read by nobody. The decoder's self-attention
    has no such places and goes without. In T5 the prefix stands before the text for the biases of position, as past
    keys do.

    Attributes:
        prefix: n.
    """

    unfreeze: Unfreeze = "nothing"
    prefix: PositiveInt = 40

    def layers(self, model: Seq2Seq) -> Changes:
        def overwritten(role: str) -> Attach:
            def make() -> nn.Module:
                return Overwrite(Rows(self.prefix, model.site(role).width), 0)

            return Attach(role, self.for_tasks(make), how="replace")

        blank = Attach("encoder.text", Prepend(Blank(self.prefix, model.width)), how="replace")
        places = (
            at for at in attentions(model) if at.startswith("encoder") or at.endswith("cross")
        )
        learned = (overwritten(f"{at}.{value}") for at in places for value in "kv")
        return Changes(attach=(blank, *learned), identity=False)

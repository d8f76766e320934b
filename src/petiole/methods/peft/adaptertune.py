"""AdapterTune (Khazem, 2026): zero-initialised low-rank adapters after every block of a frozen ViT.

    Block'_l(x) = h + alpha A_l(h),   h = Block_l(x)
    A_l(h) = GELU(h W_down + b_down) W_up + b_up,   W_up = b_up = 0 at the start

The adapted network therefore starts exactly at the pretrained function. The displacement of a block
lies in b_up + rowspace(W_up), so its rank is at most r. Because of the GELU it cannot be merged into
the weights: prediction costs 2 d r N multiply-accumulates a block more.

Adapter+, AdaptFormer, Houlsby and Pfeiffer adapters are the same layer elsewhere (spec A8); the
presets state placement, size, activation and start. Their papers' own training (SGD, stochastic
depth in the backbone, a BatchNorm before AdaptFormer's head) is not part of them: every row of a
comparison is trained alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from petiole.backbones.base import Backbone
from petiole.layers.bottleneck import Activation, Bottleneck
from petiole.layers.checks import positive
from petiole.layers.heads import LinearHead
from petiole.layers.initial import starts_at_zero
from petiole.methods.base import Method, Plan
from petiole.methods.peft.weights import norms
from petiole.methods.placement import Placement, place
from petiole.methods.registry import register

PAPER = {"weight_decay": 0.05, "decay_all": True, "clip": 1.0}
"""What AdapterTune's own recipe states about the optimiser (spec A3)."""


@register("adaptertune", "zero-initialised adapters after every block", **PAPER)
@register(
    "adapter-plus",
    "Adapter+: after every block, a learned scale for each channel",
    rank=8,
    init="houlsby/houlsby",
    learn_scale=True,
    drop_path=0.1,
)
@register(
    "adaptformer",
    "AdaptFormer: ReLU bottlenecks parallel to the MLP",
    placement="parallel",
    rank=64,
    scale=0.1,
    activation="relu",
    init="kaiming/zero",
    dropout=0.1,
)
@register(
    "houlsby",
    "bottlenecks after attention and after MLP",
    placement="houlsby",
    rank=37,
    init="houlsby/houlsby",
)
@register(
    "pfeiffer",
    "bottlenecks after the MLP, behind a LayerNorm of their own",
    placement="pfeiffer",
    rank=74,
    init="bert/bert",
)
@dataclass(frozen=True)
class AdapterTune(Method):
    """Bottleneck adapters inside the blocks.

    Attributes:
        rank: r, width of the bottleneck. Houlsby's 37 and Pfeiffer's 74 meet the budget of 3.2 % of
            CLS-Residual LoRA's Table 2 on ViT-S (spec B5).
        scale: alpha, fixed; at the start, if ``learn_scale``.
        init: zero | small | houlsby | bert | xavier | default, of the up projection after a Xavier
            down projection; or DOWN/UP.
        blocks: all | every:k | every:k+offset | first:k | last:k | 0,3,7.
        placement: see ``methods.placement``.
        activation: gelu or relu.
        learn_scale: train a scale for each channel.
        dropout: inside the bottleneck, in training.
        drop_path: chance that a sample goes without an adapter, in training.
        train_norms: also train copies of the backbone's own normalisations, as Houlsby et al. do.
    """

    lr_grid: ClassVar[tuple[float, ...]] = (3e-4, 1e-3, 3e-3)

    rank: int = 16
    scale: float = 1.0
    init: str = "zero"
    blocks: str = "all"
    placement: Placement = "post"
    activation: Activation = "gelu"
    learn_scale: bool = False
    dropout: float = 0.0
    drop_path: float = 0.0
    train_norms: bool = False

    def plan(self, backbone: Backbone, classes: int) -> Plan:
        return Plan(
            head=LinearHead(backbone.width, classes),
            reads=(backbone.vector,),
            attach=place(backbone, self.placement, self.blocks, self._layer),
            tune=norms(backbone) if self.train_norms else (),
            identity=starts_at_zero(self.init),
        )

    def _layer(self, width: int) -> Bottleneck:
        positive(rank=self.rank)
        return Bottleneck(
            width,
            self.rank,
            scale=self.scale,
            learn_scale=self.learn_scale,
            activation=self.activation,
            init=self.init,
            norm=self.placement == "pfeiffer",
            dropout=self.dropout,
            drop_path=self.drop_path,
        )

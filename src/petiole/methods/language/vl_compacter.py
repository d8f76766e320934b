"""Compacter in a language model: VL-Adapter's bottlenecks with projections of Kronecker products.

    h <- h + P_up(gelu(P_down(h)))     P(x) = x (sum_i A_i (x) B_i) + b, see ``layers.phm``

VL-Adapter's rows of this name (Sung et al., 2022; spec vladapter.md, 2.3) have k = 2 and switch off what makes a
Compacter of it (Mahabadi et al., 2021): one rule A for all layers, and B of low rank. ``vl-compacter-original``
has both, at the same bottleneck.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.phm import PHM, Rule
from petiole.methods.language.base import LANGUAGE, LanguageMethod
from petiole.methods.registry import register


@register("vl-compacter", "PHM adapters, one for all tasks", **LANGUAGE, lr=1e-3)
@register(
    "vl-compacters", "PHM adapters, one for each task", **LANGUAGE, lr=1e-3, sharing="multiple"
)
@register(
    "vl-compacter-original",
    "PHM adapters of rank 1 with one rule for all layers",
    **LANGUAGE,
    lr=1e-3,
    k=4,
    rank=1,
    shared_rule=True,
)
@dataclass(frozen=True)
class VLCompacter(LanguageMethod):
    """PHM adapters in a language model.

    Attributes:
        reduction: d over the width of the bottleneck.
        k: terms of the sum; divides both widths.
        rank: of every B_i; 0 for full.
        shared_rule: all layers, and all tasks, have their A_i in common.
    """

    reduction: float = 8.0
    k: int = 2
    rank: int = 0
    shared_rule: bool = False

    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:
        size = int(model.width / self.reduction)
        common = (Rule(self.k),) if self.shared_rule else ()

        def project(width: int, out: int) -> PHM:
            return PHM(width, out, self.k, rank=self.rank, rule=next(iter(common), None))

        def make() -> Bottleneck:
            return Bottleneck(model.width, size, activation="gelu_tanh", projection=project)

        return self.on_branches(model, make), common

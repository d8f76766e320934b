"""VL-Adapter (Sung et al., 2022): bottlenecks on every branch of encoder and decoder, for all tasks at once.

    h <- h + W_up gelu(W_down h + b_down) + b_up     h the output of attention, cross-attention or MLP

before dropout, residual and norm. 30 places in BART-base. One adapter for all tasks is the paper's best row; a
half-shared one has W_up in common. Weights start at N(0, 0.02^2), as the released code's do in the end.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.initial import starts_at_zero
from petiole.methods.language.base import LANGUAGE, LanguageMethod
from petiole.methods.registry import register


@register("vl-adapter", "one adapter for all tasks, in encoder and decoder", **LANGUAGE, lr=1e-3)
@register("vl-adapters", "an adapter for each task", **LANGUAGE, lr=3e-4, sharing="multiple")
@register(
    "vl-half-shared", "adapters with the up part in common", **LANGUAGE, lr=3e-4, sharing="half_up"
)
@dataclass(frozen=True)
class VLAdapter(LanguageMethod):
    """Adapters in a language model.

    Attributes:
        reduction: d over the width of the bottleneck.
        init: of the projections, see ``layers.initial``; ``zero`` starts at the frozen model.
    """

    reduction: float = 8.0
    init: str = "bert/bert"

    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:
        size = int(model.width / self.reduction)

        def make() -> Bottleneck:
            return Bottleneck(model.width, size, activation="gelu_tanh", init=self.init)

        return self.on_branches(model, make), ()

    def starts_as_it_was(self) -> bool:
        return starts_at_zero(self.init)

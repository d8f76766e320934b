"""LoRA in every attention of a language model, and all of its biases (Hu et al., 2022; spec vladapter.md, 2.4).

    q <- W_q x + s B A x,  v <- W_v m + s B' A' m     m is what v reads: x, or in cross-attention the encoder's states

DoRA (Liu et al., 2024) also trains the length of every row of W.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.layers.checks import positive
from petiole.layers.dora import DoRA
from petiole.layers.lowrank import LowRank
from petiole.methods.language.base import LANGUAGE, Also, LanguageMethod, attentions
from petiole.methods.peft.lora import weight_of
from petiole.methods.registry import register

READS = {"q": "in", "v": "memory"}


@register("vl-lora", "LoRA on q and v of every attention, one for all tasks", **LANGUAGE, lr=1e-3)
@register("vl-loras", "LoRA for each task", **LANGUAGE, lr=1e-3, sharing="multiple")
@register("vl-dora", "DoRA on q and v, one for all tasks", **LANGUAGE, lr=1e-3, magnitude=True)
@dataclass(frozen=True)
class VLLoRA(LanguageMethod):
    """LoRA in a language model.

    Attributes:
        rank: r.
        scale: s; published 32 / 128.
        branch_dropout: on the input of A.
        magnitude: train the rows' lengths too (DoRA).
    """

    also: Also = "biases"
    rank: int = 128
    scale: float = 0.25
    branch_dropout: float = 0.1
    magnitude: bool = False

    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:
        positive(rank=self.rank)
        return tuple(
            self._at(model, f"{at}.{value}", f"{at}.{source}")
            for at in attentions(model)
            for value, source in READS.items()
        ), ()

    def _at(self, model: Seq2Seq, role: str, reads: str) -> Attach:
        site, width = model.site(role), model.site(reads).width
        scale, dropout = self.scale, self.branch_dropout

        def make() -> LowRank:
            if self.magnitude:
                return DoRA(weight_of(site), self.rank, scale=scale, dropout=dropout)
            return LowRank(width, self.rank, scale=scale, out=site.width, dropout=dropout)

        return Attach(role, self.for_tasks(make), reads)

    def starts_as_it_was(self) -> bool:
        return True

"""Prefix tuning (Li & Liang, 2021): learned keys and values before those that attention computes.

    attention(q, [P_k; K], [P_v; V])

in every self-attention of the encoder and every cross-attention of the decoder. Blank places go in front of the text, so that
every mask knows them; in each attention their keys and values are overwritten by learned ones. What the
blank places compute besides is read by nobody. The decoder's self-attention has no such places and goes
without. In T5 the prefix stands before the text for the biases of position, as past keys do.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.layers.rows import Blank, Overwrite, Prepend, Rows
from petiole.methods.language.base import LANGUAGE, Also, LanguageMethod, attentions
from petiole.methods.registry import register


@register("vl-prefix", "keys and values before those of the attention", **LANGUAGE, lr=1e-3)
@dataclass(frozen=True)
class VLPrefix(LanguageMethod):
    """Prefixes in a language model: 2 n d numbers an attention.

    Attributes:
        prefix: n.
    """

    also: Also = "nothing"
    prefix: int = 40

    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:
        places = Attach("encoder.text", Prepend(Blank(self.prefix, model.width)), how="replace")
        return (
            places,
            *(
                self._at(model, f"{at}.{value}")
                for at in attentions(model)
                if at.startswith("encoder") or at.endswith("cross")
                for value in ("k", "v")
            ),
        ), ()

    def _at(self, model: Seq2Seq, role: str) -> Attach:
        width = model.site(role).width

        def make() -> Overwrite:
            return Overwrite(Rows(self.prefix, width), 0)

        return Attach(role, self.for_tasks(make), how="replace")

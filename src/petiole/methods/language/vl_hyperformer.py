"""Hyperformer in a language model (Mahabadi et al., 2021): one network writes the adapters of all tasks.

    h <- h + W_up(t, l) gelu(W_down(t, l) h + b_down) + b_up     written from embeddings of task t and block l

at the places of VL-Adapter (Sung et al., 2022; spec vladapter.md, 2.2). See ``layers.hypernetwork``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.hooks import Attach
from petiole.layers.hypernetwork import Hypernetwork, Written
from petiole.methods.language.base import LANGUAGE, PLACES, LanguageMethod, blocks
from petiole.methods.registry import register


@register("vl-hyperformer", "adapters that one network writes for all tasks", **LANGUAGE, lr=1e-3)
@dataclass(frozen=True)
class VLHyperformer(LanguageMethod):
    """Adapters written by a hypernetwork; tasks share all of it but their embeddings.

    Attributes:
        reduction: d over the width of the bottleneck.
        code: d_p, width of what the weights are written from.
    """

    shares: ClassVar[bool] = False

    reduction: float = 8.0
    code: int = 8

    def layers(self, model: Seq2Seq) -> tuple[tuple[Attach, ...], tuple[nn.Module, ...]]:
        streams = {
            name: (depth, places)
            for (name, places), depth in zip(PLACES.items(), model.depths, strict=True)
        }
        size = int(model.width / self.reduction)
        writer = Hypernetwork(self.tasks, streams, model.width, size, self.code)
        return tuple(
            Attach(f"{stream}.block.{i}.{place}.out", Written(writer, stream, i, place))
            for stream, i, place in blocks(model)
        ), (writer,)

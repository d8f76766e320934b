"""BERT joined with visual tokens: an encoder alone, as in VisualBERT (Li et al., 2019) and CLIP-ViL (Shen et al., 2022).

Text has BERT's positions, its first segment and its norm; visual tokens have those of the V->L block, and the blocks run over both.
There is no decoder, so answers are chosen from a closed list (``classifier``).
"""

from __future__ import annotations

from functools import cache
from typing import Any, ClassVar

from torch import Tensor, nn

from petiole.backbones.encoder_decoder.model import (
    Family,
    attention_sites,
    bars,
    block_role,
    joined,
    mlp_sites,
)
from petiole.backbones.frozen_network import Site


@cache
def encoder_class() -> Any:
    """``BertModel`` of transformers without its pooler; heads of pre-training in a file are passed over."""
    from transformers import BertModel

    class BertEncoder(BertModel):  # type: ignore[misc] # the library has no types
        _keys_to_ignore_on_load_unexpected: ClassVar = [r"pooler\.", r"^cls\."]

        def __init__(self, config: Any) -> None:
            super().__init__(config, add_pooling_layer=False)

    return BertEncoder


class Bert(Family):
    """How a ``BertModel`` is read. 200 codes of places, as for BART."""

    codes, std = 200, 0.02

    @property
    def norms(self) -> tuple[type[nn.Module], ...]:
        return (nn.LayerNorm,)

    def width(self, config: Any) -> int:
        """d."""
        return int(config.hidden_size)

    def depths(self, config: Any) -> tuple[int, int]:
        """Blocks of the encoder; none of a decoder."""
        return int(config.num_hidden_layers), 0

    def embed(self, language: Any, ids: Tensor) -> Tensor:
        """Words, positions and the first segment, before the norm."""
        parts = language.embeddings
        positions = parts.position_embeddings.weight[: ids.shape[1]]
        segment = parts.token_type_embeddings.weight[0]
        embedded: Tensor = parts.word_embeddings(ids) + positions + segment
        return embedded

    def encode(self, language: Any, text: Tensor, visual: Tensor | None, mask: Tensor) -> Tensor:
        """Norm on the text alone, then the blocks over everything."""
        parts = language.embeddings
        states = joined(
            parts.LayerNorm(text), visual, parts.dropout.p, training=parts.dropout.training
        )
        barred = bars(mask, states.dtype)
        for layer in language.encoder.layer:
            out = layer(states, barred)
            states = out[0] if isinstance(out, tuple) else out  # a tuple in early transformers 5
        return states

    def sites(self, language: Any) -> dict[str, Site]:
        """Roles of all blocks."""
        table: dict[str, Site] = {}
        for i, layer in enumerate(language.encoder.layer):
            own, at = layer.attention.self, f"encoder.block.{i}"
            table |= attention_sites(
                f"{at}.attn", own.query, own.key, own.value, layer.attention.output.dense
            )
            table |= mlp_sites(f"{at}.mlp", layer.intermediate.dense, layer.output.dense)
        return table

    def role_of(self, parameter: str) -> str:
        """The block, or ``words`` for the embeddings below it."""
        parts = parameter.split(".")
        return "words" if parts[0] == "embeddings" else block_role(parts, "encoder", "layer")

"""BART: learned positions, post-norm blocks, a norm on the embedding (Lewis et al., 2020)."""

from __future__ import annotations

from typing import Any

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


class Bart(Family):
    """How a ``BartForConditionalGeneration`` is read. 200 codes: 100 were meant for sentinels, 100 for places."""

    codes, std = 200, 0.02

    @property
    def norms(self) -> tuple[type[nn.Module], ...]:
        return (nn.LayerNorm,)

    def depths(self, config: Any) -> tuple[int, int]:
        """Blocks of encoder and decoder."""
        return int(config.encoder_layers), int(config.decoder_layers)

    def embed(self, language: Any, ids: Tensor) -> Tensor:
        """Word embeddings with positions, before the embedding norm."""
        encoder = language.model.encoder
        embedded: Tensor = encoder.embed_tokens(ids) + encoder.embed_positions(ids)
        return embedded

    def encode(self, language: Any, text: Tensor, visual: Tensor | None, mask: Tensor) -> Tensor:
        """Norm on the text alone, then the blocks over everything."""
        encoder = language.model.encoder
        text = encoder.layernorm_embedding(text)
        states = joined(text, visual, encoder.dropout, training=encoder.training)
        barred = bars(mask, states.dtype)
        for layer in encoder.layers:
            out = layer(states, barred)
            states = out[0] if isinstance(out, tuple) else out  # a tuple in early transformers 5
        return states

    def sites(self, language: Any) -> dict[str, Site]:
        """Roles of all blocks."""
        table: dict[str, Site] = {}
        for stream, layers in (
            ("encoder", language.model.encoder.layers),
            ("decoder", language.model.decoder.layers),
        ):
            for i, layer in enumerate(layers):
                at = f"{stream}.block.{i}"
                own = layer.self_attn
                table |= attention_sites(
                    f"{at}.attn", own.q_proj, own.k_proj, own.v_proj, own.out_proj
                )
                if stream == "decoder":
                    cross = layer.encoder_attn
                    table |= attention_sites(
                        f"{at}.cross", cross.q_proj, cross.k_proj, cross.v_proj, cross.out_proj
                    )
                table |= mlp_sites(f"{at}.mlp", layer.fc1, layer.fc2)
        return table

    def role_of(self, parameter: str) -> str:
        """The block, ``encoder`` or ``decoder``; ``words`` for the tied word embedding."""
        parts = parameter.split(".")
        if parts[:2] == ["model", "shared"]:
            return "words"
        stream = "decoder" if "decoder" in parts else "encoder"
        return block_role(parts, stream, "layers")

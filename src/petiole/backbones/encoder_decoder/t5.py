"""T5: relative positions on the text alone, pre-norm blocks without biases (Raffel et al., 2020)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import pad

from petiole.backbones.encoder_decoder.model import (
    Family,
    attention_sites,
    bars,
    block_role,
    joined,
    mlp_sites,
)
from petiole.backbones.frozen_network import Site


class T5(Family):
    """How a ``T5ForConditionalGeneration`` is read. 72 codes: from T5's 32,128 padded rows to VL-T5's 32,200."""

    codes, std = 72, None

    @property
    def norms(self) -> tuple[type[nn.Module], ...]:
        """The library's own class: VL-T5 compared with a copy of it, and so never trained any."""
        from transformers.models.t5.modeling_t5 import T5LayerNorm

        return (T5LayerNorm,)

    def depths(self, config: Any) -> tuple[int, int]:
        """Blocks of encoder and decoder."""
        return int(config.num_layers), int(config.num_decoder_layers)

    def embed(self, language: Any, ids: Tensor) -> Tensor:
        """Word embeddings."""
        embedded: Tensor = language.encoder.embed_tokens(ids)
        return embedded

    def encode(self, language: Any, text: Tensor, visual: Tensor | None, mask: Tensor) -> Tensor:
        """The blocks over everything; biases of position between texts only, 0 for all else."""
        encoder = language.encoder
        states = joined(text, visual, encoder.dropout.p, training=encoder.training)
        rest = states.shape[1] - text.shape[1]
        attention = encoder.block[0].layer[0].SelfAttention
        bias = attention.compute_bias(text.shape[1], text.shape[1], device=states.device)
        bias = pad(bias, (0, rest, 0, rest)).to(states.dtype)
        # With the bias given, early transformers 5 looks at no mask; a bias that bars serves all.
        bias = bias + bars(mask, states.dtype)
        for block in encoder.block:
            states = block(states, position_bias=bias)[0]
        normed: Tensor = encoder.dropout(encoder.final_layer_norm(states))
        return normed

    def sites(self, language: Any) -> dict[str, Site]:
        """Roles of all blocks; a gated MLP's ``hidden`` is its gate."""
        table: dict[str, Site] = {}
        for stream, blocks in (
            ("encoder", language.encoder.block),
            ("decoder", language.decoder.block),
        ):
            for i, block in enumerate(blocks):
                at = f"{stream}.block.{i}"
                own = block.layer[0].SelfAttention
                table |= attention_sites(f"{at}.attn", own.q, own.k, own.v, own.o)
                if stream == "decoder":
                    cross = block.layer[1].EncDecAttention
                    table |= attention_sites(f"{at}.cross", cross.q, cross.k, cross.v, cross.o)
                mlp = block.layer[-1].DenseReluDense
                wide = mlp.wi_0 if hasattr(mlp, "wi_0") else mlp.wi
                table |= mlp_sites(f"{at}.mlp", wide, mlp.wo)
        return table

    def role_of(self, parameter: str) -> str:
        """The block, ``encoder`` or ``decoder``; ``words`` for the word embedding and the output."""
        parts = parameter.split(".")
        if parts[0] in ("shared", "lm_head"):
            return "words"
        return block_role(parts, parts[0], "block")

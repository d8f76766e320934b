"""Where an image's vector looks: one weight for each local token, (B, P), at most 1 in all.

TextRefiner asks for the patches that matter most to the image vector. What answers that differs with how the vector is
made: from a class token, by a probe that attends to all tokens (SigLIP), or as a plain mean (CNNs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, normalize

from petiole.backbones.base import Backbone
from petiole.backbones.vision.transformer import Transformer


class PatchAttention(Protocol):
    """Weights of the local tokens.

    Attributes:
        roles: whose values are needed.
    """

    @property
    def roles(self) -> tuple[str, ...]: ...

    def __call__(self, seen: Mapping[str, Tensor], vector: Tensor, patches: Tensor) -> Tensor:
        """Values at ``roles``, image vectors (B, d) and local tokens (B, P, d) -> (B, P)."""
        ...


@dataclass(frozen=True)
class ClassToken:
    """softmax(q_cls k^T / sqrt(d_h)) in the last block, mean over heads.

    The softmax runs over all keys, learned prompts too; only the patches' weights are given.

    Attributes:
        block: number of the last block.
        heads: of its attention.
        prefix: tokens before the patches.
    """

    block: int
    heads: int
    prefix: int = 1

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(f"block.{self.block}.attn.{part}" for part in "qk")

    def __call__(self, seen: Mapping[str, Tensor], vector: Tensor, patches: Tensor) -> Tensor:  # noqa: ARG002 - its count alone
        queries, keys = (seen[role] for role in self.roles)
        query = queries[:, 0].reshape(len(queries), self.heads, -1)
        key = keys.reshape(*keys.shape[:2], self.heads, -1)
        scores = torch.einsum("bhd,bnhd->bhn", query, key) / sqrt(query.shape[-1])
        weights = scores.softmax(dim=-1).mean(dim=1)
        return weights[:, self.prefix : self.prefix + patches.shape[1]]


@dataclass(frozen=True)
class ProbeAttention:
    """The weights with which a learned probe attends to the normalised tokens, mean over heads.

    Attributes:
        probe: (1, 1, d).
        attention: of the probe to all tokens.
    """

    probe: Tensor
    attention: nn.MultiheadAttention
    roles: tuple[str, ...] = ("final.tokens",)

    def __call__(self, seen: Mapping[str, Tensor], vector: Tensor, patches: Tensor) -> Tensor:  # noqa: ARG002 - its count alone
        a, tokens = self.attention, seen["final.tokens"]
        d = a.embed_dim
        bias = a.in_proj_bias
        query = linear(self.probe[0], a.in_proj_weight[:d], bias[:d]).reshape(a.num_heads, -1)
        keys = linear(tokens, a.in_proj_weight[d : 2 * d], bias[d : 2 * d])
        keys = keys.reshape(*tokens.shape[:2], a.num_heads, -1)
        scores = torch.einsum("hd,bnhd->bhn", query, keys) / sqrt(query.shape[-1])
        return scores.softmax(dim=-1).mean(dim=1)[:, : patches.shape[1]]


@dataclass(frozen=True)
class CosineAttention:
    """softmax of cosines with the image vector: a stand-in where nothing in the model attends to patches.

    The order of the patches is what matters to those who ask; the temperature is 1.
    """

    roles: tuple[str, ...] = ()

    def __call__(self, seen: Mapping[str, Tensor], vector: Tensor, patches: Tensor) -> Tensor:  # noqa: ARG002 - nothing seen
        cosines = normalize(patches, dim=-1) @ normalize(vector, dim=-1)[..., None]
        return cosines[..., 0].softmax(dim=-1)


def patch_attention(image: Backbone) -> PatchAttention:
    """By the class token where it stands for the image, else by likeness."""
    if isinstance(image, Transformer) and image.parts.pool is None:
        return ClassToken(image.depth - 1, image.parts.heads, image.parts.prefix)
    return CosineAttention()

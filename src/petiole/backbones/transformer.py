"""What every vision transformer shares, whichever library built it: roles, cuts, two halves.

A family file (``vit`` for timm, ``dinov2`` for transformers) names its modules once, as
``Parts``; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recompute

from petiole.backbones.base import IMAGES, Backbone, Site, State
from petiole.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Branches:
    """The modules of one pre-norm block, x + ls1(attn(norm1(x))), then y + ls2(mlp(norm2(y))).

    Attributes:
        block: the whole block.
        attn: the attention; its input is the normalised stream.
        q, k, v: sites of the three projections (slices where they are fused).
        attn_out: the module whose output joins the stream (after layer scale).
        norm2: its input is the stream between the branches.
        mlp: its input is the normalised stream.
        mlp_out: as ``attn_out``.
    """

    block: nn.Module
    attn: nn.Module
    q: Site
    k: Site
    v: Site
    attn_out: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    mlp_out: nn.Module


@dataclass(frozen=True)
class Parts:
    """A transformer, named.

    Attributes:
        tokenise: images (B, 3, H, W) -> tokens (B, prefix + N, d), position table added.
        blocks: in order.
        norm: final normalisation.
        prefix: tokens in front of the patches: class token and registers.
        has_cls: whether the first of them is a class token.
        block_prefix: what the names of block ``i``'s parameters start with, e.g. ``blocks.``.
        norm_prefix: the same for the final normalisation.
    """

    tokenise: Callable[[Tensor], Tensor]
    blocks: Sequence[Branches]
    norm: nn.Module
    prefix: int
    has_cls: bool
    block_prefix: str
    norm_prefix: str


class Transformer(Backbone):
    """A frozen vision transformer.

    Final roles: ``final.cls`` (B, d) the normalised class token; ``final.patches`` (B, N, d) the
    normalised patch tokens, without class token **and without registers**; ``final.pooled``
    (B, d) the mean of the patches.
    """

    patches = "final.patches"

    def __init__(
        self,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        width: int,
        parts: Parts,
    ) -> None:
        super().__init__(name, module, preprocessing, width)
        self.parts = parts
        self.vector = "final.cls" if parts.has_cls else "final.pooled"

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.parts.blocks)

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        def site(module: nn.Module, side: str) -> Site:
            return Site(module, "in" if side == "in" else "out", self.width)

        table: dict[str, Site] = {}
        for i, b in enumerate(self.parts.blocks):
            table |= {
                f"block.{i}.in": site(b.block, "in"),
                f"block.{i}.attn.in": site(b.attn, "in"),
                f"block.{i}.attn.q": b.q,
                f"block.{i}.attn.k": b.k,
                f"block.{i}.attn.v": b.v,
                f"block.{i}.attn.out": site(b.attn_out, "out"),
                f"block.{i}.mid": site(b.norm2, "in"),
                f"block.{i}.mlp.in": site(b.mlp, "in"),
                f"block.{i}.mlp.out": site(b.mlp_out, "out"),
                f"block.{i}.out": site(b.block, "out"),
            }
        return table | {"final.tokens": site(self.parts.norm, "out")}

    @property
    def finals(self) -> tuple[str, ...]:
        return (*(("final.cls",) if self.parts.has_cls else ()), "final.patches", "final.pooled")

    @property
    def cuts(self) -> tuple[str, ...]:
        # Below block 0 lies only the patch embedding: storing its tokens would save nothing.
        return tuple(f"block.{i}.in" for i in range(1, self.depth))

    def role_of(self, parameter: str) -> str:
        if parameter.startswith(self.parts.block_prefix):
            index = parameter.removeprefix(self.parts.block_prefix).split(".")[0]
            return f"block.{index}.in"
        return "final.tokens" if parameter.startswith(self.parts.norm_prefix) else IMAGES

    @torch.no_grad()
    def lower(self, images: Tensor, cut: Sequence[str]) -> State:
        self.check_cut(cut)
        if tuple(cut) == (IMAGES,):
            return {IMAGES: images}
        if cut[0] in self.finals:
            return self.upper({IMAGES: images}, cut)
        tokens = self.parts.tokenise(images)
        for branches in self.parts.blocks[: _block(cut[0])]:
            tokens = branches.block(tokens)
        return {cut[0]: tokens}

    def upper(self, state: State, reads: Sequence[str], *, checkpoint: bool = False) -> State:
        if all(role in state for role in reads):
            return {role: state[role] for role in reads}
        (cut, tokens), *_ = state.items()
        start = 0
        if cut == IMAGES:
            tokens = self.parts.tokenise(tokens)
        else:
            start = _block(cut)
        for branches in self.parts.blocks[start:]:
            if checkpoint and torch.is_grad_enabled():
                tokens = recompute(branches.block, tokens, use_reentrant=False)
            else:
                tokens = branches.block(tokens)
        return self._final(self.parts.norm(tokens), reads)

    def _final(self, tokens: Tensor, reads: Sequence[str]) -> State:
        patches = tokens[:, self.parts.prefix :]
        values = {"final.patches": patches, "final.pooled": patches.mean(dim=1)}
        if self.parts.has_cls:
            values["final.cls"] = tokens[:, 0]
        return {role: values[role] for role in reads}


def _block(role: str) -> int:
    """The number in ``block.<i>.in``."""
    return int(role.split(".")[1])

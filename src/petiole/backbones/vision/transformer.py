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

from petiole.backbones.base import Backbone, State
from petiole.backbones.frozen_network import IMAGES, Site
from petiole.data.preprocessing import Preprocessing
from petiole.errors import BackboneError

LAST = 4
"""Blocks whose class tokens make ``final.cls4``."""


@dataclass(frozen=True)
class Branches:
    """The modules of one pre-norm block, x + ls1(attn(norm1(x))), then y + ls2(mlp(norm2(y))).

    Attributes:
        block: the whole block.
        attn_in: the normalised stream that the attention reads.
        q, k, v: sites of the three projections (slices where they are fused).
        attn_out: the module whose output joins the stream (after layer scale).
        norm2: its input is the stream between the branches.
        mlp: its input is the normalised stream.
        hidden: the MLP's widening projection, before the activation; ``None`` where it is gated.
        mlp_out: as ``attn_out``.
        proj: the attention's output projection, where its module is called.
        narrow: the MLP's narrowing projection, likewise.
    """

    block: nn.Module
    attn_in: Site
    q: Site
    k: Site
    v: Site
    attn_out: nn.Module
    norm2: nn.Module
    mlp: nn.Module
    hidden: nn.Linear | None
    mlp_out: nn.Module
    proj: nn.Linear | None = None
    narrow: nn.Linear | None = None


@dataclass(frozen=True)
class Parts:
    """A transformer, named.

    Attributes:
        tokenise: images (B, 3, H, W) -> tokens (B, prefix + N, d), position table added.
        embed: the patch embedding, with or without class token and positions; its output's last axis
            is d.
        blocks: in order.
        norm: final normalisation.
        patch: side of a patch, in pixels.
        prefix: tokens in front of the patches: class token and registers.
        pool: normalised tokens -> image vector (B, d), where the model has a pooling of its own;
            ``None`` where the first token is a class token that stands for the image.
        block_prefix: what the names of block ``i``'s parameters start with, e.g. ``blocks.``.
        top_prefixes: the same for all that comes after the blocks.
        heads: of each attention.
        first_cut: the lowest block below which so much lies that its tokens are worth storing.
        step: calls one block.
        embeds_all: whether ``embed`` gives all tokens, in their places, so that others can join them behind it.
    """

    tokenise: Callable[[Tensor], Tensor]
    embed: nn.Module
    blocks: Sequence[Branches]
    norm: nn.Module
    patch: int
    prefix: int
    pool: Callable[[Tensor], Tensor] | None
    block_prefix: str
    top_prefixes: tuple[str, ...]
    heads: int
    first_cut: int
    step: Callable[[nn.Module, Tensor], Tensor] = lambda block, tokens: block(tokens)
    embeds_all: bool = False


class Transformer(Backbone):
    """A frozen vision transformer.

    Final roles: ``final.cls`` (B, d) the normalised class token, where it stands for the image;
    ``final.patches`` (B, N, d) the normalised patch tokens, without class token **and without
    registers**; ``final.pooled`` (B, d) what the model itself pools, else the mean of the patches;
    ``final.cls4`` (B, 4 d) the class tokens of the last four blocks, each normalised, the last one
    last (the input of DINOv2's linear probe), where there are class token and blocks enough.

    Args:
        width: d, of the normalised tokens.
        stream: width between the blocks, where the norm projects it to another.
    """

    patches = "final.patches"

    def __init__(
        self,
        name: str,
        module: nn.Module,
        preprocessing: Preprocessing,
        width: int,
        parts: Parts,
        *,
        stream: int | None = None,
    ) -> None:
        super().__init__(name, module, preprocessing, width)
        self.parts = parts
        self.stream = stream or width
        self.vector = "final.cls" if parts.pool is None else "final.pooled"

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.parts.blocks)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        height, width = self.preprocessing.size
        return height // self.parts.patch, width // self.parts.patch

    @property
    def prefix_tokens(self) -> int:
        """Class token and registers."""
        return self.parts.prefix

    def width_of(self, role: str) -> int:
        return LAST * self.width if role == "final.cls4" else self.width

    def source_of(self, final: str) -> str:
        return f"block.{self.depth - LAST}.out" if final == "final.cls4" else final

    @cached_property
    def sites(self) -> Mapping[str, Site]:
        table = {"embed": Site(self.parts.embed, "out", self.stream)}
        table |= block_sites(self.parts.blocks, self.stream)
        return table | {"final.tokens": Site(self.parts.norm, "out", self.width)}

    @property
    def finals(self) -> tuple[str, ...]:
        own = ("final.cls",) if self.parts.pool is None else ()
        last = ("final.cls4",) if own and self.depth >= LAST else ()
        return (*own, *last, "final.patches", "final.pooled")

    @property
    def cuts(self) -> tuple[str, ...]:
        return tuple(f"block.{i}.in" for i in range(self.parts.first_cut, self.depth))

    def role_of(self, parameter: str) -> str:
        if parameter.startswith(self.parts.block_prefix):
            index = parameter.removeprefix(self.parts.block_prefix).split(".")[0]
            return f"block.{index}.in"
        return "final.tokens" if parameter.startswith(self.parts.top_prefixes) else IMAGES

    def _lower(self, images: Tensor, cut: str) -> Tensor:
        tokens = self.parts.tokenise(images)
        for branches in self.parts.blocks[: _block(cut)]:
            tokens = self.parts.step(branches.block, tokens)
        return tokens

    def _upper(self, cut: str, value: Tensor, reads: Sequence[str], *, checkpoint: bool) -> State:
        tokens, start = (self.parts.tokenise(value), 0) if cut == IMAGES else (value, _block(cut))
        last: list[Tensor] = []
        for branches in self.parts.blocks[start:]:
            if checkpoint and torch.is_grad_enabled():
                tokens = recompute(self.parts.step, branches.block, tokens, use_reentrant=False)
            else:
                tokens = self.parts.step(branches.block, tokens)
            last = [*last[1 - LAST :], tokens]
        final = self.parts.norm(tokens)
        values = {role: self._final(role, final) for role in reads if role != "final.cls4"}
        if "final.cls4" in reads:
            earlier = [self.parts.norm(kept)[:, 0] for kept in last[:-1]]
            values["final.cls4"] = torch.cat([*earlier, final[:, 0]], dim=-1)
        return {role: values[role] for role in reads}

    def _final(self, role: str, tokens: Tensor) -> Tensor:
        patches = tokens[:, self.parts.prefix :]
        match role:
            case "final.cls":
                return tokens[:, 0]
            case "final.patches":
                return patches
            case _:
                return patches.mean(dim=1) if self.parts.pool is None else self.parts.pool(tokens)


def block_sites(blocks: Sequence[Branches], width: int, prefix: str = "") -> dict[str, Site]:
    """Roles of blocks whose stream has this width, in the order in which data passes them."""
    table: dict[str, Site] = {}
    for i, b in enumerate(blocks):
        at = f"{prefix}block.{i}"
        table |= {
            f"{at}.in": Site(b.block, "in", width),
            f"{at}.attn.in": b.attn_in,
            f"{at}.attn.q": b.q,
            f"{at}.attn.k": b.k,
            f"{at}.attn.v": b.v,
            **_linear(b.proj, f"{at}.attn.context", f"{at}.attn.proj"),
            f"{at}.attn.out": Site(b.attn_out, "out", width),
            f"{at}.mid": Site(b.norm2, "in", width, rejoin=b.mlp_out),
            f"{at}.mlp.in": Site(b.mlp, "in", width),
        }
        if b.hidden is not None:
            table[f"{at}.mlp.hidden"] = Site(b.hidden, "out", b.hidden.out_features)
        table |= {
            **_linear(b.narrow, f"{at}.mlp.act", f"{at}.mlp.narrow"),
            f"{at}.mlp.out": Site(b.mlp_out, "out", width),
            f"{at}.out": Site(b.block, "out", width),
        }
    return table


def _linear(layer: nn.Linear | None, reads: str, gives: str) -> dict[str, Site]:
    """What a linear layer reads and gives, where there is one."""
    if layer is None:
        return {}
    return {
        reads: Site(layer, "in", layer.in_features),
        gives: Site(layer, "out", layer.out_features),
    }


def whole_patches(name: str, size: int, patch: int) -> int:
    """Return ``size``, the side of an image in pixels, if patches of side ``patch`` tile it.

    Raises:
        BackboneError: they do not; the nearest size that fits is named.
    """
    if size < 1 or size % patch:
        near = max(1, round(size / patch)) * patch
        raise BackboneError(
            f"{name} cuts images into {patch} px patches, so an image size of {size} does not fit. "
            f"Use a multiple, e.g. {near}."
        )
    return size


def _block(role: str) -> int:
    """The number in ``block.<i>.in``."""
    return int(role.split(".")[1])


def first_cut(depth: int, *, deep_stem: bool = False) -> int:
    """A plain patch embedding and less than a quarter of the blocks are not worth storing."""
    return 0 if deep_stem else max(1, depth // 4)

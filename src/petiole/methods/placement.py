"""Where in a pre-norm block a bottleneck sits: seven placements, once, for every such method.

With a = attention branch, m = MLP branch, x -> y = x + a(x) -> out = y + m(y):

    post          z = y + m(y);  out = z + A(z)                  AdapterTune, Adapter+
    pre           y <- y + A(y);  out = y + m(y)
    parallel      out = y + m(y) + A(y)                          AdaptFormer
    intermediate  u = m(y);  out = y + u + A(u)
    houlsby       u = a(x);  y = x + u + A1(u);  v = m(y);  out = y + v + A2(v)
    pfeiffer      z = y + m(y);  out = z + A(LN(z)), LN new
    attn_only     u = a(x);  y = x + u + A(u);  out = y + m(y)

Names and forms follow Adapter+ (Steitz & Roth, 2024); spec A2 states them. The scale is inside A.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.hooks import Attach
from petiole.methods.blocks import select

Placement = Literal["post", "pre", "parallel", "intermediate", "houlsby", "pfeiffer", "attn_only"]

_ROLES: dict[Placement, tuple[tuple[str, str | None], ...]] = {
    "post": (("out", None),),
    "pre": (("mid", None),),
    "parallel": (("mlp.out", "mid"),),
    "intermediate": (("mlp.out", None),),
    "houlsby": (("attn.out", None), ("mlp.out", None)),
    "pfeiffer": (("out", None),),
    "attn_only": (("attn.out", None),),
}
"""What changes in a block, and what it reads if not itself."""


def place(
    backbone: Backbone, placement: Placement, blocks: str, make: Callable[[int], nn.Module]
) -> tuple[Attach, ...]:
    """Attach fresh layers, ``make(width)`` each, in the chosen blocks.

    Raises:
        ConfigError: the backbone has no blocks, or not those.
    """
    chosen = select(blocks, backbone)
    attach = []
    for i in chosen:
        for part, read in _ROLES[placement]:
            role, reads = f"block.{i}.{part}", f"block.{i}.{read}" if read else None
            attach.append(Attach(role, make(backbone.site(role).width), reads))
    return tuple(attach)

"""Which blocks of a transformer a method touches."""

from __future__ import annotations

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError


def depth(backbone: Backbone, method: str) -> int:
    """Number of blocks; ConfigError if the backbone has none."""
    if not backbone.depth:
        raise ConfigError(
            f"{method} adapts the blocks of a transformer, and {backbone.name} has none. "
            "Use a ViT, or a method that adapts the final feature (cls-residual-lora)."
        )
    return backbone.depth


def select(blocks: str, depth: int) -> tuple[int, ...]:
    """Resolve ``all``, ``every:k``, ``first:k``, ``last:k`` or ``0,3,7``.

    Raises:
        ConfigError: malformed, or a block that does not exist.
    """
    kind, _, number = blocks.partition(":")
    try:
        if blocks == "all":
            return tuple(range(depth))
        if kind == "every" and int(number) > 0:
            return tuple(range(0, depth, int(number)))
        if kind == "first" and 0 < int(number) <= depth:
            return tuple(range(int(number)))
        if kind == "last" and 0 < int(number) <= depth:
            return tuple(range(depth - int(number), depth))
        chosen = tuple(sorted({int(part) for part in blocks.split(",")}))
    except ValueError:
        chosen = ()
    if not chosen or chosen[0] < 0 or chosen[-1] >= depth:
        raise ConfigError(
            f"blocks={blocks!r} does not name blocks of 0..{depth - 1}. "
            "Use all, every:k, first:k, last:k or a list such as 0,3,7."
        )
    return chosen

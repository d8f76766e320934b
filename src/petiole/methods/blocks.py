"""Which blocks of a transformer a method touches."""

from __future__ import annotations

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError


def select(blocks: str, backbone: Backbone) -> tuple[int, ...]:
    """Resolve the text of ``numbers`` on this backbone.

    Raises:
        ConfigError: as ``numbers``, or the backbone has no blocks.
    """
    depth = backbone.depth
    if not depth:
        raise ConfigError(
            f"This method adapts the blocks of a transformer, and {backbone.name} has none. "
            "Use a ViT, or a method that adapts the final feature (cls-residual-lora)."
        )
    return numbers(blocks, depth)


def numbers(blocks: str, depth: int) -> tuple[int, ...]:
    """Resolve ``all``, ``every:k``, ``every:k+offset``, ``first:k``, ``last:k`` or ``0,3,7``.

    Raises:
        ConfigError: malformed, or a block that does not exist.
    """
    chosen = _parse(blocks, depth)
    if not chosen or chosen[0] < 0 or chosen[-1] >= depth:
        raise ConfigError(
            f"blocks={blocks!r} does not name blocks of 0..{depth - 1}. Use all, every:k, "
            "every:k+offset, first:k, last:k or a list such as 0,3,7."
        )
    return chosen


def _parse(blocks: str, depth: int) -> tuple[int, ...]:
    """Block numbers in order; nothing where the text is malformed."""
    kind, _, number = blocks.partition(":")
    try:
        match kind:
            case "all" if not number:
                return tuple(range(depth))
            case "every":
                step, _, offset = number.partition("+")
                return tuple(range(int(offset or 0), depth, int(step))) if int(step) > 0 else ()
            case "first" if 0 < int(number) <= depth:
                return tuple(range(int(number)))
            case "last" if 0 < int(number) <= depth:
                return tuple(range(depth - int(number), depth))
            case _:
                return tuple(sorted({int(part) for part in blocks.split(",")}))
    except ValueError:
        return ()

"""What is taken where nothing was said: a packaged model that the methods fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from petiole.errors import BackboneError, ConfigError

OTHERS = {"text": "petiole/tiny-vl", "codebook": "petiole/tiny-lvlm"}
KINDS = {"images": "classification", "language": "text", "codebook": "codebook"}
"""What a method adapts -> the kind of task that it is trained by."""


def kind_of_methods(methods: Sequence[str]) -> str:
    """The kind of task that methods are for.

    Raises:
        ConfigError: an unknown name, or methods of two kinds.
    """
    from petiole.methods.registry import find

    kinds = {name: KINDS[find(name).cls.adapts] for name in methods}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
        raise ConfigError(
            f"These methods are for different kinds of task: {listed}. Compare those of one."
        )
    return next(iter(kinds.values()))


@lru_cache
def _fits(backbone: str, method: str) -> bool:
    from petiole.backbones.registry import load_backbone
    from petiole.methods.registry import create

    try:
        create(method).plan(load_backbone(backbone, device="meta"), 2)
    except (ConfigError, BackboneError):
        return False
    except (
        RuntimeError,
        NotImplementedError,
    ):  # it computes with weights, which a shape does not have
        return True
    return True


def backbone_for(methods: Sequence[str]) -> str:
    """The best packaged image backbone that all these methods fit.

    Raises:
        ConfigError: there is none.
    """
    from petiole.backbones.at_hand import packaged

    for backbone in packaged():
        if all(_fits(backbone, method) for method in methods):
            return backbone
    raise ConfigError(
        f"No packaged backbone fits {', '.join(methods)}. Name one that does (--backbone)."
    )


def candidates(backbones: Sequence[str]) -> tuple[str, ...]:
    """The backbones that were named, ``auto`` standing for all that are at hand.

    Raises:
        BackboneError: one of several is not known by name, or is no backbone of images: else it would be noticed after those
            before it.
    """
    from petiole.backbones.at_hand import at_hand
    from petiole.backbones.registry import load_backbone
    from petiole.commands.options import AUTO

    for given in backbones:
        if len(backbones) > 1 and given != AUTO:
            load_backbone(given, device="meta")
    found = (
        name
        for given in backbones
        for name in ([one.name for one in at_hand()] if given == AUTO else [given])
    )
    return tuple(dict.fromkeys(found))

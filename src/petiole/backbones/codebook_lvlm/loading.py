"""``petiole.load`` for those who need a vision-language model over a codebook."""

from __future__ import annotations

from petiole.backbones.codebook_lvlm.model import LVLM
from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.registry import load
from petiole.errors import ConfigError


def load_lvlm(name: str, *, device: str = "cpu") -> LVLM:
    """Load a model such as ``petiole/tiny-lvlm``, a bundle or a VILA-U, with its tower.

    Raises:
        BackboneError: the name is unknown, or the weights cannot be loaded completely.
        ConfigError: it is a model of another kind.
    """
    return lvlm_of(load(name, device=device))


def lvlm_of(frozen: FrozenNetwork) -> LVLM:
    """The model, if it is a vision-language model over a codebook.

    Raises:
        ConfigError: it is not.
    """
    if not isinstance(frozen, LVLM):
        raise ConfigError(
            f"This method needs a frozen codebook before a language model, and {frozen.name} has none. Use a codebook "
            "model: petiole/tiny-lvlm, a folder of VILA-U, or a bundle."
        )
    return frozen

"""How the two projections of a bottleneck start, and the guard against a dead start.

One name says how the up projection starts, after a Xavier-uniform down projection (Glorot & Bengio,
2010), as in AdapterTune; ``DOWN/UP`` names both:

    zero      0: the branch is exactly 0 at the start
    small     N(0, 1e-4^2), bias too: AdapterTune's ablation
    houlsby   N(0, 0.01^2) cut off at two deviations (Houlsby et al., 2019)
    bert      N(0, 0.02^2)
    xavier    uniform, variance 2 / (in + out)
    kaiming   uniform, variance 1 / (3 in) (LoRA's A; He et al., 2015, a = sqrt 5)
    default   as torch's nn.Linear, bias too
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import nn

from petiole.errors import ConfigError, unknown


def _small(layer: nn.Linear) -> None:
    for value in (layer.weight, layer.bias):
        nn.init.normal_(value, std=1e-4)


def _houlsby(layer: nn.Linear) -> None:
    nn.init.trunc_normal_(layer.weight, std=0.01, a=-0.02, b=0.02)
    nn.init.zeros_(layer.bias)


def _weights(fill: Callable[..., object], **options: float) -> Callable[[nn.Linear], None]:
    def init(layer: nn.Linear) -> None:
        fill(layer.weight, **options)
        nn.init.zeros_(layer.bias)

    return init


INITS: dict[str, Callable[[nn.Linear], None]] = {
    "zero": _weights(nn.init.zeros_),
    "small": _small,
    "houlsby": _houlsby,
    "bert": _weights(nn.init.normal_, std=0.02),
    "xavier": _weights(nn.init.xavier_uniform_),
    "kaiming": _weights(nn.init.kaiming_uniform_, a=math.sqrt(5)),
    "default": nn.Linear.reset_parameters,
}


def projections(init: str) -> tuple[str, str]:
    """The initialisers of (down, up) that ``init`` names.

    Raises:
        ConfigError: no such initialiser, or one that can never learn.
    """
    down, _, up = init.rpartition("/")
    for name in filter(None, (down, up)):
        if name not in INITS:
            raise unknown("init", name, INITS)
    if down == up == "zero":
        raise ConfigError(
            "init=zero/zero is dead: with both projections 0 every weight gradient stays 0 for "
            "ever, and only the output bias learns. Use init=zero, which starts the down "
            "projection at random."
        )
    return down or "xavier", up


def starts_at_zero(init: str) -> bool:
    """Whether the branch is exactly 0 at the start."""
    return projections(init)[1] == "zero"


def normal(layer: nn.Linear | nn.Embedding, std: float) -> None:
    """N(0, std^2) weights and no bias, as transformers starts BERT's and BART's layers."""
    nn.init.normal_(layer.weight, std=std)
    if isinstance(layer, nn.Linear) and layer.bias is not None:
        nn.init.zeros_(layer.bias)


def initialise(init: str, down: nn.Module, up: nn.Module) -> None:
    """Fill both projections in place.

    Raises:
        ConfigError: as ``projections``.
    """
    for name, layer in zip(projections(init), (down, up), strict=True):
        assert isinstance(layer, nn.Linear)
        INITS[name](layer)

"""A frozen network is after use what it was before: every byte, key, hook and mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from petiole.backbones.frozen_network import FrozenNetwork
from petiole.backbones.weights import fingerprint
from petiole.testing.contract import require, require_equal


@contextmanager
def untouched(*networks: FrozenNetwork) -> Iterator[None]:
    """Raise Unmet on leaving unless the networks are as they were on entering."""
    before = [_state(network) for network in networks]
    yield
    for network, (prints, keys, identities, hooks) in zip(networks, before, strict=True):
        now = _state(network)
        require_equal(now[1], keys, f"names of the tensors of {network.name}")
        require(now[0] == prints, f"weights or buffers of {network.name} changed")
        require(now[2] == identities, f"parameters of {network.name} were replaced")
        require(now[3] == hooks, f"hooks were left on {network.name}")
        require_frozen(network)


def require_frozen(network: FrozenNetwork) -> None:
    """Raise Unmet unless nothing in a network asks for gradients, has one, trains or carries an adapter."""
    for name, parameter in network.module.named_parameters():
        require(not parameter.requires_grad, f"{network.name} has {name} with requires_grad=True")
        require(parameter.grad is None, f"{network.name} has a gradient at {name}")
    trains = [name or "the whole" for name, m in network.module.named_modules() if m.training]
    require(not trains, f"{network.name} is in training mode at {', '.join(trains[:3])}")
    require(not network.carries, f"{network.name} still carries an adapter")


def _state(network: FrozenNetwork) -> tuple[str, list[str], list[int], list[int]]:
    module, tensors = network.module, network.module.state_dict()
    # Some roles lie at modules beside the network, such as an identity in a norm's place.
    places = [*module.modules(), *(site.module for site in network.sites.values())]
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in places]
    return fingerprint(tensors), list(tensors), [id(p) for p in module.parameters()], hooks

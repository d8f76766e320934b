"""What every frozen network must do, whether it sees images or writes text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import FrozenNetwork, Site
from petiole.backbones.hooks import Attach, attached
from petiole.backbones.weights import fingerprint
from petiole.errors import BackboneError, ConfigError
from petiole.testing.contract import Clause, clause, require, require_equal
from petiole.testing.untouched import require_frozen, untouched

Values = Mapping[str, Tensor]


class Shift(nn.Module):
    """step (1 + x), with a step that is drawn for each column: what an adapter does, made visible.

    A constant alone would not do: softmax takes out what is added to every key.
    """

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        step = torch.randn(width, generator=torch.Generator().manual_seed(3))
        self.step = nn.Parameter(scale * (step + step.sign()))

    def forward(self, value: Tensor) -> Tensor:
        """A change of the value's shape, to be added."""
        step = self.step.to(value)
        return step + step * value


@dataclass
class NetworkCase:
    """A frozen network and a way of running it.

    Attributes:
        network: whatever is done here, it must stay as it is.
        run: one forward pass that reaches all of it, under whatever is attached; what comes out, by name.
        shape: the same network built without weights, where its loader can.
    """

    network: FrozenNetwork
    run: Callable[[], Values]
    shape: Callable[[], FrozenNetwork] | None = None

    @cached_property
    def bare(self) -> Values:
        """What comes out with nothing attached."""
        return self.run()

    def attach(self, role: str) -> tuple[Attach, ...]:
        """A visible change at a role."""
        return (Attach(role, Shift(self.network.site(role).width)),)


@clause(
    means="Adapters assume that nothing below them learns or behaves as in training.",
    remedy="Call FrozenNetwork.__init__, and hand it the whole network; load weights before.",
)
def is_frozen(case: NetworkCase) -> None:
    """No parameter asks for gradients, nothing is in training mode, nothing is attached."""
    require_frozen(case.network)
    require(case.network.name, "the network has no name")
    require(case.network.parameter_count > 0, "the network has no parameters")


@clause(
    means="A role is the address at which every method attaches; a site that is wrong changes the wrong numbers.",
    remedy="Let sites give, for every role, a module that the forward pass calls, the side, and the width of the last axis there.",
)
def has_sound_sites(case: NetworkCase) -> None:
    """The forward pass meets every site, and finds there the width that it states."""
    network = case.network
    require(len(set(network.roles)) == len(network.roles), "a role is there twice")
    for role, site in network.sites.items():
        require(site.side in ("in", "out"), f"{role} is at the side {site.side!r}, not in or out")
    with _values_at_sites(network) as seen:
        case.run()
    missing = [role for role in network.sites if role not in seen]
    require(not missing, f"the forward pass never reaches {', '.join(missing[:5])}")
    for role, width in seen.items():
        columns = network.sites[role].columns
        stated = network.sites[role].width
        got = width if columns is None else len(range(width)[columns])
        require_equal(got, stated, f"width at {role}")


@contextmanager
def _values_at_sites(network: FrozenNetwork) -> Iterator[dict[str, int]]:
    """Role -> width of the last axis there, in the order in which the forward pass meets them."""
    seen: dict[str, int] = {}
    with _hooks(network.sites, lambda role, value: seen.setdefault(role, value.shape[-1])):
        yield seen


@contextmanager
def _hooks(sites: Mapping[str, Site], met: Callable[[str, Tensor], object]) -> Iterator[None]:
    handles = []
    for role, site in sites.items():
        if site.side == "in":

            def before(_: nn.Module, args: tuple[Tensor, ...], role: str = role) -> None:
                met(role, args[0])

            handles.append(site.module.register_forward_pre_hook(before))
        else:

            def after(_: nn.Module, __: object, value: Any, role: str = role) -> None:
                met(role, value[0] if isinstance(value, tuple) else value)

            handles.append(site.module.register_forward_hook(after))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def order_of_sites(case: NetworkCase) -> list[str]:
    """Roles in the order in which a forward pass meets them."""
    with _values_at_sites(case.network) as seen:
        case.run()
        return list(seen)


@clause(
    means="A tuned parameter belongs to the part of the network that it changes; unknown parts cannot be cut below.",
    remedy="Let role_of return the lowest role that changes when the parameter does.",
)
def knows_where_parameters_lie(case: NetworkCase) -> None:
    """Every parameter has a role, and parameters_under() finds all of them."""
    network = case.network
    for name, _ in network.module.named_parameters():
        role = network.role_of(name)
        require(isinstance(role, str) and role, f"role_of({name!r}) is {role!r}")
    names = network.parameters_under()
    known = {name for name, _ in network.module.named_parameters()}
    require(set(names) <= known, "parameters_under() names parameters that are not there")
    try:
        network.parameters_under("no.such.part")
    except ConfigError as error:
        require(network.name in str(error), f"the error does not name the network: {error}")
    else:
        require(False, "parameters_under('no.such.part') finds something")


@clause(
    means="The fingerprint tells weights apart: adapters and caches of other weights are refused by it.",
    remedy="Leave FrozenNetwork.fingerprint as it is; draw no weights and change no buffer after loading.",
)
def has_a_stable_fingerprint(case: NetworkCase) -> None:
    """It is that of the tensors, before and after use, and refused while an adapter is on."""
    network = case.network
    first = network.fingerprint
    require_equal(first, fingerprint(network.module.state_dict()), "fingerprint")
    case.run()
    require_equal(first, fingerprint(network.module.state_dict()), "fingerprint after use")
    network.__dict__.pop("fingerprint", None)
    with attached(network, ()):
        try:
            refused = not network.fingerprint
        except BackboneError:
            refused = True
    require(refused, "a fingerprint is given while an adapter is on")
    require_equal(network.fingerprint, first, "fingerprint, computed again")


@clause(
    means="Caches, tests and golden answers rest on it: the same input gives the same bits.",
    remedy="Draw no random numbers in the forward pass; keep no state between calls.",
)
def is_deterministic(case: NetworkCase) -> None:
    """Two passes give the same finite bits."""
    again = case.run()
    for name, value in case.bare.items():
        require(torch.isfinite(value).all(), f"{name} is not finite")
        require_equal(again[name], value, f"{name} of two passes over the same input")


@clause(
    means="What is attached must act, and must be gone afterwards: one backbone serves the bare model and all adapters.",
    remedy="Run the module itself in the forward pass (no copies of its weights, no function that goes round a module "
    "that has a site), so that its hooks are called.",
)
def takes_adapters_and_leaves_no_trace(case: NetworkCase) -> None:
    """An attached layer changes what comes out, a layer of zeros does not, and nothing of either stays."""
    network, bare = case.network, case.bare
    with untouched(network):
        for role in network.sites:
            with attached(network, case.attach(role)):
                changed = case.run()
            same = all(torch.equal(changed[name], value) for name, value in bare.items())
            require(not same, f"a layer at {role} changes nothing that comes out")
        zero = [Attach(role, Shift(site.width, 0.0)) for role, site in network.sites.items()]
        with attached(network, zero):
            still = case.run()
        for name, value in bare.items():
            require_equal(still[name], value, f"{name} with a layer of zeros at every role")
    after = case.run()
    for name, value in bare.items():
        require_equal(after[name], value, f"{name} after all adapters are off")


@clause(
    means="petiole params counts on shapes, without loading weights; another shape would be counted.",
    remedy="With LoadRequest.meta build the same module on the meta device.",
)
def has_the_same_shape_without_weights(case: NetworkCase) -> None:
    """Built on the meta device it has the same roles and parameters."""
    if case.shape is None:
        return
    shape, network = case.shape(), case.network
    require(shape.is_meta, "the shape has weights")
    require_equal(shape.roles, network.roles, "roles of the shape")
    require_equal(_sizes(shape), _sizes(network), "parameters of the shape")
    require_equal(shape.width, network.width, "width of the shape")


def _sizes(network: FrozenNetwork) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in network.module.named_parameters()}


CLAUSES: tuple[Clause[NetworkCase], ...] = (
    is_frozen,
    has_sound_sites,
    knows_where_parameters_lie,
    has_a_stable_fingerprint,
    is_deterministic,
    takes_adapters_and_leaves_no_trace,
    has_the_same_shape_without_weights,
)

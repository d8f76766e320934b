"""What is counted as a parameter, and how a value is counted without drawing or leaving anything behind."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from petiole.backbones.frozen_network import FrozenNetwork
from petiole.errors import ConfigError, first_line
from petiole.layers.solved import SolvedHead
from petiole.methods.base import Method

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


def size_of(module: nn.Module) -> int:
    """Numbers that a part consists of: its parameters, or the solution where it is solved."""
    if isinstance(module, SolvedHead):
        return module.solution_size
    return sum(p.numel() for p in module.parameters())


def fixed_of(module: nn.Module) -> list[Tensor]:
    """What is stored with a part although it is neither trained nor solved."""
    if isinstance(module, SolvedHead):
        return []
    trained = {name for name, _ in module.named_parameters()}
    return [value for name, value in module.state_dict().items() if name not in trained]


def copied(network: FrozenNetwork, names: Sequence[str]) -> int:
    """Numbers in copies of the network's own parameters."""
    return sum(network.module.get_parameter(name).numel() for name in names)


def flop_counter() -> FlopCounterMode:
    """A silent counter of FLOPs, right about grouped convolutions.

    torch's own formula takes every output channel's weight gradient to read every input channel, so it counts the
    backward of a depthwise convolution as many times over as there are groups.
    """
    from torch.utils.flop_counter import FlopCounterMode

    return FlopCounterMode(
        display=False,
        custom_mapping={torch.ops.aten.convolution_backward: _convolution_backward},
    )


def _convolution_backward(
    grad_shape: Sequence[int],
    x_shape: Sequence[int],
    weight_shape: Sequence[int],
    *rest: Any,
    **_: Any,
) -> int:
    """Each gradient, of input and of weight, takes the multiplications of the forward pass once more.

        FLOPs = (input? + weight?) 2 N C_out (C_in / groups) k_1 k_2 H W

    H, W of the output, or of the input where the convolution is transposed; the weight's shape holds the rest.
    """
    from torch.utils.flop_counter import conv_flop_count

    transposed, wanted = rest[4], rest[7]
    forward = conv_flop_count([*x_shape], [*weight_shape], [*grad_shape], transposed=transposed)
    return (bool(wanted[0]) + bool(wanted[1])) * forward


@contextmanager
def own_randomness(device: torch.device) -> Iterator[None]:
    """Leave the global generators as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def own_gradients(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Leave the gradients of a real adapter as they were."""
    before = [p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in zip(parameters, before, strict=True):
            p.grad = gradient


@contextmanager
def by_shape(frozen: FrozenNetwork, method: Method) -> Iterator[None]:
    """Say it plainly where a method needs values that a shape does not have.

    Raises:
        ConfigError: torch found no values on a meta device.
    """
    try:
        yield
    except RuntimeError as error:  # torch's, at the first value that is not there
        if not frozen.is_meta:
            raise
        raise ConfigError(
            f"{type(method).__name__} computes with the weights, so it cannot be counted on the shape "
            f"of {frozen.name} alone ({first_line(error)})."
        ) from error

"""Weights that are stored in fewer bits than they are used in: torchao's tensors, and bitsandbytes' parameters.

A packed weight of torchao is a tensor around smaller ones; one of bitsandbytes is integers beside a state.
"""

from __future__ import annotations

from math import prod
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


def wraps(weight: Tensor) -> bool:
    """Whether it is a tensor around smaller ones; floats that are spread over processes (DTensor) are not."""
    return is_traceable_wrapper_subclass(weight) and not hasattr(weight, "device_mesh")


def is_packed(weight: Tensor) -> bool:
    """Whether a network's parameter is stored otherwise than as floats."""
    return wraps(weight) or not weight.is_floating_point()


def dense(weight: Tensor) -> Tensor:
    """The floats that a weight of torchao stands for; any other tensor is itself."""
    return weight.dequantize() if wraps(weight) else weight


def numbers(weight: Tensor) -> int:
    """How many numbers a weight stands for."""
    state = getattr(weight, "quant_state", None)  # of bitsandbytes, once it has packed them
    return weight.numel() if state is None else prod(state.shape)


def stored_bytes(weight: Tensor) -> int:
    """Bytes of its tensors."""
    if wraps(weight):
        whole: Any = weight
        return sum(stored_bytes(getattr(whole, name)) for name in whole.__tensor_flatten__()[0])
    return weight.nbytes

"""Frozen backbones in fewer bits: linear layers whose weights are stored as integers; activations stay floats.

    int8       w ~ s_o q, q in [-128, 127] with one scale s_o for each output           torchao, any device
    bnb-int8   LLM.int8() (Dettmers et al., 2022)                                       bitsandbytes, CUDA
    bnb-nf4    4-bit NormalFloat, scales quantised again (QLoRA, Dettmers et al., 2023)  bitsandbytes, CUDA

What is trained beside them are floats as ever. What stands before the first block (a patch embedding), convolutions, tables and
norms are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, Literal, get_args

import torch
from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES, FrozenNetwork
from petiole.backbones.joined import JoinedBackbone
from petiole.errors import BackboneError, first_line, unknown

Quantization = Literal["int8", "bnb-int8", "bnb-nf4"]
Layers = list[nn.Linear]


def quantize(network: FrozenNetwork, how: str, device: str) -> None:
    """Store a network's linear layers in fewer bits, in place; those of bitsandbytes are packed when they move to the device.

    Args:
        network: an image backbone, or two towers; a shape too, with ``int8``.
        how: a ``Quantization``.
        device: where it will live.

    Raises:
        BackboneError: the library is missing, has no use for the device, or the network has no such layers.
    """
    if how not in get_args(Quantization):
        raise unknown("quantization", how, get_args(Quantization), BackboneError)
    if not isinstance(network, Backbone):
        raise BackboneError(
            f"{network.name} is a language model, and only image backbones are quantised. Leave quantize out."
        )
    if how in _PACKED and (torch.device(device).type != "cuda" or not torch.cuda.is_available()):
        raise BackboneError(
            f"{how} is computed by bitsandbytes on a CUDA device, not on {device}. Take int8, which runs everywhere."
        )
    pack(network, how)


def pack(network: Backbone, how: str) -> None:
    """``quantize`` for any device."""
    if not (layers := list(_linear_layers(network))):
        raise BackboneError(
            f"{network.name} has no linear layers behind its embedding, so quantising would change nothing. Leave quantize out."
        )
    if how == "int8":
        _torchao(layers)
    else:
        _bitsandbytes(layers, how)
    network.quantized = how
    network.module.requires_grad_(False)


def check_runs(network: FrozenNetwork) -> None:
    """Run one black image.

    Raises:
        BackboneError: the network multiplies with weights past their layers, which packed ones do not allow.
    """
    assert isinstance(network, Backbone)
    image = torch.zeros(1, 3, *network.preprocessing.size, device=network.device)
    try:
        network(image)
    except (RuntimeError, NotImplementedError, TypeError) as error:
        raise BackboneError(
            f"{network.name} cannot compute with {network.quantized} weights ({first_line(error)}). Take int8, or leave "
            "quantize out."
        ) from error


def _linear_layers(network: Backbone) -> Iterator[nn.Linear]:
    if isinstance(network, JoinedBackbone):
        for part in network.parts:
            yield from _linear_layers(part)
        return
    for path, module in network.module.named_modules():
        # Subclasses (the projection of torch's own attention) are read past their forward.
        if type(module) is nn.Linear and network.role_of(f"{path}.weight") != IMAGES:
            yield module


def _torchao(layers: Layers) -> None:
    _check_installed("torchao", "quantized")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    # The other value changes settings of torch.compile for the whole process.
    config = Int8WeightOnlyConfig(set_inductor_config=False)
    for layer in layers:
        quantize_(layer, config)


def _bitsandbytes(layers: Layers, how: str) -> None:
    _check_installed("bitsandbytes", "quantized-cuda")
    for layer in layers:
        new = _PACKED[how](layer)
        # In the same place: whoever holds the layer, as roles do, holds the new one.
        layer.__class__, layer.__dict__ = new.__class__, new.__dict__


def _llm_int8(layer: nn.Linear) -> nn.Linear:
    """bitsandbytes' 8-bit layer with the weights of ``layer``, without outlier columns."""
    import bitsandbytes as bnb

    new = _like(bnb.nn.Linear8bitLt, layer, has_fp16_weights=False)
    new.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
    return new


def _nf4(layer: nn.Linear) -> nn.Linear:
    """bitsandbytes' 4-bit layer with the weights of ``layer``."""
    import bitsandbytes as bnb

    new = _like(bnb.nn.Linear4bit, layer, quant_type="nf4", compute_dtype=layer.weight.dtype)
    new.weight = bnb.nn.Params4bit(
        layer.weight.data, requires_grad=False, quant_type="nf4", module=new
    )
    return new


_PACKED: dict[str, Callable[[nn.Linear], nn.Linear]] = {"bnb-int8": _llm_int8, "bnb-nf4": _nf4}


def _like(kind: Any, layer: nn.Linear, **options: Any) -> nn.Linear:
    with torch.device("meta"):  # its own weights are not wanted
        new: nn.Linear = kind(
            layer.in_features, layer.out_features, bias=layer.bias is not None, **options
        )
    new.bias = layer.bias
    return new.eval()


def _check_installed(library: str, extra: str) -> None:
    if find_spec(library) is None:
        raise BackboneError(f"Quantising needs {library}. Install: pip install 'petiole[{extra}]'")

"""Whatever timm has beside plain ViTs: transformers whose blocks are known, other networks by what they end in."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from petiole.backbones.base import Backbone
from petiole.backbones.vision.block_network import BlockNetwork
from petiole.backbones.vision.timm_families import timm_family
from petiole.backbones.vision.trace import run_timm as run
from petiole.backbones.vision.trace import traced
from petiole.data.preprocessing import Preprocessing


@timm_family("Module")  # whatever is of no other family
def wrap(name: str, module: nn.Module, preprocessing: Preprocessing) -> Backbone:
    """Turn a timm network, its classifier removed, into a backbone.

    Raises:
        BackboneError: it does not take images of this size, or gives no features and no vector.
    """
    fuse_biases(module)
    channels_last = getattr(module, "output_fmt", "NCHW") == "NHWC"
    found = traced(name, module, run, preprocessing.size)
    if found.is_map and not found.blocks and not channels_last:
        from petiole.backbones.vision import cnn

        return cnn.of_trace(name, module, preprocessing, found)
    return BlockNetwork(name, module, preprocessing, run, found, channels_last=channels_last)


def fuse_biases(module: nn.Module) -> None:
    """Put the biases of q, k and v into the fused projection, where timm adds them by hand and so never calls it.

    x W + (b_q, b_k, b_v) is computed by the same kernel from the same numbers either way.
    """
    for part in module.modules():
        qkv, bias = getattr(part, "qkv", None), getattr(part, "q_bias", None)
        if not isinstance(qkv, nn.Linear) or not isinstance(bias, nn.Parameter):
            continue
        if getattr(part, "qkv_bias_separate", False):
            continue
        parts: Any = part
        qkv.bias = nn.Parameter(torch.cat([bias, parts.k_bias, parts.v_bias]))
        parts.q_bias = parts.k_bias = parts.v_bias = None

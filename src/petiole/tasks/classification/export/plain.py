"""An adapter as an ordinary network: the backbone's own architecture with new weights, and one linear layer behind it.

What is inside the backbone is merged (``tasks.classification.merge``). What is behind it, pooling, refinement and head, is
taken for a linear layer where it is one, z = W v + b; that is not looked up but found: W and b are read off at 0 and at the
unit vectors, and must then give what the adapter gives for other vectors.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from petiole.engine.folding import Weights
from petiole.errors import AdapterError
from petiole.tasks.classification.merge import merge
from petiole.tasks.classification.model import AdaptedClassifier

REMEDY = "Or export it as onnx or torch-export, which take whatever can be traced."
CLOSE = 1e-9
"""Largest difference from a linear layer in float64, relative to the largest logit."""


@dataclass(frozen=True)
class Plain:
    """Weights by their name in the backbone's module, W (K, d) and b (K,)."""

    weights: Weights
    weight: Tensor
    bias: Tensor


def plain(adapted: AdaptedClassifier) -> Plain:
    """Take an adapter apart.

    Raises:
        AdapterError: it has no such form; the message says which part, and why.
    """
    weight, bias = linear_head(adapted)
    plan = adapted.plan
    inside = bool(plan.attach or plan.tune or plan.injected)
    try:
        weights: Weights = merge(adapted) if inside else adapted.backbone.module.state_dict()
    except AdapterError as error:
        raise AdapterError(f"{error} {REMEDY}") from error
    return Plain(weights, weight, bias)


@torch.no_grad()
def linear_head(adapted: AdaptedClassifier) -> tuple[Tensor, Tensor]:
    """W (K, d) and b (K,) of what turns the backbone's image vector into logits.

    Raises:
        AdapterError: it is no linear map of that vector.
    """
    plan, backbone = adapted.plan, adapted.backbone
    name = (
        f"{type(plan.pool).__name__}, {type(plan.refine).__name__} and {type(plan.head).__name__}"
    )
    if plan.reads != (backbone.vector,):
        raise AdapterError(
            f"This adapter reads {', '.join(plan.reads)}, and an ordinary classifier reads {backbone.vector} alone. {REMEDY}"
        )
    top = copy.deepcopy(nn.Sequential(plan.pool, plan.refine, plan.head)).cpu().double().eval()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        others = torch.randn(16, backbone.width, dtype=torch.double)
    bias = top(torch.zeros(1, backbone.width, dtype=torch.double))[0]
    weight = (top(torch.eye(backbone.width, dtype=torch.double)) - bias).T
    want = top(others)
    if not float((others @ weight.T + bias - want).abs().max()) <= CLOSE * float(
        1 + want.abs().max()
    ):
        raise AdapterError(
            f"Its end ({name}) is no linear map of the image vector, so no linear layer can stand for it. {REMEDY}"
        )
    return weight.float(), bias.float()

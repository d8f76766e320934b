"""A backbone as one ONNX graph into which adapters are put from call to call: low-rank updates and a linear head as inputs.

Every projection that LoRA may change has a slot of two inputs, A (r, in) and B (out, r), and the head has two, W (K, d) and b (K,):

    value[role] <- value[role] + B A value[reads],   logits = W vector + b

All have defaults (B = 0, r = 1; W = 0, K = 1), so a call without an adapter gives the bare backbone. Ranks and numbers of classes may
differ from call to call. An input with a default is an initialiser that can be overridden, which ONNX Runtime does not fold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach, attached
from petiole.tasks.classification.export.network import quiet

WEIGHT, BIAS = "head.weight", "head.bias"


def slots_of(backbone: Backbone) -> dict[str, str]:
    """Roles with a slot -> what the update reads: queries, keys and values of every block."""
    return {
        f"block.{i}.attn.{part}": f"block.{i}.attn.in"
        for i in range(backbone.depth)
        for part in "qkv"
    }


def factors(role: str) -> tuple[str, str]:
    """Names of a slot's inputs."""
    return f"{role}.a", f"{role}.b"


def write_backbone(backbone: Backbone, file: Path) -> None:
    """Write the graph: ``pixels`` and the adapter's inputs -> ``logits`` and ``vector``."""
    import onnx
    from onnx import numpy_helper

    slots = slots_of(backbone)
    names = [name for role in slots for name in factors(role)] + [WEIGHT, BIAS]
    program = _traced(backbone, slots, names)
    with quiet():
        made = torch.onnx.export(
            program,
            dynamo=True,
            input_names=["pixels", *names],
            output_names=["logits", "vector"],
            verbose=False,
        )
        assert made is not None
        made.save(file)
    model = onnx.load(file)
    for name, value in _defaults(backbone, slots).items():
        model.graph.initializer.append(numpy_helper.from_array(value.numpy(), name))
    onnx.save(model, file)


class _Given:
    """Some of the graph's inputs, out of the sight of torch.export, which lets no module keep a tensor.

    Args:
        table: all of them by name.
        names: of these.
    """

    def __init__(self, table: dict[str, Tensor], names: Sequence[str]) -> None:
        self.table, self.names = table, names

    def take(self) -> list[Tensor]:
        return [self.table[name] for name in self.names]

    def put(self, values: Sequence[Tensor]) -> None:
        self.table.update(zip(self.names, values, strict=True))


class _Slot(nn.Module):
    """F(x) = B A x with A and B of the moment."""

    def __init__(self, given: dict[str, Tensor], role: str) -> None:
        super().__init__()
        self._given = _Given(given, factors(role))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self._given.take()
        return linear(linear(x, a), b)


class _Slotted(nn.Module):
    """The backbone with everything that changes as arguments."""

    def __init__(self, backbone: Backbone, given: dict[str, Tensor], names: Sequence[str]) -> None:
        super().__init__()
        self.module = backbone.module
        self._backbone, self._given = (backbone,), _Given(given, names)

    def forward(self, pixels: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        [backbone] = self._backbone
        self._given.put(values)
        vector = backbone.upper({IMAGES: pixels}, (backbone.vector,))[backbone.vector]
        return linear(vector, values[-2], values[-1]), vector


def _traced(
    backbone: Backbone, slots: Mapping[str, str], names: Sequence[str]
) -> torch.export.ExportedProgram:
    given: dict[str, Tensor] = {}
    sizes = {name: torch.export.Dim(name) for name in ("batch", "rank", "classes")}
    # Sizes of 1 would be taken for constants.
    example = _defaults(backbone, slots, rank=2, classes=3)
    pixels = torch.zeros(2, 3, *backbone.preprocessing.size)
    free = {
        **{name: {0 if name.endswith(".a") else 1: torch.export.Dim.AUTO} for name in names[:-2]},
        WEIGHT: {0: sizes["classes"]},
        BIAS: {0: sizes["classes"]},
    }
    attach = [Attach(role, _Slot(given, role), reads) for role, reads in slots.items()]
    with torch.no_grad(), attached(backbone, attach), quiet():
        return torch.export.export(
            _Slotted(backbone, given, names).eval(),
            (pixels, *(example[name] for name in names)),
            dynamic_shapes=({0: sizes["batch"]}, tuple(free[name] for name in names)),
            strict=False,
        )


def _defaults(
    backbone: Backbone, slots: Mapping[str, str], rank: int = 1, classes: int = 1
) -> dict[str, Tensor]:
    found = {}
    for role, reads in slots.items():
        a, b = factors(role)
        found[a] = torch.zeros(rank, backbone.site(reads).width)
        found[b] = torch.zeros(backbone.site(role).width, rank)
    return {
        **found,
        WEIGHT: torch.zeros(classes, backbone.width),
        BIAS: torch.zeros(classes),
    }

"""Hyperformer (Mahabadi et al., 2021) as VL-Adapter uses it: adapters written by a small network.

    z = LN( W_2 relu(W_1 [task_t ; layer_l]) )  in R^{d_p}
    W_down = reshape(H_down z + c),  b_down = H'_down z + c',  and the same for up
    h + W_up gelu(W_down h + b_down) + b_up

One controller a stream (encoder, decoder) with an embedding of its layers and, for each kind of place (attention,
cross-attention, MLP), hypernetworks; the embeddings of tasks are common to all. Tasks therefore share
everything but their embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from petiole.layers.checks import positive
from petiole.layers.initial import normal
from petiole.layers.tasks import by_task, check_task

EMBEDDING, HIDDEN = 512, 128
"""Sizes of the embeddings and of the projector's middle, as published."""
STD = 0.02


class Writer(nn.Module):
    """z (d_p,) -> weights of one projection: (out, in) and (out,)."""

    def __init__(self, code: int, width: int, out: int) -> None:
        super().__init__()
        self.shape = (out, width)
        self.weight = nn.Linear(code, out * width)
        self.bias = nn.Linear(code, out)
        for layer in (self.weight, self.bias):
            normal(layer, STD)

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        return self.weight(code).view(self.shape), self.bias(code)


class Controller(nn.Module):
    """The adapters of one stream.

    Args:
        layers: blocks of the stream.
        kinds: places in a block.
        width: d.
        size: of the bottleneck.
        code: d_p.
    """

    def __init__(self, layers: int, kinds: Sequence[str], width: int, size: int, code: int) -> None:
        super().__init__()
        self.layers = nn.Embedding(layers, EMBEDDING)
        first, second = nn.Linear(2 * EMBEDDING, HIDDEN), nn.Linear(HIDDEN, code)
        for layer in (self.layers, first, second):
            normal(layer, STD)
        self.project = nn.Sequential(first, nn.ReLU(), second)
        self.norm = nn.LayerNorm(code, eps=1e-6)
        self.down = nn.ModuleDict({kind: Writer(code, width, size) for kind in kinds})
        self.up = nn.ModuleDict({kind: Writer(code, size, width) for kind in kinds})

    def forward(self, task: Tensor, layer: int, kind: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights of an adapter: down (m, d), its bias (m,), up (d, m), its bias (d,)."""
        code = self.norm(self.project(torch.cat([task, self.layers.weight[layer]])))
        return (*self.down[kind](code), *self.up[kind](code))


class Hypernetwork(nn.Module):
    """Embeddings of tasks, and a controller for each stream.

    Args:
        tasks: number of them.
        streams: name -> (blocks, kinds of places).
        width: d.
        size: m, of the bottleneck.
        code: d_p.
    """

    def __init__(
        self,
        tasks: int,
        streams: Mapping[str, tuple[int, Sequence[str]]],
        width: int,
        size: int,
        code: int,
    ) -> None:
        super().__init__()
        positive(tasks=tasks, size=size, code=code)
        self.tasks = nn.Embedding(tasks, EMBEDDING)
        self.streams = nn.ModuleDict(
            {
                name: Controller(layers, kinds, width, size, code)
                for name, (layers, kinds) in streams.items()
            }
        )

    def weights(
        self, task: int, stream: str, layer: int, kind: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the adapter of a task at a place; see ``Controller``.

        Raises:
            ConfigError: no such task.
        """
        check_task(task, self.tasks.num_embeddings)
        made: tuple[Tensor, Tensor, Tensor, Tensor] = self.streams[stream](
            self.tasks.weight[task], layer, kind
        )
        return made


class Written(nn.Module):
    """The branch of an adapter whose weights a hypernetwork writes: (B, ..., d) -> (B, ..., d).

    The hypernetwork belongs to all places and is not held here.
    """

    def __init__(self, hypernetwork: Hypernetwork, stream: str, layer: int, kind: str) -> None:
        super().__init__()
        self._hypernetwork = (hypernetwork,)
        self.place = (stream, layer, kind)

    def forward(self, h: Tensor) -> Tensor:
        return by_task(h, self._branch)

    def _branch(self, task: int, h: Tensor) -> Tensor:
        down, b, up, c = self._hypernetwork[0].weights(task, *self.place)
        return linear(gelu(linear(h, down, b), approximate="tanh"), up, c)

"""What processes that train one model together say to each other; one process alone is a group of one.

The group that they talk in is opened by ``petiole.engine.together``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from petiole.processes import rank, world


def opened() -> bool:
    """Whether there are others, and a group to talk to them in."""
    return world() > 1 and dist.is_available() and dist.is_initialized()


def members() -> int:
    """How many talk to each other; 1 where no group is open."""
    return world() if opened() else 1


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, without a gradient; a GPU is not waited for."""
    if not opened():
        return values
    total = values.detach().clone()
    dist.all_reduce(total)
    return total


def gathered(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all processes, in the order of their ranks; n may differ.

    A gradient comes back to the process whose row it is, summed over all processes. So a loss that each computes on all rows
    has, averaged over the processes, the gradient that one process with all rows would have.
    """
    if not opened():
        return rows
    out: Tensor = _Gather.apply(rows)
    return out


def said_by_all(value: Any) -> list[Any]:
    """What each process says, as JSON takes it, in the order of their ranks."""
    if not opened():
        return [value]
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device)
    sizes = [torch.zeros(1, dtype=torch.long, device=device) for _ in range(world())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=device))
    most = max(int(size) for size in sizes)
    parts = [torch.zeros(most, dtype=torch.uint8, device=device) for _ in sizes]
    dist.all_gather(parts, torch.nn.functional.pad(own, (0, most - len(own))))
    texts = (bytes(part[: int(n)].tolist()) for part, n in zip(parts, sizes, strict=True))
    return [json.loads(text) for text in texts]


def await_main() -> None:
    """Wait in the other processes until the main one has ended, where all are about to end with one error.

    Who ended first would take the connection away over which the main process hears of it, and ``torchrun`` would end that
    one before it has said why.
    """
    if opened() and rank() and dist.get_backend() == "gloo":
        with suppress(Exception):  # the connection is closed
            dist.barrier()


class _Gather(torch.autograd.Function):
    """Forward: the rows (n, ...) of all processes, joined. Backward: the gradients of one's own, summed over processes."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(world())]
        dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
        counts = [int(size) for size in sizes]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(world())]
        dist.all_gather(parts, padded)
        ctx.own = slice(sum(counts[: rank()]), sum(counts[: rank() + 1]))
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total[ctx.own]

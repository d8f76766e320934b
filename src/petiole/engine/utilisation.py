"""How much of what a device can do is done: FLOPs a second beside those that a product of large matrices reaches there."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch

from petiole.engine.precision import AUTOCAST

LONG = 5.0
"""Seconds of training from which its utilisation is measured: less says more of the start than of the steps."""


def utilisation(
    count: Callable[[], float | None], seconds: float, device: torch.device, precision: str
) -> tuple[float | None, float | None]:
    """FLOPs a second of a training, and their share of a matrix product at its precision (MFU).

    Args:
        count: gives the FLOPs that it took, or ``None`` where nobody knows; called where they are wanted.
        seconds: that it took.
        device: where it ran.
        precision: of its matrix products.

    Returns:
        Nothing of a short training, of one that was solved, or where the device has no room for the counting; no share where it
        has none for the product.
    """
    if seconds < LONG:
        return None, None
    rate = None
    with suppress(torch.OutOfMemoryError):  # a finished training must not be lost to it
        if flops := count():
            rate = flops / seconds
            dtype = AUTOCAST.get(precision, torch.float32)
            return rate, rate / product_rate(str(device), dtype)
    return rate, None


@cache
def product_rate(device: str, dtype: torch.dtype) -> float:
    """FLOPs a second of a product of two large square matrices, 2 n^3 each; measured once a process."""
    side = 8192 if device.startswith("cuda") else 1024
    one = torch.ones(side, side, dtype=dtype, device=device)
    return 2 * side**3 / best_seconds(lambda: one @ one, device)


def best_seconds(work: Callable[[], Any], device: str) -> float:
    """The shortest of five times: the first of all is slower, the best is what other work leaves free."""
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - start)
    return min(taken)

"""Processes that train together on this machine."""

from __future__ import annotations

import os
import socket


def free_port() -> int:
    """A port that nothing listens on at the moment."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def alone() -> dict[str, str]:
    """The environment of one process that trains by itself, on one core."""
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**clean, "OMP_NUM_THREADS": "1"}


def two_ranks() -> list[dict[str, str]]:
    """The environments of two CPU processes that make one step together, over the loopback."""
    world = {
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "GLOO_SOCKET_IFNAME": "lo",
        "ACCELERATE_USE_CPU": "true",
    }
    return [{**alone(), **world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]

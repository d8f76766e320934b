"""Mains of worker processes that import nothing large."""

from __future__ import annotations

import os
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any

from petiole.serving.channel import receive, send


def ends(connection: Connection, setup: Mapping[str, Any]) -> None:
    """Gets ready if it is told to, and ends at the first message, or at once, by a signal or with a code."""
    if setup["ready"]:
        send(connection, {"described": {}})
        receive(connection)
    if "signal" in setup:
        os.kill(os.getpid(), setup["signal"])
    os._exit(setup["code"])

"""Messages between the HTTP process and its workers: a JSON object and blobs of bytes; nothing is unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, NamedTuple


class Message(NamedTuple):
    """What was received."""

    value: dict[str, Any]
    blobs: list[bytes]


def send(to: Connection, value: Mapping[str, Any], blobs: Sequence[bytes] = ()) -> None:
    """Send a message; one thread at a time."""
    to.send_bytes(json.dumps({"blobs": len(blobs), "value": value}).encode())
    for blob in blobs:
        to.send_bytes(blob)


def receive(source: Connection) -> Message:
    """Wait for a message.

    Raises:
        EOFError, OSError: the other side is gone.
    """
    head = json.loads(source.recv_bytes())
    return Message(head["value"], [source.recv_bytes() for _ in range(head["blobs"])])

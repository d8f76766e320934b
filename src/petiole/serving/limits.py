"""What one server takes on; everything beyond is refused."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a server.

    Attributes:
        wait: seconds that a request may be expected to wait; where it would be longer, it is refused at once (429).
        seconds: for a request to arrive, and for it to be answered (408, 504).
        body: bytes of a request, an uploaded adapter among them (413).
        images: of one request (422).
        pixels: of one image (422).
        queued: bytes of images that wait (429).
        batch: rows of one forward at most.
        loaded: adapters in memory; the least lately used are let go, and read again when they are asked for.
        adapters: that the server knows; an upload beyond lets the least lately used upload go.
        memory: bytes of the inference process, after which it is started anew between two batches; 0 for no bound.
        connections: open at once (503).
    """

    wait: float = 2.0
    seconds: float = 30.0
    body: int = 32 * 2**20
    images: int = 64
    pixels: int = 50_000_000
    queued: int = 256 * 2**20
    batch: int = 32
    loaded: int = 64
    adapters: int = 1024
    memory: int = 0
    connections: int = 512

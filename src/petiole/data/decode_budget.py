"""Room for pixels that all decoding threads share: large images wait for each other, small ones do not notice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

_freed = Condition()
_held = 0


@contextmanager
def room_for(pixels: int, most: int) -> Iterator[None]:
    """Wait until this many pixels fit beside those that other threads decode now; one image alone always fits.

    Args:
        pixels: width x height of the image.
        most: of all threads together.
    """
    global _held
    with _freed:
        _freed.wait_for(lambda: not _held or _held + pixels <= most)
        _held += pixels
    try:
        yield
    finally:
        with _freed:
            _held -= pixels
            _freed.notify_all()

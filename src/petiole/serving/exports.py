"""Adapters of a server as graphs for ONNX Runtime, exported by a process of their own while torch answers.

A graph lies in the adapter's folder, under a name that holds the digest of its manifest, so that an adapter is exported once and a
changed one again. ``petiole export`` has compared it with the adapter before it is there.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Literal

from petiole.errors import AdapterError
from petiole.processes import how_it_ended

Engine = Literal["auto", "torch", "onnx"]
PRIORITY = 10
"""Of an export that requests go before, as of ``nice``."""


def place_of(manifest: Path, spare: Path) -> Path:
    """Where the graph of an adapter lies, or is to lie.

    Args:
        manifest: adapter.json.
        spare: folder for the graph of an adapter whose own folder cannot be written.
    """
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    home, name = manifest.parent, f"onnx-{digest[:16]}"
    return (home if (home / name).is_dir() or os.access(home, os.W_OK) else spare) / name


async def export(folder: Path, out: Path, *, aside: bool = True) -> None:
    """Export an adapter.

    Args:
        folder: of the adapter.
        out: folder to write.
        aside: requests go before.

    Raises:
        AdapterError: it has no graph that says the same; the message says why.
    """
    command = (sys.executable, "-m", "petiole", "export", str(folder), "--out", str(out))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    if aside:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, process.pid, PRIORITY)
    try:
        said = (await process.communicate())[1].decode(errors="replace")
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGINT)  # it clears up what it began
            await process.wait()
    if process.returncode and not out.is_dir():  # another server may have been faster
        told = said.rpartition("error: ")[2].strip()
        raise AdapterError(told or f"petiole export {how_it_ended(process.returncode)}.")

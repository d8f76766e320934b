"""Run folders: one process at a time, one request each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from petiole.engine.model_card import read_kept
from petiole.engine.record import RECORD, REQUEST, RunRequest
from petiole.errors import RunError
from petiole.files import write_sealed
from petiole.processes import is_main


def check_free(folder: Path, *, resume: bool) -> None:
    """Check, before anything is computed, that a run may lie in a folder; of several processes the main one does.

    Raises:
        RunError: one does, and ``resume`` is not set.
    """
    if is_main() and (folder / REQUEST).exists() and not resume:
        raise RunError(
            f"{folder} already holds a run. Add --resume to finish or reuse it, or choose "
            "another --out."
        )


def claim_folder(folder: Path, request: RunRequest, *, resume: bool) -> bool:
    """Take a folder for a request; whether its record is already there.

    Raises:
        RunError: it holds a run and ``resume`` is not set, or one with another request.
    """
    file = folder / REQUEST
    check_free(folder, resume=resume)
    if not file.exists():
        write_sealed(file, request.model_dump(mode="json"))
        return False
    remedy = "The run cannot be resumed: delete its folder, or choose another --out."
    old = read_kept(file, RunRequest, remedy)
    if old.digest != request.digest:
        raise RunError(
            f"{folder} holds a run with other settings ({_differences(old, request)}). "
            "Repeat the command as it was, or choose another --out."
        )
    return (folder / RECORD).exists()


def _differences(old: RunRequest, new: RunRequest) -> str:
    a, b = (json.loads(r.model_dump_json()) for r in (old, new))
    rows = [f"{k}: {a[k]!r} -> {b[k]!r}" for k in a if a[k] != b[k] and not isinstance(a[k], dict)]
    rows += [
        f"{k}.{n}: {a[k].get(n)!r} -> {b[k].get(n)!r}"
        for k in a
        if isinstance(a[k], dict)
        for n in sorted(a[k].keys() | b[k].keys())
        if a[k].get(n) != b[k].get(n)
    ]
    return "; ".join(row if len(row) < 120 else row[:117] + "..." for row in rows[:4])


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process a run folder; the operating system frees the lock of a killed one."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)  # makes the folder
    except Timeout as error:
        raise RunError(
            f"Another process works in {folder}. Wait for it, or choose another --out."
        ) from error
    except OSError as error:
        raise RunError(
            f"{folder} cannot be the run folder: {error.strerror}. Choose another --out."
        ) from error
    try:
        yield
    finally:
        lock.release()

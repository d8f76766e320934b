"""Work in a forked process that is killed, or whose disk is full, at the n-th event of its files or after some time.

Events are what changes files below a folder: opening to write, making and deleting a file or folder, flushing, renaming,
and the safetensors library's own writing. The process is a fork of a warm one, so a fault costs what the work costs.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from errno import ENOSPC
from pathlib import Path
from typing import Any

from petiole.errors import PetioleError

EACH = float(os.environ.get("PETIOLE_FAULTS", "0"))
"""Share of the full suite; 0 for the smoke part, which ``make test`` runs."""

COUNTS: dict[str, Counter[str]] = {}
"""What happened, by kind of fault: printed as a table when the tests end."""

_CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.truncate",
    "os.link",
    "os.symlink",
}
_FREES = {"os.remove", "os.rmdir"}
"""A full disk allows these."""


SECONDS = float(os.environ.get("PETIOLE_FAULTS_SECONDS", "150"))
"""For which a test may look for faults; what does not fit is left out, and the counts say so."""


def share(full: int, smoke: int) -> int:
    """How many of the full suite's cases are run now."""
    return max(smoke, round(full * EACH))


def counted(kind: str) -> Counter[str]:
    """The counts of a kind of fault."""
    return COUNTS.setdefault(kind, Counter())


def keep() -> None:
    """Write the counts so far to the file that PETIOLE_FAULTS_COUNTS names."""
    if file := os.environ.get("PETIOLE_FAULTS_COUNTS"):
        Path(file).write_text(json.dumps(COUNTS, indent=1))


def tables(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Counts in Markdown: a table for each kind of fault, which is what stands before the colon, and a sum where it has rows."""
    kinds: dict[str, dict[str, Mapping[str, int]]] = {}
    for fault, row in counts.items():
        kind, _, name = fault.partition(": ")
        kinds.setdefault(kind, {})[name or kind] = row
    return "\n\n".join(_table(kind, rows) for kind, rows in kinds.items())


def _table(kind: str, rows: dict[str, Mapping[str, int]]) -> str:
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    if len(rows) > 1:
        rows["**All**"] = {name: sum(row.get(name, 0) for row in rows.values()) for name in names}
    cells = [[kind.capitalize(), *map(str.capitalize, names)], ["---", *["---:"] * len(names)]]
    for name, row in rows.items():
        cells.append([name, *(f"{row[n]:,}" if n in row else "" for n in names)])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


@dataclass(frozen=True)
class Fault:
    """What happens, and when.

    Attributes:
        at: number of the event, from 1; 0 for none.
        errno: of the error that the event gets, and all thereafter; 0 for a kill. With ENOSPC, deleting is no event.
        seconds: until a kill, if not at an event.
    """

    at: int = 0
    errno: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        kind: ``done``, ``refused`` (an error of ours, or the operating system's), ``killed`` or ``traceback``.
        value: that the work returned, or what was said.
        events: of files, when it was not killed.
        failed: what failed on the way by an ``errno``: operation and name, in order.
    """

    kind: str
    value: Any = None
    events: int = 0
    failed: tuple[str, ...] = ()


def forked(work: Callable[[], Any], root: Path, fault: Fault = Fault()) -> Outcome:
    """Do the work in a fork of this process."""
    inward, outward = os.pipe()
    child = os.fork()
    if not child:
        os.close(inward)
        _child(work, root, fault, outward)
    os.close(outward)
    with os.fdopen(inward, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Outcome("killed", signal.Signals(os.WTERMSIG(status)).name)
    return Outcome(*pickle.loads(said))


def _child(work: Callable[[], Any], root: Path, fault: Fault, outward: int) -> None:
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    events, failed = _watch(root, fault)
    if fault.seconds:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, fault.seconds)
    try:
        said: tuple[str, Any, int] = ("done", work(), events[0])
    except (PetioleError, OSError) as error:
        said = ("refused", f"{type(error).__name__}: {error}", events[0])
    except BaseException:
        said = ("traceback", traceback.format_exc(), events[0])
    with os.fdopen(outward, "wb") as stream:
        stream.write(pickle.dumps((*said, tuple(failed))))
    os._exit(0)


def _watch(root: Path, fault: Fault) -> tuple[list[int], list[str]]:
    """Count events from now on, in the list's one place, and let the fault happen at its own; and what fails thereby."""
    events, failed, place = [0], list[str](), str(root)

    def event(what: str, path: object) -> None:
        if not (isinstance(path, str | os.PathLike) and os.fspath(path).startswith(place)):
            return
        events[0] += 1
        if fault.at and events[0] >= fault.at:
            if fault.errno:
                failed.append(f"{what} {Path(os.fspath(path)).name}")
                raise OSError(fault.errno, os.strerror(fault.errno), os.fspath(path))
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(name: str, arguments: tuple[Any, ...]) -> None:
        if name == "open" and isinstance(arguments[2], int):
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                event("open", arguments[0])
        elif name in _CHANGES and not (fault.errno == ENOSPC and name in _FREES):
            event(name.removeprefix("os."), arguments[0])

    sys.addaudithook(hook)
    flush, names = os.fsync, "/proc/self/fd/{}"

    def flushed(file: int) -> None:
        event(
            "flush", os.readlink(names.format(file)) if os.path.exists("/proc/self/fd") else place
        )
        flush(file)

    os.fsync = flushed
    from petiole import files

    save = files.save_file

    def saved(tensors: Any, path: Path, **options: Any) -> None:
        event("save", path)
        save(tensors, path, **options)

    files.save_file = saved
    return events, failed

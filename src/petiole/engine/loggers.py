"""Who else hears how a run goes, while it goes. The record at its end does not depend on them.

Another logger is one new file beside this one, or a distribution with an entry point of the group ``petiole.loggers``:

    @LOGGERS.register("board", "curves on the team's server")
    class Board:
        def __init__(self, folder: Path) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from petiole.files import append_line
from petiole.registry import Registry

LOG = "log.jsonl"


class Logger(Protocol):
    """Hears of one run. A run that is taken up again starts again and repeats no step that it has kept."""

    def start(self, request: Mapping[str, Any]) -> None:
        """The run begins, or goes on; ``request`` says what was asked for, as JSON takes it."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of a training step, e.g. ``loss`` and ``lr``."""
        ...

    def finish(self, record: Mapping[str, Any]) -> None:
        """The run is done; ``record`` is what record.json holds."""
        ...


LOGGERS = Registry[Callable[[Path], Logger]](
    "logger", "petiole.engine", "LOGGERS.register", "petiole.loggers", described=True
)


def logger(name: str, folder: Path) -> Logger:
    """Make the logger of this name for the run in ``folder``.

    Raises:
        ConfigError: an unknown name.
    """
    return LOGGERS.find(name)(folder)


@LOGGERS.register("jsonl", "one line of JSON a step, in log.jsonl of the run folder")
class JsonLines:
    """Appends to ``log.jsonl``: ``{"event": "start" | "step" | "finish", ...}`` on every line.

    Numbers that JSON has no form for are written as words: ``"nan"``, ``"inf"``, ``"-inf"``.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / LOG

    def start(self, request: Mapping[str, Any]) -> None:
        """See ``Logger.start``."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self._write({"event": "start", "request": dict(request)})

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """See ``Logger.log``."""
        plain = {name: v if isfinite(v) else str(float(v)) for name, v in values.items()}
        self._write({"event": "step", "step": step, **plain})

    def finish(self, record: Mapping[str, Any]) -> None:
        """See ``Logger.finish``; of the record only its id and scores are repeated."""
        kept = {key: record[key] for key in ("id", "scores") if key in record}
        self._write({"event": "finish", **kept})

    def _write(self, row: Mapping[str, Any]) -> None:
        append_line(self.file, row)

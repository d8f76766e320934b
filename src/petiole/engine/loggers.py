"""Who else hears how a run goes, while it goes. The record at its end does not depend on them.

Another logger is one new file beside this one, or a distribution with an entry point of the group ``petiole.loggers``:

    @LOGGERS.register("board", "curves on the team's server")
    class Board:
        def __init__(self, folder: Path) -> None: ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from petiole.errors import ConfigError
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


def library(name: str, module: str = "") -> Any:
    """A library of trackers.

    Args:
        name: as it is installed.
        module: to import, where it is named otherwise.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return import_module(module or name)
    except ImportError as error:
        raise ConfigError(
            f"--logger {name} needs the library {name} ({error}). Install: pip install {name}"
        ) from error


def params_of(value: Mapping[str, Any], prefix: str = "") -> dict[str, str | int | float]:
    """A request as parameters without levels: ``settings.rank`` -> 16; lists in one line."""
    found: dict[str, str | int | float] = {}
    for key, one in value.items():
        if isinstance(one, Mapping):
            found |= params_of(one, f"{prefix}{key}.")
        elif one is not None:
            found[prefix + key] = one if isinstance(one, int | float) else str(one)[:500]
    return found


def scores_of(record: Mapping[str, Any]) -> dict[str, float]:
    """A record's scores by ``table/metric``."""
    tables = record.get("scores", {}).items()
    return {f"{table}/{name}": value for table, row in tables for name, value in row.items()}


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

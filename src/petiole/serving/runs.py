"""Runs below a folder, finished and under way, read from their records, requests and logs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from petiole.engine.model_card import read_kept
from petiole.engine.record import LOG, RECORD, REQUEST, RunRequest, read_log, read_record
from petiole.errors import ConfigError, PetioleError
from petiole.serving.run_files import PAGE, file_below

MOST, MOST_POINTS, MOST_COMPARED = 500, 300, 6
QUIET = 300.0
"""Seconds without a line of its log after which a run that has no record is taken to have stopped."""


def list_runs(root: Path) -> list[dict[str, Any]]:
    """A row for each run at any depth, the newest first; one that cannot be read says why. Then other pages: of comparisons, say.

    Args:
        root: folder of run folders.
    """
    folders = {file.parent for name in (RECORD, REQUEST) for file in root.rglob(name)}
    rows = [_row(root, folder) for folder in sorted(folders)[:MOST]]
    rows.sort(key=lambda row: str(row.get("created", "~")), reverse=True)
    pages = sorted({file.parent for file in root.rglob(PAGE)} - folders)[:MOST]
    return rows + [{"name": _name(root, one), "state": "page", "page": True} for one in pages]


def _name(root: Path, folder: Path) -> str:
    return str(folder.relative_to(root))


def _row(root: Path, folder: Path) -> dict[str, Any]:
    name = _name(root, folder)
    try:
        if not (folder / RECORD).is_file():
            return {"name": name, **_under_way(folder)}
        record = read_record(folder)
    except PetioleError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "state": "finished",
        "created": record.created,
        "kind": record.request.kind,
        "method": record.request.method,
        "backbone": record.request.backbone.name,
        "shots": record.request.data.shots,
        "scores": record.main,
        "parameters": record.ledger.trainable,
        "seconds": record.costs.train_seconds,
        "page": (folder / PAGE).is_file(),
    }


def _under_way(folder: Path) -> dict[str, Any]:
    request = _request(folder)
    log = folder / LOG
    last = (log if log.is_file() else folder / REQUEST).stat().st_mtime
    rows = _log(folder)
    return {
        "state": "running" if time.time() - last < QUIET else "stopped",
        "kind": request.kind,
        "method": request.method,
        "backbone": request.backbone.name,
        "step": rows[-1]["step"] + 1 if rows else 0,
        "steps": request.settings.get("steps"),
        "page": False,
    }


def compare_runs(root: Path, names: list[str]) -> dict[str, Any]:
    """Some runs side by side: what was asked of each, what it gave, and its curve of losses.

    Args:
        root: folder of run folders.
        names: of runs, as ``list_runs`` gives them.

    Raises:
        ConfigError: too many, or one is no run below ``root``.
        RunError: one is damaged.
    """
    if not 1 <= len(names) <= MOST_COMPARED:
        raise ConfigError(f"1 to {MOST_COMPARED} runs are compared, not {len(names)}.")
    runs = []
    for name in names:
        request = file_below(root, name, REQUEST)
        if request is None:
            raise ConfigError(f"{name[:80]!r} is no run here.")
        folder = request.parent
        runs.append(
            {**_row(root.resolve(), folder), "asked": _asked(folder), "curve": _curve(folder)}
        )
    return {"runs": runs}


def _asked(folder: Path) -> dict[str, str]:
    """The request, flat: ``settings.rank`` -> ``16``; digests are cut short, and long lists left to the record."""
    told = _request(folder).model_dump(mode="json")
    told["backbone"] = told["backbone"]["name"]
    data = {k: v for k, v in told["data"].items() if k not in ("notes", "classes")}
    digests = {part: digest[:12] for part, digest in data["digests"].items()}
    told["data"] = data | {"digests": digests}
    return {name: text for name, text in _flat(told) if len(text) <= 200}


def _flat(value: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for key, one in value.items():
        found += (
            _flat(one, f"{before}{key}.") if isinstance(one, dict) else [(before + key, str(one))]
        )
    return found


def _curve(folder: Path) -> list[tuple[float, float]]:
    """Step and loss, thinned to the mean of neighbours."""
    rows = [(row["step"], row["loss"]) for row in _log(folder) if "loss" in row]
    width = -(-len(rows) // MOST_POINTS) or 1
    parts = [rows[i : i + width] for i in range(0, len(rows), width)]
    return [(part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts]


def _log(folder: Path) -> list[dict[str, float]]:
    if not (folder / LOG).is_file():
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a line that is being written
        return read_log(folder)


def _request(folder: Path) -> RunRequest:
    return read_kept(folder / REQUEST, RunRequest, "Delete the folder, or restore the file.")

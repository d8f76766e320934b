"""Finished runs below a folder, read from their records."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petiole.engine.record import RECORD, read_record
from petiole.errors import PetioleError

MOST = 500
PAGE = "report.html"


def list_runs(root: Path) -> list[dict[str, Any]]:
    """A row for each run at any depth, the newest first; one that cannot be read says why.

    Args:
        root: folder of run folders.
    """
    rows = [_row(root, file.parent) for file in sorted(root.rglob(RECORD))[:MOST]]
    return sorted(rows, key=lambda row: str(row.get("created", "")), reverse=True)


def _row(root: Path, folder: Path) -> dict[str, Any]:
    name = str(folder.relative_to(root))
    try:
        record = read_record(folder)
    except PetioleError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
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

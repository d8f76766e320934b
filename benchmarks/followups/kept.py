"""What a costly script has measured, kept beside its runs, so that a script that was stopped goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from petiole.files import read_sealed, text_digest, write_sealed


def kept(
    folder: Path, asked: Mapping[str, Any], measure: Callable[[], dict[str, Any]]
) -> dict[str, Any]:
    """What ``measure`` returns, or what it returned when the same was asked before.

    Args:
        folder: where answers lie.
        asked: all that decides the result, contents by their digests.
        measure: JSON values by name.
    """
    file = folder / f"{text_digest(json.dumps(asked, sort_keys=True))[:16]}.json"
    if not file.exists():
        write_sealed(file, {"asked": dict(asked), "found": measure()})
    found: dict[str, Any] = read_sealed(file)["found"]
    return found

"""Files of what was chosen, one line a name: ``PETIOLE_SNAPSHOT=1`` writes them anew after a change that is meant."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def kept(file: Path, now: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds, of the same names."""
    if os.environ.get("PETIOLE_SNAPSHOT") == "1":
        rows = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in now.items()]
        file.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    found: dict[str, Any] = json.loads(file.read_text())
    assert now.keys() == found.keys()
    return found

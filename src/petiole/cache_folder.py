"""Where this user's caches lie."""

from __future__ import annotations

import os
from pathlib import Path


def default_cache() -> Path:
    """``$PETIOLE_CACHE``, else ``petiole`` in the user's cache folder."""
    if chosen := os.environ.get("PETIOLE_CACHE"):
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "petiole"

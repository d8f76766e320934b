"""``petiole cache``: what the feature cache holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult, default_cache, plural
from petiole.commands.verb import verb


class Cache(CommandResult):
    """What lies in the cache.

    Attributes:
        folder: where.
        entries: one row for each combination of weights, preprocessing, cut and view.
        removed: files deleted by ``clean``.
    """

    folder: Path
    entries: list[dict[str, Any]]
    removed: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not any(row["damaged"] for row in self.entries)

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        for name in ("key", "cut", "view", "dtype", "images", "MB", "damaged"):
            table.add_column(name, justify="left" if name in ("key", "cut") else "right")
        for row in self.entries:
            key = row["key"]
            table.add_row(
                row["digest"][:10],
                ", ".join(key.get("cut", ["key.json is damaged"])),
                str(key.get("view", "")),
                key.get("dtype", ""),
                f"{row['images']:,}",
                f"{row['bytes'] / 1e6:,.1f}",
                str(row["damaged"]),
            )
        total = sum(row["bytes"] for row in self.entries) / 1e6
        what = Text(f"{self.folder}: {plural(len(self.entries), 'key')}, {total:,.1f} MB")
        return Group(
            table, what, *([f"removed {plural(self.removed, 'file')}"] if self.removed else [])
        )


@verb
def cache(
    action: Literal["list", "verify", "clean", "clear"] = "list",
    /,
    *,
    cache_dir: Path | None = None,
) -> Cache:
    """Look after the feature cache.

    Args:
        action: list; verify every checksum; clean away damaged shards and leftovers of killed
            writers; clear everything.
        cache_dir: the cache's folder, if it is not the usual one.
    """
    from dataclasses import asdict

    from petiole.engine.feature_store import clean, entries

    folder = Path(cache_dir) if cache_dir else default_cache()
    removed = clean(folder, everything=action == "clear") if action in ("clean", "clear") else 0
    rows = [asdict(entry) for entry in entries(folder, verify=action == "verify")]
    return Cache(folder=folder, entries=rows, removed=removed)

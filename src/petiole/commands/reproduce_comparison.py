"""A published table of a comparison on the images of one's own folder, beside what was published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petiole.commands.options import ModelOptions
from petiole.commands.placement import ExecutorOptions
from petiole.errors import ConfigError

if TYPE_CHECKING:
    from petiole.protocols.reproduction import Reproduction


def on_own_images(
    name: str,
    table: Mapping[str, Any],
    methods: Sequence[str],
    data: Path | None,
    root: Path,
    seeds: int,
    resume: bool,
    placement: ExecutorOptions | None,
    model: ModelOptions,
) -> Reproduction:
    """The rows of a table on the images of a folder, which are never the paper's own."""
    from petiole.commands.compare import compare
    from petiole.protocols.reproduction import ClaimResult, Reproduction

    if methods:
        raise ConfigError(f"{name} is run as a whole. Leave --methods out, or use petiole compare.")
    missing = tuple(table.get("missing", ()))
    if data is None:
        needs = f"images: a folder of your own (--data), as petiole compare DATA --table {name} takes it"
        return Reproduction((), (*missing, needs))
    done = compare(
        data,
        table=name,
        split_seeds=seeds,
        out=root,
        resume=resume,
        placement=placement,
        model=model,
    )
    claimed = {row["name"]: row["claimed"] / 100 for row in table["rows"] if "claimed" in row}
    found = tuple(
        ClaimResult(
            data.name, row.label, "accuracy", claimed[row.name], row.over_splits, "other data"
        )
        for row in done.summary.rows
        if row.name in claimed
    )
    return Reproduction(found, missing)

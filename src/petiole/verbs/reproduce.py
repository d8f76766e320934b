"""``petiole reproduce``: what was published, ours, and the verdict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.verbs.common import Machine, Result, fact


class Reproduced(Result):
    """A claimed share beside ours.

    Attributes:
        name: of the table.
        claimed: as published, per cent.
        source, doubt: where it stands, and what is not said there.
        accounting: how ours was counted.
        ours: per cent.
        agrees: whether ours rounds to the claimed value.
        others: what other accountings give, per cent.
        pairs: share by backbone and data set, per cent.
    """

    name: str
    claimed: float
    source: str
    doubt: str
    accounting: str
    ours: float
    agrees: bool
    others: dict[str, float]
    pairs: dict[str, float]

    def text(self) -> RenderableType:
        table = Table(box=None, pad_edge=False)
        table.add_column("accounting")
        table.add_column("%", justify="right")
        for name, value in {self.accounting: self.ours, **self.others}.items():
            table.add_row(name, f"{value:.4f}")
        word = "reproduced" if self.agrees else "not reproduced"
        return Group(
            Text(
                f"{self.name}: claimed {self.claimed} ({self.source}), ours {self.ours:.4f}: {word}"
            ),
            Text(f"note     {self.doubt}"),
            table,
        )


class ReproducedTable(Result):
    """A claimed table of accuracies beside ours.

    Attributes:
        name, title: of the table.
        source, doubt: where it stands, and what is not said there.
        found: claimed number, ours and verdict, fractions.
        claims: all claimed numbers, per cent, by row and data set.
        missing: what the rest would need.
        folder: of the runs.
    """

    name: str
    title: str
    source: str
    doubt: str
    found: Any
    claims: dict[str, dict[str, Any]]
    missing: tuple[str, ...]
    folder: Path

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Every number."""
        from dataclasses import asdict

        plain = super().model_dump(exclude={"found"}, **options)
        return {**plain, "found": [asdict(one) for one in self.found]}

    def text(self) -> RenderableType:
        from petiole.report.words import mean_sd

        table = Table("data", "method", "", "claimed", "ours", "verdict", box=SIMPLE_HEAD)
        for one in self.found:
            claimed = f"{100 * one.claimed:.2f}"
            table.add_row(one.place, one.row, one.what, claimed, mean_sd(one.ours, 2), one.verdict)
        lines = [
            Text(f"{self.name}: {self.title}"),
            Text(f"claimed  {self.source}"),
            Text(f"note     {self.doubt}"),
        ]
        done: list[RenderableType] = [table, fact("runs", self.folder)] if self.found else []
        lacking = [Text(f"missing  {what}") for what in self.missing]
        return Group(*lines, self._claims(), *done, *lacking)

    def _claims(self) -> Table:
        """The averages, or all places where there are none."""
        averages = all("average" in places for places in self.claims.values())
        names = ["average"] if averages else list(next(iter(self.claims.values())))
        table = Table("claimed", *names, box=SIMPLE_HEAD)
        for label, places in self.claims.items():
            cells = (places[name] for name in names)
            table.add_row(
                label,
                *(" / ".join(map(str, c)) if isinstance(c, list) else str(c) for c in cells),
            )
        return table


def reproduce(
    name: str,
    /,
    *,
    data: Path | None = None,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    seeds: int = 3,
    out: Path | None = None,
    resume: bool = False,
    processes: int = 1,
    machine: Machine | None = None,
) -> Reproduced | ReproducedTable:
    """Print what was claimed, ours, and the verdict; and what is missing for the rest.

    Shares of trained parameters (adaptertune/params) are counted again without any weights. Accuracies
    (textrefiner/base-to-novel, /domain-generalisation, /cross-data-set) are measured on the data sets that lie below
    --data in CoOp's format, with --backbone; a verdict needs the backbone of the claim. Other tables of accuracy need
    images of their own: petiole compare IMAGES --table NAME.

    Args:
        name: e.g. textrefiner/base-to-novel.
        data: folder of the data sets.
        methods: rows by name; by default all that can be run.
        seeds: runs of each row on each data set.
        out: folder; by default runs/NAME.
        resume: finish an interrupted measurement; finished runs are kept.
        processes: runs at a time.
        machine: where and how the backbone runs.

    Raises:
        ConfigError: no such table or row; the nearest are listed.
    """
    from petiole import claims
    from petiole.protocols import reproduction

    if any(name in claims.names(kind) for kind in reproduction.KINDS):
        from petiole.engine.executor import Local

        kind = next(kind for kind in reproduction.KINDS if name in claims.names(kind))
        table = claims.table(name, kind)
        machine = machine or Machine()
        root = Path(out) if out else Path("runs") / name.replace("/", "-")
        done = reproduction.reproduce(
            table,
            lambda images: machine.bench(images, None, None, 0.5),
            data,
            root,
            methods=methods,
            seeds=seeds,
            executor=Local(processes),
            resume=resume,
            quiet=machine.quiet,
        )
        return ReproducedTable(
            name=name,
            title=table["title"],
            source=table["source"],
            doubt=table["doubt"],
            found=done.found,
            claims={row["label"]: row["claimed"] for row in table["rows"]},
            missing=done.missing,
            folder=root,
        )
    return _share(name)


def _share(name: str) -> Reproduced:
    from petiole import claims
    from petiole.protocols.accounting import HEADLINE, account

    table = claims.table(name, "params")
    counted = account(table)
    ours, claimed = counted.shares[HEADLINE], table["claimed"]
    places = len(str(claimed).partition(".")[2])
    return Reproduced(
        name=name,
        claimed=claimed,
        source=table["source"],
        doubt=table["doubt"],
        accounting=HEADLINE,
        ours=ours,
        agrees=round(ours, places) == claimed,
        others={k: v for k, v in counted.shares.items() if k != HEADLINE},
        pairs={f"{p.backbone} {p.data}": p.share for p in counted.pairs},
    )

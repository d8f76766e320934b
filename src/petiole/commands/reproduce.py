"""``petiole reproduce``: what was published, ours, and the verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from petiole.commands.options import CommandResult, ModelOptions, device, fact
from petiole.commands.placement import ExecutorOptions
from petiole.commands.reproduce_comparison import on_own_images
from petiole.commands.verb import verb
from petiole.errors import ConfigError
from petiole.ranges import PositiveInt

if TYPE_CHECKING:
    from petiole.tasks.text.workspace import TextGeneration


class Reproduced(CommandResult):
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


class ReproducedShares(CommandResult):
    """Claimed shares of trained parameters beside ours.

    Attributes:
        name, title: of the table.
        source, doubt: where it stands, and what is not said there.
        rows: claim, count, both shares and verdict of each.
        missing: what the rest would need.
        sources: what the tags mean.
    """

    name: str
    title: str
    source: str
    doubt: str
    rows: Any
    missing: tuple[str, ...]
    sources: dict[str, str]

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Every number."""
        from dataclasses import asdict

        plain = super().model_dump(exclude={"rows"}, **options)
        rows = [
            {**asdict(row), "percent": row.percent, "percent_alone": row.percent_alone}
            for row in self.rows
        ]
        return {**plain, "rows": rows}

    def text(self) -> RenderableType:
        from petiole.report.formatting import signed

        table = Table("method", box=None, pad_edge=False)
        for name in ("claimed", "trained", "total", "% total", "% LM alone"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict")
        for row in self.rows:
            claimed = "–" if row.claimed is None else f"{row.claimed:.2f}"
            counts, shares = (row.trainable, row.total), (row.percent, row.percent_alone)
            off = f" {signed(row.percent - row.claimed, 3)}" if row.verdict == "differs" else ""
            table.add_row(
                " ".join((row.row, *_tagged(row.tags))),
                claimed,
                *(f"{count:,}" for count in counts),
                *(f"{share:.3f}" for share in shares),
                row.verdict + off,
            )
        return Group(
            *_heading(self.name, self.title, self.source, self.doubt),
            table,
            *(Text(f"note     {row.row}: {row.note}") for row in self.rows if row.note),
            *_legend(self.sources),
            *(Text(f"missing  {what}") for what in self.missing),
        )


class ReproducedTable(CommandResult):
    """A claimed table of accuracies beside ours.

    Attributes:
        name, title: of the table.
        source, doubt: where it stands, and what is not said there.
        found: claimed number, ours and verdict, fractions.
        claims: all claimed numbers, per cent, by row and data set; with the standard deviation over seeds as
            ``{mean, sd}``, where there is one, and the tags of their sources.
        missing: what the rest would need.
        folder: of the runs.
        sources: what the tags mean.
    """

    name: str
    title: str
    source: str
    doubt: str
    found: Any
    claims: dict[str, dict[str, Any]]
    missing: tuple[str, ...]
    folder: Path
    sources: dict[str, str]

    def model_dump(self, **options: Any) -> dict[str, Any]:
        """Every number."""
        from dataclasses import asdict

        plain = super().model_dump(exclude={"found"}, **options)
        return {**plain, "found": [asdict(one) for one in self.found]}

    def text(self) -> RenderableType:
        from petiole.report.formatting import mean_sd

        table = Table("data", "method", "", "claimed", "ours", "verdict", box=SIMPLE_HEAD)
        for one in self.found:
            claimed = f"{100 * one.claimed:.2f}"
            table.add_row(one.place, one.row, one.what, claimed, mean_sd(one.ours, 2), one.verdict)
        lines = _heading(self.name, self.title, self.source, self.doubt)
        done: list[RenderableType] = [table, fact("runs", self.folder)] if self.found else []
        lacking = [Text(f"missing  {what}") for what in self.missing]
        return Group(*lines, self._claims(), *_legend(self.sources), *done, *lacking)

    def _claims(self) -> Table:
        """All places, or the averages alone where the table would be too wide; sources where they differ."""
        names = list(dict.fromkeys(name for places in self.claims.values() for name in places))
        if len({places["seen in"] for places in self.claims.values() if "seen in" in places}) == 1:
            names.remove("seen in")  # the legend says it of all
        if len(names) > WIDE and all("average" in places for places in self.claims.values()):
            names = ["average"]
        table = Table("claimed", *names, box=SIMPLE_HEAD)
        for label, places in self.claims.items():
            table.add_row(label, *(_cell(places.get(name, "–")) for name in names))
        return table


WIDE = 8
"""Columns of claims that fit into a terminal."""


def _cell(claimed: Any) -> str:
    match claimed:
        case {"mean": mean, "sd": sd}:
            return f"{mean} ± {sd}"
        case list():
            return " / ".join(map(str, claimed))
    return str(claimed)


def _heading(name: str, title: str, source: str, doubt: str) -> list[Text]:
    return [Text(f"{name}: {title}"), Text(f"claimed  {source}"), Text(f"note     {doubt}")]


def _tagged(tags: Sequence[str]) -> tuple[str, ...]:
    return (f"({', '.join(tags)})",) if tags else ()


def _legend(sources: Mapping[str, str]) -> list[Text]:
    return [Text(f"source   {tag}: {meaning}") for tag, meaning in sources.items()]


@verb
def reproduce(
    name: str,
    /,
    *,
    data: Path | None = None,
    methods: Annotated[Sequence[str], Parameter(consume_multiple=True)] = (),
    seeds: PositiveInt = 3,
    teacher: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    model: ModelOptions | None = None,
    placement: ExecutorOptions | None = None,
) -> Reproduced | ReproducedShares | ReproducedTable:
    """Print what was claimed, ours, and the verdict; and what is missing for the rest.

    Shares of trained parameters (adaptertune/params, vl-adapter/params) are counted again without any weights.
    Accuracies (textrefiner/base-to-novel, /domain-generalisation, /cross-data-set) are measured on the data sets that
    lie below --data in CoOp's format, with --backbone; those of many tasks in one model (vl-adapter/table1,
    /replication, /video and others) on --data in VL-Adapter's layout, with the table's own model or a folder of it. A
    verdict needs the backbone of the claim. Those of craft/table1 to /table6, /pruning and /derived are told as quoted,
    with what they would need: nothing is run. Tables of private or of one's own images (cls-residual-lora/table1,
    adaptertune/transfer) are quoted, and run on the folder of --data as petiole compare DATA --table NAME does.

    Args:
        name: e.g. textrefiner/base-to-novel.
        data: folder of the data sets, or of the images.
        methods: rows by name; by default all that can be run.
        seeds: runs of each row on each data set.
        teacher: adapter that teaches the rows of PromptKD.
        out: folder; by default runs/NAME.
        resume: finish an interrupted measurement; finished runs are kept.

    Raises:
        ConfigError: no such table or row; the nearest are listed.
    """
    from petiole import claims
    from petiole.errors import unknown
    from petiole.protocols import reproduction, reproduction_tasks

    tables = {table: kind for kind in KINDS for table in claims.names(kind)}
    if name not in tables:
        raise unknown("table", name, tables)
    kind = tables[name]
    table = claims.table(name, kind)
    if kind == "params":
        return _share(name, table)
    if kind == "shares":
        return _shares(name, table)
    elsewhere = kind in ("base-to-novel", "elsewhere")
    if teacher is not None and not elsewhere:
        raise ConfigError(f"No row of {name} learns from a teacher. Leave --teacher out.")
    model = model or ModelOptions()
    root = Path(out) if out else Path("runs") / name.replace("/", "-")
    terms: dict[str, Any] = {"methods": methods, "seeds": seeds, "resume": resume}
    terms["executor"] = (placement or ExecutorOptions()).make()
    if kind == reproduction.PUBLISHED:
        done = reproduction.unmeasured(table, methods)
    elif kind == "comparison":
        done = on_own_images(name, table, methods, data, root, seeds, resume, placement, model)
    elif kind == reproduction_tasks.KIND:
        base = _text_task(table, model)
        done = reproduction_tasks.reproduce(table, base, data, root, **terms)
    else:
        done = reproduction.reproduce(
            table,
            lambda images: model.classification(images, methods=_methods(table)),
            data,
            root,
            quiet=model.quiet,
            teacher=teacher,
            **terms,
        )
    return ReproducedTable(
        name=name,
        title=table["title"],
        source=table.get("source", "not published: an experiment of our own"),
        doubt="; ".join([table.get("doubt", ""), *(c["says"] for c in table.get("claims", ()))]),
        found=done.found,
        claims={row["label"]: _claimed(row) for row in table["rows"]},
        missing=done.missing,
        folder=root,
        sources=_sources(name, table),
    )


KINDS = ("comparison", "params", "shares", "base-to-novel", "elsewhere", "multitask", "published")
"""Kinds of tables that can be reproduced."""


def _methods(table: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in table["rows"] if "method" in row))


def _text_task(table: Mapping[str, Any], model: ModelOptions) -> TextGeneration:
    """The model of the claim, unless another one is named, on this machine."""
    from petiole.tasks.text.workspace import TextGeneration

    return TextGeneration(
        model=model.one_backbone or table["backbone"],
        tasks=(),
        device=device(model.device),
        precision=model.precision,
        cache=model.cache,
        skip_bad=model.skip_bad,
        quiet=model.quiet,
    )


def _claimed(row: Mapping[str, Any]) -> dict[str, Any]:
    """What was published of a row, with its sources and spread."""
    tags = {"seen in": ", ".join(row["tags"])} if "tags" in row else {}
    named = {"percent": "% trained", "gflops": "GFLOPs"}
    share = {title: row[cost] for cost, title in named.items() if cost in row}
    spread = row.get("sd", {})
    numbers = {
        place: {"mean": value, "sd": spread[place]} if place in spread else value
        for place, value in _places(row).items()
    }
    return {**tags, **share, **numbers}


def _places(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was published by data set; a table on one set prints one number a row."""
    claimed = row.get("claimed", {})
    return claimed if isinstance(claimed, Mapping) else {"accuracy": claimed}


def _sources(name: str, table: Mapping[str, Any]) -> dict[str, str]:
    """What the tags of a table's rows mean."""
    from petiole import claims

    used = dict.fromkeys(tag for row in table["rows"] for tag in row.get("tags", ()))
    if not used:
        return {}
    meaning = claims.table(f"{name.partition('/')[0]}/sources", "sources")
    return {tag: meaning[tag] for tag in used}


def _shares(name: str, table: Mapping[str, Any]) -> ReproducedShares:
    from petiole.protocols import shares

    rows, missing = shares.count(table)
    return ReproducedShares(
        name=name,
        title=table["title"],
        source=table["source"],
        doubt=table["doubt"],
        rows=rows,
        missing=missing,
        sources=_sources(name, table),
    )


def _share(name: str, table: dict[str, Any]) -> Reproduced:
    from petiole.protocols.accounting import HEADLINE, account

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

"""One model of a table, and every way of writing it: Markdown, a terminal, CSV, JSON, and HTML on a page.

A report states its columns once, over rows of whatever type it has; nothing else formats a cell.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable
from rich.text import Text

from petiole.files import write_json, write_text
from petiole.printable import cell
from petiole.report.formatting import in_cell

T = TypeVar("T")
Value = float | int | str | None
Brief = Literal["", "text", "both"]
NOTHING = "–"


@dataclass(frozen=True)
class Cell:
    """What is read, what is sorted by, what is read second (e.g. an interval), and a class for the style sheet."""

    text: str
    value: Value = None
    detail: str = ""
    style: str = ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """One column of a table.

    Attributes:
        title: with the unit.
        text: what a person reads.
        value: what the column is sorted by; its text, where nothing else is stated.
        numeric: whether it is aligned to the right.
        detail: what is read second; empty where there is nothing.
        style: class for the style sheet.
        brief: what a terminal of 80 columns shows of it: nothing, its text, or text and detail.
    """

    title: str
    text: Callable[[T], str]
    value: Callable[[T], Value] | None = None
    numeric: bool = True
    detail: Callable[[T], str] = lambda _: ""
    style: Callable[[T], str] = lambda _: ""
    brief: Brief = ""

    def cell(self, row: T) -> Cell:
        """What the column says of a row."""
        value = self.value(row) if self.value else (None if self.numeric else self.text(row))
        return Cell(self.text(row), value, self.detail(row), self.style(row))


def measure(
    title: str,
    value: Callable[[T], float | None],
    show: Callable[[float], str],
    brief: Brief = "",
) -> Column[T]:
    """A column of numbers: ``show`` writes them, and where there is none a dash stands."""

    def text(row: T) -> str:
        number = value(row)
        return NOTHING if number is None else show(number)

    return Column(title, text, value, brief=brief)


def words(
    title: str, text: Callable[[T], str], style: str = "", brief: Brief = "text"
) -> Column[T]:
    """A column of words, aligned to the left."""
    return Column(title, text, numeric=False, style=lambda _: style, brief=brief)


@dataclass(frozen=True)
class Table(Generic[T]):
    """Rows under columns.

    Attributes:
        columns: in order.
        rows: in order; what each column makes its cells from.
        title: heading.
        notes: what a reader must know, below the table.
        stressed: index of the row to stress.
        sortable: whether the rows may be read in any order.
        parts: indices of rows above which a terminal draws a line.
        wide: further columns, which only Markdown shows.
        records: every number of the rows unrounded, for CSV and JSON.
        facts: further entries of the JSON.
    """

    columns: Sequence[Column[T]]
    rows: Sequence[T]
    title: str = ""
    notes: Sequence[str] = ()
    stressed: int | None = None
    sortable: bool = True
    parts: Sequence[int] = ()
    wide: Sequence[Column[T]] = ()
    records: Sequence[Mapping[str, Any]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)

    def cells(self) -> list[list[Cell]]:
        """All rows, without the wide columns."""
        return [[column.cell(row) for column in self.columns] for row in self.rows]


def plain(
    titles: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    words_in: Sequence[int] = (0,),
    **more: Any,
) -> Table[Sequence[str]]:
    """A table of texts; ``words_in`` are the columns that are no numbers."""

    def column(index: int) -> Column[Sequence[str]]:
        return Column(
            titles[index], lambda row: row[index], numeric=index not in words_in, brief="text"
        )

    return Table([column(i) for i in range(len(titles))], rows, **more)


def to_markdown(table: Table[Any]) -> str:
    """A Markdown table with all columns, the stressed row in bold, with the notes below."""
    columns = [*table.columns, *table.wide]
    lines = [
        _line([column.title for column in columns]),
        "|" + "|".join("---:" if column.numeric else "---" for column in columns) + "|",
    ]
    for index, row in enumerate(table.rows):
        cells = [in_cell(_joined(column.cell(row))) for column in columns]
        if index == table.stressed:
            cells[0] = f"**{cells[0]}**"
        lines.append(_line(cells))
    return "\n".join([*lines, "", *(f"{note}\n" for note in table.notes)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _joined(cell: Cell) -> str:
    return f"{cell.text} {cell.detail}".strip()


def to_rich(table: Table[Any], caption: str = "") -> RichTable:
    """The table for a terminal; what does not fit 80 columns is left to the files and the page."""
    made = RichTable(
        title=table.title or None,
        title_justify="left",
        caption=caption or None,
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    shown = [column for column in table.columns if column.brief]
    for column in shown:
        side: Literal["left", "right"] = "right" if column.numeric else "left"
        title = column.title.partition(",")[0]
        made.add_column(title, justify=side, no_wrap=column.numeric, overflow="fold")
    for index, row in enumerate(table.rows):
        if index in table.parts:
            made.add_section()
        cells = [(column, column.cell(row)) for column in shown]
        texts = [_joined(c) if column.brief == "both" else c.text for column, c in cells]
        made.add_row(*map(Text, texts), style="bold" if index == table.stressed else "")
    return made


def to_csv(table: Table[Any]) -> str:
    """All numbers unrounded, fractions as fractions; unknown ones are empty."""
    text = io.StringIO()
    if table.records:
        writer = csv.DictWriter(text, list(table.records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {name: cell(value) for name, value in finite(record).items()}
            for record in table.records
        )
    return text.getvalue()


def to_dict(table: Table[Any]) -> dict[str, Any]:
    """All numbers unrounded, fractions as fractions; unknown ones are ``None``."""
    facts = {"rows": list(table.records), "notes": list(table.notes), **table.facts}
    found: dict[str, Any] = finite(facts)
    return found


def finite(value: Any) -> Any:
    """The value as JSON has it, which knows no NaN and no infinity: the spread of one value is null."""
    match value:
        case float() if not math.isfinite(value):
            return None
        case Mapping():
            return {key: finite(one) for key, one in value.items()}
        case list() | tuple():
            return [finite(one) for one in value]
    return finite(asdict(value)) if is_dataclass(value) and not isinstance(value, type) else value


def write(table: Table[Any], folder: Path, name: str = "table") -> list[Path]:
    """Write ``table.md``, ``table.csv`` and ``table.json``; returns their paths."""
    files = [folder / f"{name}.{suffix}" for suffix in ("md", "csv", "json")]
    write_text(files[0], to_markdown(table))
    write_text(files[1], to_csv(table))
    write_json(files[2], to_dict(table))
    return files

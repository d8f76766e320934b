"""CSV, Parquet and JSON Lines lists: one row an image, columns ``path,label[,domain][,split]``.

In JSON Lines ``path`` may be called ``image``, as in `petiole.data.readers.jsonl`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset, Domain, bullets
from petiole.data.readers.base import ImageParts, image_reader
from petiole.data.readers.json_rows import read_lines
from petiole.errors import DataError, boundary

SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".pq", ".jsonl"})
"""File names that are taken for tables, lower case."""

LABELS, VALUE = "labels", "value"
"""Columns of several labels an image, and of a number."""

_KNOWN = ("path", "label", LABELS, VALUE, "mask", "domain", "split")
_PARTS = {"": "train", "train": "train", "test": "test", "eval": "test"}
_UNUSED = ("val", "validation")
_OUTPUT = f"{VALUE}."
"""Begin of the columns that hold one of several numbers each, ``value.height``."""
Records = tuple[list[str], list[tuple[int, dict[str, str]]]]
"""Column names, and (number of the row, cells by column) of every row."""


@dataclass(frozen=True)
class TableRow:
    """One image of a table; ``split`` is lower case and empty where the table has none."""

    entry: ImageFile
    split: str


def is_table(path: Path) -> bool:
    """Whether a path is taken for a table, by its name."""
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def open_parts(path: Path, has_test: bool = False, skip_bad: bool = False) -> ImageParts:
    """Open a table's rows by domain and split.

    Raises:
        DataError: as `open_table`; or an unknown split, or no row to train on.
    """
    parts: dict[str, list[ImageFile]] = {}
    rows = read_rows(path)
    for row in rows:
        part = part_of(path, row)
        if row.entry.domain == "source":
            part = "source" if part == "train" else None
        if part:
            parts.setdefault(part, []).append(row.entry)
    if "train" not in parts:
        raise DataError(
            f"{path}: no rows of the target domain to train on; mark some with split train."
        )
    unused = len(rows) - sum(map(len, parts.values()))
    what = f"{unused} rows of {path.name} are not used: validation, or test rows of the source."
    opened = {
        part: build(
            f"{path.stem}/{part}", entries, None, skip_bad=skip_bad, notes=[what] if unused else []
        )
        for part, entries in parts.items()
        if not (has_test and part == "test")
    }
    return ImageParts(opened["train"], opened.get("test"), opened.get("source"))


@image_reader(
    "table",
    layout="a file of " + ", ".join(sorted(SUFFIXES)),
    recognises=is_table,
    parts=open_parts,
    rank=10,
)
def open_table(
    path: Path | str,
    *,
    domain: Domain = "target",
    split: str | None = None,
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Open a CSV, TSV or Parquet list of images; relative paths start at the table's own folder.

    Args:
        path: the table; further columns are ignored.
        domain: for rows that do not name one themselves.
        split: take only the rows whose ``split`` is this; all rows when None.
        classes: the expected classes in the order of their labels; sorted by name when None.
        skip_bad: leave missing, unreadable and contradicting images out instead of refusing.

    Raises:
        DataError: no such table, missing columns, empty cells, unknown domains, no row of the
            split, or bad images.
    """
    path = Path(path)
    rows = read_rows(path, domain)
    chosen = [r.entry for r in rows if split is None or r.split == split.lower()]
    if not chosen:
        raise DataError(
            f"{path}: no row with split {split!r}; it has {sorted({r.split for r in rows})}."
        )
    return build(path.stem, chosen, classes, skip_bad=skip_bad)


def read_rows(
    path: Path, domain: Domain = "target", *, labelled: bool = True, label: str = "label"
) -> list[TableRow]:
    """Return the table's rows, unopened.

    Args:
        path: the table.
        domain: of rows that name none.
        labelled: the rows must have labels; without it they are empty where absent.
        label: the column that holds them; ``labels`` may hold none in a row.

    Raises:
        DataError: as `open_table`, except for the images themselves.
    """
    columns, records = read_records(path)
    columns += [VALUE] * bool(numbered(columns))
    required = ("path", label) if labelled else ("path",)
    if missing := [c for c in required if c not in columns]:
        raise DataError(
            f"{path}: column {' and '.join(missing)} is missing; "
            f"it has {', '.join(columns) or 'none'}. "
            f"Needed are path and {label}; domain and split are optional."
        )
    if not records:
        raise DataError(f"{path}: the table has no rows.")
    filled = ("path",) if label == LABELS else required
    wrong = [problem for number, record in records if (problem := _problem(number, record, filled))]
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} row(s) cannot be used:\n{bullets(wrong)}\nCorrect the table."
        )
    return [_row(path.parent, record, domain, label) for _, record in records]


def read_records(path: Path) -> Records:
    """Return the table's columns and rows as they stand; a list is its parts joined by ``|``.

    Raises:
        DataError: no such table, or not readable.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such table. Give a .csv, .tsv or .parquet file.")
    read = {".parquet": _read_parquet, ".pq": _read_parquet, ".jsonl": _read_jsonl}
    columns, records = read.get(path.suffix.lower(), _read_csv)(path)
    twice = [
        c for c, n in Counter(columns).items() if n > 1 and (c in _KNOWN or c in _outputs(columns))
    ]
    if twice:
        raise DataError(
            f"{path}: several columns are called {' and '.join(twice)}. Rename all but one."
        )
    if outputs := numbered(columns):
        for _, cells in records:
            cells[VALUE] = "|".join(cells.get(_OUTPUT + name, "") for name in outputs)
    return columns, records


def numbered(columns: Sequence[str]) -> tuple[str, ...]:
    """``height, width`` of the columns ``value.height, value.width``, where there is no column ``value``."""
    return () if VALUE in columns else tuple(c.removeprefix(_OUTPUT) for c in _outputs(columns))


def _outputs(columns: Sequence[str]) -> list[str]:
    return [c for c in columns if c.startswith(_OUTPUT)]


def part_of(path: Path, row: TableRow) -> str | None:
    """``train`` or ``test``, or ``None`` for a validation row.

    Raises:
        DataError: an unknown split.
    """
    part = _PARTS.get(row.split)
    if part is None and row.split not in _UNUSED:
        raise DataError(
            f"{path}: split {row.split!r} is unknown; use train, test (or eval), val or validation."
        )
    return part


def cell_text(value: object) -> str:
    """A cell as text; a list's parts are joined by ``|``."""
    if isinstance(value, list | tuple | set | frozenset):
        return "|".join(str(part).strip() for part in value)
    return "" if value is None else str(value).strip()


def _row(folder: Path, record: dict[str, str], default: Domain, label: str) -> TableRow:
    domain = cast(Domain, record.get("domain") or default)  # its value was checked by `_problem`
    entry = ImageFile(folder / record["path"], record.get(label, ""), domain)
    return TableRow(entry, record.get("split", "").lower())


def _problem(number: int, record: dict[str, str], required: Sequence[str]) -> str:
    """What is wrong with a row, or nothing."""
    if empty := [c for c in required if not record.get(c)]:
        return f"row {number}: {' and '.join(empty)} is empty"
    if "\0" in record["path"]:
        return f"row {number}: the path {record['path']!r} holds a zero byte"
    if (domain := record.get("domain", "")) and domain not in get_args(Domain):
        return f"row {number}: domain {domain!r} must be source or target"
    return ""


def _read_jsonl(path: Path) -> Records:
    """Rows by line number; a number is its text."""
    records, columns = [], dict.fromkeys(("path",))
    for row in read_lines(path):
        values = {"path": row.values["image"]} if "image" in row else {}
        values |= row.values
        records.append(
            (row.number, {c: cell_text(values[c]) for c in values if values[c] is not None})
        )
        columns.update(dict.fromkeys(values))
    return list(columns), records


def _read_csv(path: Path) -> Records:
    """Rows by line number."""
    with (
        boundary(path, "Export it again as CSV, UTF-8.", what="not a UTF-8 CSV table"),
        path.open(newline="", encoding="utf-8-sig") as file,  # -sig: Excel writes a byte-order mark
    ):
        delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
        reader = csv.DictReader(file, delimiter=delimiter, restval="")
        columns = [(c or "").strip() for c in reader.fieldnames or []]
        reader.fieldnames = columns
        rows = [(reader.line_num, r) for r in reader]
    if long := [number for number, r in rows if any(map(str.strip, r.get(None, ())))]:
        raise DataError(
            f"{path}: row {long[0]} has more cells than there are columns ({', '.join(columns)}). Quote cells that hold a "
            f"{delimiter!r}."
        )
    return columns, [(number, {c: str(r[c]).strip() for c in columns}) for number, r in rows]


def _read_parquet(path: Path) -> Records:
    """Rows counted from 1."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError(
            f"{path}: Parquet needs pyarrow. Run `pip install 'petiole[parquet]'`, or save the table as CSV."
        ) from None
    with boundary(path, "Write it again.", what="not a readable Parquet file"):
        columns = parquet.read_schema(path).names
        wanted = [c for c in columns if c in _KNOWN or c in _outputs(columns)]
        # partitioning=None: a folder called a=b on the way must not become a column.
        records = parquet.read_table(path, columns=wanted, partitioning=None).to_pylist()
    text = [{c: cell_text(v) for c, v in r.items()} for r in records]
    return columns, list(enumerate(text, start=1))

"""Results in a notebook: a table as HTML, everything escaped, without style or script of its own."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape

from petiole.report.table import Cell, Table

_RIGHT = Markup(' style="text-align: right"')


def to_html(table: Table[Any]) -> str:
    """The table for ``_repr_html_``: heading, rows, notes."""
    sides = [_RIGHT if column.numeric else Markup("") for column in table.columns]
    titles = (
        Markup("<th{}>{}</th>").format(side, column.title)
        for side, column in zip(sides, table.columns, strict=True)
    )
    parts = [
        Markup("<table>"),
        Markup("<caption>{}</caption>").format(table.title) if table.title else "",
        Markup("<thead><tr>{}</tr></thead>").format(Markup("").join(titles)),
        Markup("<tbody>"),
    ]
    for index, cells in enumerate(table.cells()):
        row = (_cell(c, side) for c, side in zip(cells, sides, strict=True))
        stress = Markup(' style="font-weight: bold"') if index == table.stressed else ""
        parts.append(Markup("<tr{}>{}</tr>").format(stress, Markup("").join(row)))
    notes = (Markup("<p>{}</p>").format(note) for note in table.notes)
    return str(Markup("\n").join([*parts, Markup("</tbody></table>"), *notes]))


def _cell(cell: Cell, side: Markup) -> Markup:
    detail = Markup("<br><small>{}</small>").format(cell.detail) if cell.detail else ""
    return Markup("<td{}>{}{}</td>").format(side, escape(cell.text), detail)

"""Numbers in words, and one table in its five forms."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest
from rich.console import Console

from petiole.metrics.intervals import Interval, t_interval
from petiole.report import formatting, table
from petiole.report.notebook import to_html
from petiole.report.table import Column, Table, finite, measure, plain, to_csv, to_dict, to_markdown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00"), (0.994, "0.99"), (0.999, "1.00"), (1.0, "1.0"), (9.96, "10.0"), (99.9, "99.9"),
        (100.0, "100"), (1234.5, "1234"),
    ],
)  # fmt: skip
def test_seconds(value: float, shown: str) -> None:
    assert formatting.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"), (0.0004, "0.000"), (0.12345, "0.123"), (0.9999, "1.000"), (1.0, "1.00"), (45.678, "45.68"),
        (99.94, "99.94"), (99.95, "100"), (250.0, "250"),
    ],
)  # fmt: skip
def test_percentages(value: float, shown: str) -> None:
    assert formatting.percent(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0 x"), (1.0, "1 x"), (99.94, "100 x"), (999.4, "999 x"), (999.5, "1.00 kx"), (9994.0, "9.99 kx"),
        (9995.0, "10.0 kx"), (99_940.0, "99.9 kx"), (99_950.0, "100 kx"), (999_499.0, "999 kx"), (1e6, "1.00 Mx"),
        (1e9, "1.00 Gx"), (1e12, "1.00 Tx"), (1.234e16, "12340 Tx"),
    ],
)  # fmt: skip
def test_amounts(value: float, shown: str) -> None:
    assert formatting.amount(value, "x") == shown


def test_numbers_of_other_kinds() -> None:
    assert [formatting.flops(v) for v in (0, 1, 2e9)] == ["–", "1 FLOPs", "2.00 GFLOPs"]
    assert [formatting.points(v) for v in (0.01, 0.005, 0.0, 0.02, 0.123)] == [
        "1 point", "0.5 points", "0 points", "2 points", "12.3 points",
    ]  # fmt: skip
    assert [formatting.number(v, 1) for v in (1.25, -1.25, -0.04, 0.0)] == ["1.2", "−1.2", "0.0", "0.0"]  # fmt: skip
    assert [formatting.p_value(p) for p in (0.0, 0.00099, 0.001, 0.0999, 0.1, 0.999)] == [
        "< 0.001", "< 0.001", "0.001", "0.100", "0.10", "1.00",
    ]  # fmt: skip
    assert formatting.bounds(-0.012, 0.034, 1) == "[−1.2, 3.4]"
    for low, high in ((-math.inf, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        assert formatting.bounds(low, high, 1) == "unknown"
    assert formatting.in_cell("a|b\n<i> c < d </i>") == "a\\|b &lt;i> c < d &lt;/i>"
    assert formatting.join(["a", "b, c", "d"]) == "a; b, c; and d"


ROWS = [("a", 1.5, "low"), ("b", None, ""), ("<c>|", -0.5, "high")]


COLUMNS: list[Column[Any]] = [
    table.words("Name, long", lambda r: r[0]),
    measure("Score, %", lambda r: r[1], lambda v: f"{v:.1f}", "text"),
    Column("Level", lambda r: r[2], detail=lambda r: f"[{r[0]}]" if r[2] else "", style=lambda r: r[2], brief="both"),
    Column("Hidden", lambda _: "x", lambda _: 3),
]  # fmt: skip


def shown(made: Table[Any], caption: str = "") -> list[str]:
    stream = io.StringIO()
    Console(file=stream, width=100, no_color=True).print(table.to_rich(made, caption))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def whole(**more: Any) -> Table[Any]:
    return Table(COLUMNS, ROWS, title="T", notes=["n1", "n2"], stressed=1, **more)


def test_cells_have_what_they_are_sorted_by() -> None:
    cells = whole().cells()[0]
    assert [c.text for c in cells] == ["a", "1.5", "low", "x"]
    assert [c.value for c in cells] == ["a", 1.5, None, 3]
    assert [c.detail for c in cells] == ["", "", "[a]", ""]
    assert [c.style for c in cells] == ["", "", "low", ""]
    assert [row[1].text for row in whole().cells()] == ["1.5", "–", "-0.5"]


def test_markdown_shows_all_columns_and_stresses_a_row() -> None:
    wide = [table.words("Wide", lambda r: r[0], style="s")]
    assert to_markdown(whole(wide=wide)) == (
        "| Name, long | Score, % | Level | Hidden | Wide |\n"
        "|---|---:|---:|---:|---|\n"
        "| a | 1.5 | low [a] | x | a |\n"
        "| **b** | – |  | x | b |\n"
        "| &lt;c>\\| | -0.5 | high [&lt;c>\\|] | x | &lt;c>\\| |\n"
        "\nn1\n\nn2\n"
    )
    assert to_markdown(Table(COLUMNS[:1], ROWS[:1])) == "| Name, long |\n|---|\n| a |\n"


def test_a_terminal_shows_what_fits_and_lines_between_parts() -> None:
    lines = shown(whole(parts=[2]), "below")
    assert [line.split() for line in lines if line and "─" not in line] == [
        ["T"], ["Name", "Score", "Level"], ["a", "1.5", "low", "[a]"], ["b", "–"], ["<c>|", "-0.5", "high", "[<c>|]"], ["below"],
    ]  # fmt: skip
    plain_lines = shown(whole())
    assert len(lines) > len(plain_lines) + 1, "a line above the third row"
    made = table.to_rich(whole())
    assert [column.justify for column in made.columns] == ["left", "right", "right"]
    assert [column.no_wrap for column in made.columns] == [False, True, True]
    assert [row.style for row in made.rows] == ["", "bold", ""]


def test_a_notebook_escapes_and_stresses() -> None:
    html = to_html(whole())
    assert "<caption>T</caption>" in html
    assert html.count('<tr style="font-weight: bold">') == 1
    assert '<tr style="font-weight: bold"><td>b</td>' in html
    assert '<th>Name, long</th><th style="text-align: right">Score, %</th>' in html
    assert '<td style="text-align: right">low<br><small>[a]</small></td>' in html
    assert "&lt;c&gt;|" in html
    assert html.endswith("<p>n1</p>\n<p>n2</p>")
    assert "<caption>" not in to_html(Table(COLUMNS, ROWS))


def test_files_have_every_number_and_no_nan(tmp_path: Any) -> None:
    records = [
        {"name": "=a", "x": math.nan, "y": [1.0, math.inf]},
        {"name": "b", "x": 0.125, "y": []},
    ]
    made = Table(COLUMNS, ROWS, notes=["n"], records=records, facts={"z": -math.inf, "t": (1, 2)})
    assert to_csv(made) == 'name,x,y\n\'=a,,"[1.0, None]"\nb,0.125,[]\n'
    assert to_dict(made) == {
        "rows": [{"name": "=a", "x": None, "y": [1.0, None]}, {"name": "b", "x": 0.125, "y": []}],
        "notes": ["n"],
        "z": None,
        "t": [1, 2],
    }
    assert to_csv(Table(COLUMNS, ROWS)) == ""
    one = t_interval([0.5])
    assert finite({"a": one, "b": Interval})["a"]["low"] is None
    assert finite({"b": Interval}) == {"b": Interval}
    files = table.write(made, tmp_path, "x")
    assert [file.name for file in files] == ["x.md", "x.csv", "x.json"]
    assert files[0].read_text() == to_markdown(made)
    assert files[1].read_text() == to_csv(made)


def test_a_plain_table_knows_which_columns_are_words() -> None:
    made = plain(["a", "b", "c"], [["1", "2", "3"]], words_in=(0, 2), sortable=False)
    assert [column.numeric for column in made.columns] == [False, True, False]
    assert [c.value for c in made.cells()[0]] == ["1", None, "3"]
    assert not made.sortable

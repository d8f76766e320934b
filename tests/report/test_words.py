"""Rows, sentences and notes of every table, whole, from numbers that are stated here: no run is read."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from petiole.metrics.intervals import Interval, t_interval
from petiole.metrics.paired import Paired
from petiole.protocols import continual, generalisation, multitask
from petiole.protocols.continual import Continual
from petiole.protocols.protocol import RowsProtocol, rows_of
from petiole.report import continual as of_sequence
from petiole.report import folder, formatting, scores, table, tables
from petiole.report import generalisation as of_places
from petiole.report import multitask as of_tasks
from petiole.report import transfer as of_cells
from petiole.report.notebook import to_html
from petiole.report.scores import ScoreRow, ScoreSummary
from petiole.report.sentence import left_open, sentence, standing
from petiole.report.summary import ComparisonSummary, PairedContrast, SummaryRow
from petiole.report.table import Column, Table, finite, measure, plain, to_csv, to_dict, to_markdown
from petiole.report.transfer import TransferRow, TransferSummary, Versus

# --- numbers ------------------------------------------------------------------------------------


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


# --- one table, five forms ----------------------------------------------------------------------

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


# --- a comparison of photos ---------------------------------------------------------------------


def interval(mean: float, half: float = 0.02, sd: float = 0.01) -> Interval:
    return Interval(mean, sd, mean - half, mean + half, 5, 0.95, "t")


def paired(difference: float, p: float = 0.02) -> Paired:
    return Paired(difference, difference - 0.01, difference + 0.01, p, 5, "paired t over runs")


def against(mean: float, half: float, verdict: Any, p: float = 0.03, by_split: bool = True) -> PairedContrast:  # fmt: skip
    return PairedContrast(
        paired(mean) if by_split else None, paired(mean, 0.5), interval(mean, half), p, verdict
    )


def row(name: str, **more: Any) -> SummaryRow:
    terms: dict[str, Any] = {
        "name": name, "label": name.title(), "method": f"m-{name}", "accuracy": interval(0.8),
        "over_splits": interval(0.8, 0.05, 0.012), "by_split": [0.79, 0.81], "macro": interval(0.7, 0.05, 0.03),
        "ece": 0.0456, "trainable": 12_345, "inference": 9_876, "percent_of_backbone_and_trainable": 0.4567,
        "stored_bytes": 45_678, "flops_forward": 12_250_000_000, "flops_training": 0, "peak_memory_mb": 812.6,
        "seconds": 3.456, "gain": None, "versus": None, "published": None, "published_costs": {},
    }  # fmt: skip
    return SummaryRow(**{**terms, **more})


def summary(*rows: SummaryRow, **more: Any) -> ComparisonSummary:
    terms: dict[str, Any] = {
        "title": "Sketch to photo", "rows": list(rows), "split_seeds": 5, "seeds": 1, "shots": 10,
        "images": 999, "reference": rows[-1].name, "baseline": rows[0].name, "headline": rows[-1].name, "margin": 0.01,
    }  # fmt: skip
    return ComparisonSummary(**{**terms, **more})


BASE = row("base", versus=against(-0.123, 0.02, "worse"), accuracy=interval(0.677), trainable=0)
OURS = row("ours", gain=against(0.123, 0.02, "better"))


def test_rows_of_a_comparison() -> None:
    made = tables.table(summary(BASE, OURS))
    lines = to_markdown(made).splitlines()
    assert lines[0] == (
        "| Method | Accuracy, % | Macro, % | ECE, % | Gain, points | Difference, points | p (Holm) | Verdict "
        "| Trained, and % of backbone + trained | Kept for prediction | Stored | Forward, one image "
        "| Training, one image | Peak memory, MB | Training, s |"
    )
    assert lines[2] == (
        "| Base | 80.0 ± 1.2 [65.7, 69.7] | 70.0 ± 3.0 | 4.6 | – | −12.3 [−14.3, −10.3] | 0.030 | worse "
        "| 0 0.457 % | 9,876 | 45.7 kB | 12.2 GFLOPs | – | 813 | 3.5 |"
    )
    assert lines[3].startswith("| **Ours** | 80.0 ± 1.2 [78.0, 82.0] | 70.0 ± 3.0 | 4.6 | +12.3 [10.3, 14.3] | – | – | reference | 12,345 0.457 % |")  # fmt: skip
    assert made.stressed == 1
    brief = [column.title for column in made.columns if column.brief]
    assert brief == ["Method", "Accuracy, %", "Difference, points", "p (Holm)", "Verdict", "Trained, and % of backbone + trained"]  # fmt: skip
    assert [c.value for c in made.cells()[0]] == [
        "Base", 0.677, 0.7, 0.0456, None, -0.123, 0.03, "worse", 0,
    ]  # fmt: skip
    assert made.cells()[0][7].style == "worse"


def test_a_thousand_images_have_two_decimals_and_uneven_ones_macro_first() -> None:
    made = tables.table(summary(BASE, OURS, images=1000, uneven=True))
    titles = [column.title for column in made.columns]
    assert titles[:3] == ["Method", "Macro, %", "Accuracy, %"]
    assert "80.00 ± 1.20 [65.70, 69.70]" in to_markdown(made)
    assert made.columns[1].brief == "text"


def test_published_numbers_stand_beside_ours() -> None:
    one = row("ours", published=78.875, published_costs={"percent": "0.42", "gflops": 17.6})
    made = tables.table(summary(BASE, one))
    titles = [column.title for column in made.columns]
    assert titles[-3:] == ["Published, %", "Published: trained, %", "Published: GFLOPs"]
    assert [[c.text for c in cells[-3:]] for cells in made.cells()] == [["", "", ""], ["78.88", "0.42", "17.6"]]  # fmt: skip
    assert made.cells()[1][-3].value == 78.875
    flat = made.records[1]
    assert (flat["published_percent"], flat["published_cost_percent"], flat["published_cost_gflops"]) == (78.875, "0.42", 17.6)  # fmt: skip
    only = tables.table(summary(BASE, row("ours", published_costs={"gflops": 1})))
    assert [c.title for c in only.columns][-1:] == ["Published: GFLOPs"]
    assert "Published, %" not in [c.title for c in only.columns]


def test_the_record_of_a_row_has_every_number() -> None:
    flat = tables.table(summary(BASE, replace(OURS, versus=against(0.01, 0.02, "tie", by_split=False)))).records  # fmt: skip
    assert flat[0] == {
        "name": "base", "label": "Base", "method": "m-base", "accuracy": 0.677, "accuracy_sd_over_splits": 0.012,
        "accuracy_low": 0.657, "accuracy_high": pytest.approx(0.697), "accuracy_interval": "t",
        "accuracy_low_over_splits": 0.75, "accuracy_high_over_splits": pytest.approx(0.85), "macro_accuracy": 0.7,
        "macro_accuracy_sd_over_splits": 0.03, "ece": 0.0456, "trainable": 0, "inference": 9_876,
        "trainable_percent_of_backbone_and_trainable": 0.4567, "stored_bytes": 45_678,
        "flops_forward": 12_250_000_000, "flops_training": 0, "peak_memory_mb": 812.6, "train_seconds": 3.456,
        "published_percent": None, "published_cost_percent": None, "published_cost_gflops": None,
        **dict.fromkeys(f"gain_over_baseline_{k}" for k in ("difference", "low", "high", "test", "p", "p_by_image", "low_over_both", "high_over_both", "p_holm", "verdict")),
        "versus_reference_difference": -0.123, "versus_reference_low": -0.133,
        "versus_reference_high": pytest.approx(-0.113), "versus_reference_test": "paired t over runs",
        "versus_reference_p": 0.02, "versus_reference_p_by_image": 0.5,
        "versus_reference_low_over_both": pytest.approx(-0.143), "versus_reference_high_over_both": pytest.approx(-0.103),
        "versus_reference_p_holm": 0.03, "versus_reference_verdict": "worse",
    }  # fmt: skip
    assert flat[1]["versus_reference_p"] == 0.5, "by image, where there is one split"


def test_what_the_numbers_mean() -> None:
    rule = (
        "Gain is over Base; difference, p and verdict are against Ours, p Holm-adjusted over 1 comparisons. A row is "
        "better or worse where p is below 0.05 and the interval of the difference excludes zero, a tie where that "
        "interval lies within ±1 point, unknown where there is none, and undecided otherwise."
    )
    two = summary(BASE, OURS)
    assert tables.legend(two) == (
        "Mean ± sd over 5 splits, 999 test images. Intervals are 95 % bootstraps over splits and images; p is of the "
        f"paired t test over splits. {rule}"
    )
    assert " over 5 splits (2 seeds each, averaged), " in tables.legend(replace(two, seeds=2))
    one = tables.legend(replace(two, split_seeds=1, images=1234))
    assert one == (
        "One split: no interval between splits can be given. Intervals are bootstraps and p is of McNemar's test, "
        f"both over the 1,234 test images, so they speak of these trained models only. {rule}"
    )
    assert "p is of sign-flip test" in tables.legend(replace(two, split_seeds=1, seeds=3))
    assert tables.table(two).notes == [f"{tables.legend(two)} {tables.ABOUT_COSTS}"]
    assert tables.table(two).facts == {"title": "Sketch to photo", "reference": "ours"}


def gained(mean: float, half: float, verdict: Any, p: float = 0.03) -> str:
    return sentence(summary(BASE, row("ours", gain=against(mean, half, verdict, p))))


def test_what_the_headline_gains() -> None:
    start = "Ours reaches 80.0 % ± 1.2 (mean ± sd of 5 splits)"
    rest = " It is better than every other row."
    assert gained(0.123, 0.02, "better") == (
        f"{start}, 12.3 points over Base (95 % interval 10.3 to 14.3).{rest}"
    )
    assert gained(-0.123, 0.02, "worse").startswith(
        f"{start}, 12.3 points below Base (95 % interval 10.3 to 14.3)."
    )
    assert gained(0.002, 0.004, "tie").startswith(
        f"{start}, which ties with Base (+0.2 [−0.2, 0.6] points, within ±1 point)."
    )
    assert gained(0.01, 0.04, "undecided").startswith(
        f"{start}, which is not told apart from Base (+1.0 [−3.0, 5.0] points)."
    )
    for mean in (0.04, -0.04):  # the interval begins or ends at 0
        assert "is not told apart from Base" in gained(mean, 0.04, "undecided")
    assert gained(0.123, 0.02, "undecided", 0.0678).startswith(
        f"{start}, 12.3 points over Base (95 % interval 10.3 to 14.3; p = 0.068)."
    )
    alone = summary(row("ours"), images=1234, split_seeds=1)
    assert sentence(alone) == (
        "Ours reaches 80.0 % on 1,234 test images (95 % interval over images [78.0, 82.0]; one split, so no interval "
        "between splits can be given)."
    )


def test_how_the_reference_stands() -> None:
    rows = [
        row("a", versus=against(0, 0, "tie"), trainable=99, seconds=200.0),
        row("b", versus=against(0, 0, "better")),
        row("c", versus=against(0, 0, "undecided")),
        row("d", versus=against(0, 0, "unknown")),
        row("e", versus=against(0, 0, "worse")),
        row("ours", trainable=99, seconds=100.0),
    ]
    text = sentence(summary(*rows))
    assert text.endswith(
        "It is worse than B, ties with A (differences within ±1 point) and is better than E. The cheapest of the tied is "
        "Ours: 99 trained parameters, 100 s of training. Against C, 5 splits cannot decide. Against D, nothing can be "
        "said: over 5 splits there is no interval."
    )
    assert "Ours is worse than B, ties" in sentence(summary(*rows, headline="a"))
    assert "Against C, one split cannot decide." in sentence(summary(*rows, split_seeds=1))
    cheaper = [replace(rows[0], trainable=98), *rows[1:]]
    assert "The cheapest of the tied is A: 98 trained parameters, 200 s" in sentence(
        summary(*cheaper)
    )
    assert "cheapest" not in sentence(summary(*rows[1:]))


def test_standings_name_five_at_most() -> None:
    verdicts = [(str(i), "worse") for i in range(6)]
    assert standing("It", verdicts, 0.005) == "It is better than every other row."
    some = [*verdicts, ("x", "tie")]
    assert standing("It", some, 0.005) == (
        "It ties with x (differences within ±0.5 points); and is better than 0, 1, 2, 3 and 2 others."
    )
    assert standing("It", [*verdicts[:5], ("x", "tie")], 0.005).endswith("; and is better than 0, 1, 2, 3 and 4.")  # fmt: skip
    assert standing("It", [("a", "undecided")], 0.01) == ""
    assert left_open([("a", "tie")], "one split") == ""


# --- scores by column ---------------------------------------------------------------------------


class Terms(RowsProtocol):
    """Of rows alone."""

    STATE = "terms.json"


def protocol(seeds: int = 2, **more: Any) -> Terms:
    return Terms(rows=rows_of(["ridge", "knn"]), seeds=seeds, **more)


def score(name: str, label: str, values: dict[str, list[float]], head: list[float], **more: Any) -> ScoreRow:  # fmt: skip
    return ScoreRow(
        name=name, label=label, scores={k: t_interval(v) for k, v in values.items()}, headline=t_interval(head),
        by_seed=head, **more,
    )  # fmt: skip


def scored(columns: int = 2, **more: Any) -> ScoreSummary:
    values = {"vqa": [0.5, 0.75], "nlvr": [0.25, 0.25]}
    if columns == 1:
        values = {"vqa": [0.5, 0.75]}
    first = score(
        "ridge", "Ridge", values, [0.375, 0.5], trainable=1234, total=10_000, seconds=12.34
    )
    other = score("knn", "kNN", values, [0.25, 0.5], trainable=0, total=10_000, seconds=None,
                  difference=paired(-0.0625), verdict="undecided", more={"transductive": True})  # fmt: skip
    return ScoreSummary(
        protocol(), "T", (first, other), metrics={"vqa": "acc"}, notes=["n"], **more
    )


def test_rows_by_score() -> None:
    majority = score("", "the commonest answer", {"vqa": [0.125]}, [0.125])
    made = scores.table(scored(baseline=majority))
    assert to_markdown(made) == (
        "| Method | Trained | %, of total | vqa, acc | nlvr | Avg | Difference, of Avg | Verdict | s |\n"
        "|---|---:|---:|---:|---:|---:|---:|---|---:|\n"
        "| **Ridge** | 1,234 | 12.34 | 62.5 ± 17.7 | 25.0 ± 0.0 | 43.8 ± 8.8 | – | reference | 12.3 |\n"
        "| kNN (transductive) | 0 | 0 | 62.5 ± 17.7 | 25.0 ± 0.0 | 37.5 ± 17.7 | −6.2 [−7.2, −5.2] | undecided | – |\n"
        "| the commonest answer | 0 | 0 | 12.5 | – | 12.5 | – | – | – |\n"
        "\nn\n"
    )
    assert [c.value for c in made.cells()[0]] == ["Ridge", 1234, 12.34, 0.625, 0.25, 0.4375, None, "reference", 12.34]  # fmt: skip
    assert made.cells()[2][4].value is None
    assert len(made.records) == 6, "vqa, nlvr and Avg of two rows"
    assert made.records[2] == {
        "method": "ridge", "score": "Avg", "mean": 0.4375, "sd": pytest.approx(0.0883883), "low": pytest.approx(-0.3566, abs=1e-3),
        "high": pytest.approx(1.2316, abs=1e-3), "seeds": 2,
    }  # fmt: skip
    assert "more" not in made.facts["rows"][1]
    assert made.facts["rows"][1]["transductive"] is True
    brief = [column.title for column in made.columns if column.brief]
    assert brief == ["Method", "%, of total", "vqa, acc", "nlvr", "Avg", "Verdict"]


def test_one_column_is_its_own_headline() -> None:
    titles = [column.title for column in scores.table(scored(1)).columns]
    assert titles == ["Method", "Trained", "%, of total", "vqa, acc", "Difference, points", "Verdict", "s"]  # fmt: skip


def test_errors_are_in_their_unit() -> None:
    first = score("ridge", "Ridge", {"r2": [0.5, 0.75]}, [0.5, 0.75], trainable=1, total=4,
                  in_units={"mae": t_interval([1.25, 1.75]), "rmse": t_interval([2.0])})  # fmt: skip
    other = score(
        "knn", "kNN", {"r2": [0.5, 0.75]}, [0.5, 0.75], trainable=1, total=4, verdict="tie"
    )
    made = scores.table(ScoreSummary(protocol(), "T", (first, other)))
    at = [column.title for column in made.columns].index("MAE")
    assert [[c.text for c in cells[at : at + 2]] for cells in made.cells()] == [["1.5 ± 0.354", "2"], ["–", "–"]]  # fmt: skip
    assert [[c.value for c in cells[at : at + 2]] for cells in made.cells()] == [[1.5, 2.0], [None, None]]  # fmt: skip


def test_the_harmonic_mean_of_means_is_shown() -> None:
    first = score("ridge", "Ridge", {"base": [0.5], "novel": [0.5]}, [0.5], total=4, more={"hm_of_means": 0.1234})  # fmt: skip
    made = scores.table(ScoreSummary(protocol(1), "T", (first,), headline="HM"))
    assert [c.text for c in made.cells()[0]][5] == "12.3"
    assert [c.title for c in made.columns][5:7] == ["HM", "Difference, of HM"]


def run(seed: int, trainable: int = 7, kind: str = "text", **tables_: dict[str, float]) -> Any:
    return SimpleNamespace(
        ledger=SimpleNamespace(trainable=trainable, total=100),
        costs=SimpleNamespace(train_seconds=10.0 + 2 * seed, peak_memory_mb=100.0 + 4 * seed),
        scores=tables_ or {"test": {"r2": 0.5, "mae": 1.0 + seed, "n": 3.0}},
        request=SimpleNamespace(kind=kind),
    )


def test_intervals_differences_and_verdicts_of_rows() -> None:
    runs = {"ridge": [run(0), run(1, 9)], "knn": [run(0), run(1)]}
    found = {name: {"vqa": [0.5, 0.75]} for name in runs}
    heads = {"ridge": [0.5, 0.52], "knn": [0.25, 0.2701]}
    ridge, knn = scores.score_rows(protocol(), runs, found, heads, lambda name: {"of": name})
    assert (ridge.trainable, ridge.total, ridge.seconds, ridge.megabytes) == (9, 100, 11.0, 102.0)
    assert (ridge.difference, ridge.verdict, ridge.more) == (None, None, {"of": "ridge"})
    assert knn.difference is not None
    assert knn.difference.difference == pytest.approx(-0.24995)
    assert knn.verdict == "worse"
    assert (knn.by_seed, knn.headline) == ([0.25, 0.2701], t_interval([0.25, 0.2701]))
    assert ridge.in_units == {"mae": t_interval([1.0, 2.0])}
    assert ridge.share == 9.0
    two = scores._in_units([run(0, a={"mae": 1.0}, b={"mae": 1.0})])
    assert two == {}
    assert scores._in_units([run(0), run(1, test={"r2": 1.0})]) == {}


def test_scores_are_read_from_records(monkeypatch: pytest.MonkeyPatch) -> None:
    made = {
        "ridge": [run(i, a={"acc": 50.0 + i}, b={"cider": 20.0}) for i in (0, 1)],
        "knn": [run(i, a={"acc": 10.0}, b={"cider": 30.0}) for i in (0, 1)],
    }
    monkeypatch.setattr(RowsProtocol, "records", lambda _, __, row: made[row.name])
    found = scores.summarise_records(protocol(), None, "T", notes=["n"])  # type: ignore[arg-type]
    assert found.metrics == {"a": "acc", "b": "cider"}
    assert found.rows[0].by_seed == [pytest.approx(0.35), pytest.approx(0.355)]
    assert found.rows[1].scores["b"].mean == pytest.approx(0.3)
    assert (found.title, found.notes) == ("T", ["n"])


def test_how_rows_are_compared_in_words() -> None:
    assert scores.seeds_of(protocol(1)) == "1 seed"
    assert scores.seeds_of(protocol(3)) == "3 seeds"
    assert scores.how_compared(protocol(margin=0.02)).startswith(
        "Differences are from Ridge (target shots), paired by seed, with 95 % t intervals and p after Holm's correction over "
        "the rows. A row is better"
    )
    assert "within ±2 points" in scores.how_compared(protocol(margin=0.02))


def test_a_sentence_about_scores() -> None:
    two = scored()
    assert folder.sentence(two).startswith(
        "Ridge reaches 43.8 ± 8.8 % (Avg of vqa, nlvr; mean ± sd of 2 seeds)."
    )
    assert folder.sentence(two).endswith("Against kNN, 2 seeds cannot decide.")
    one = replace(scored(1), protocol=protocol(1))
    assert folder.sentence(one).startswith("Ridge reaches 43.8 ± 8.8 % (one seed).")
    units = replace(
        one, rows=tuple(replace(r, in_units={"mae": t_interval([1.0])}) for r in one.rows)
    )
    assert folder.sentence(units).startswith("Ridge reaches 43.8 ± 8.8 (R² times 100; one seed).")
    best = replace(scored(1), rows=(scored(1).rows[0], replace(scored(1).rows[1], verdict="worse")))
    assert folder.sentence(best).endswith(" It is better than every other row.")


# --- other protocols ----------------------------------------------------------------------------


def test_notes_of_many_tasks() -> None:
    terms = {"rows": rows_of(["vl-lora"]), "model": "m", "tasks": ["vqa"], "seeds": 2}
    notes = of_tasks.notes(multitask.Multitask.checked(**terms))
    assert notes[0] == (
        "m, 2 seeds (a start and an order of batches each), mean ± sd; the last step's weights, scored once on test; all methods "
        "with the same hard prompts."
    )
    part = of_tasks.notes(multitask.Multitask.checked(**terms, fraction=0.25, prefixes=False, scored="val"))  # fmt: skip
    assert part[0] == (
        "m, 2 seeds (a start and an order of batches each), mean ± sd; 25 % of the training samples; the last step's weights, "
        "scored once on val; all methods without hard prompts."
    )


def test_notes_of_a_generalisation() -> None:
    base = generalisation.plan("pets", rows_of(["coop"]), reference="", shots=4, seeds=2)
    assert of_places.notes(base)[0].startswith(
        "Accuracy in per cent, mean ± sd over 2 seeds (a draw of the shots and a start each), 4 shots a class, the last step's "
    )
    assert [note[:30] for note in of_places.notes(base)[1:]] == ["Base classes are the first hal"]
    known = generalisation.plan("pets", rows_of(["coop", "promptkd"]), reference="", shots=None, seeds=2, known="OxfordPets")  # fmt: skip
    notes = of_places.notes(known)
    assert "each), all images, the last" in notes[0]
    assert [note[:33] for note in notes[1:]] == [
        "Base classes are the first half b", "Zero-shot rows read the template ", "Transductive rows trained on unla",
    ]  # fmt: skip
    elsewhere = generalisation.plan("pets", rows_of(["coop"]), reference="", shots=4, seeds=2, known="OxfordPets", places=["cars"])  # fmt: skip
    assert len(of_places.notes(elsewhere)) == 1
    few = generalisation.few_shot("pets", rows_of(["coop"]), [1], reference="", seeds=2, published=True)  # fmt: skip
    assert "columns by the shots of each class" in of_places.notes(few)[0]
    assert of_places.notes(few)[1].startswith("CoOp, PromptSRC and CLIP-LoRA trained as published")


def test_headlines_of_a_generalisation() -> None:
    base = generalisation.plan("pets", rows_of(["coop"]), reference="", shots=4, seeds=2)
    places = {"base": [0.9, 0.5], "novel": [0.6, 0.5]}
    assert of_places._headline(base, places) == pytest.approx([0.72, 0.5])
    means = of_places._means(places)
    assert means["mean_of_hms"] == pytest.approx(0.61)
    assert means["hm_of_means"] == pytest.approx(2 * 0.7 * 0.55 / 1.25)
    few = generalisation.few_shot("pets", rows_of(["coop"]), [1, 2], reference="", seeds=2)
    assert of_places._headline(few, {"1": [0.5, 0.6], "2": [0.7, 0.9], "x": [9, 9]}) == pytest.approx([0.6, 0.75])  # fmt: skip
    room = {
        "zero-shot": {"base": [0.5], "novel": [0.25]},
        "class-means": {"base": [0.5, 0.75], "novel": [0.25, 0.25]},
        "logistic-regression": {"base": [0.5], "novel": [0.125]},
    }
    assert of_places.room_to_move(room).startswith(
        "Room to move: zero-shot 50.0 base, 25.0 novel; class means 62.5 ± 17.7 base, 25.0 ± 0.0 novel; a linear probe 50.0 "
        "base, 12.5 novel. Class means and probe see"
    )


def test_notes_of_a_sequence() -> None:
    study = continual.plan(["a", "b"], "ridge", {}, shots=3, memory=2, seeds=2)
    matrices = {
        "routed": [[[0.5], [0.25, 0.75]], [[0.75], [0.5, 0.25]]],
        "told": [[[0.5], [0.5, 0.5]]] * 2,
    }
    notes = of_sequence.notes(study, matrices)
    assert notes[0].startswith(
        "Accuracy in per cent after the last task, mean ± sd over 2 seeds (a draw of the shots and a start each), 3 shots a "
        "class; replay keeps 2 of each earlier class."
    )
    assert notes[1] == (
        "an adapter a task, routed by class means: average forgetting 25.0 ± 0.0; accuracy on each task after a: 62.5; after b: "
        "37.5 50.0."
    )
    assert "average forgetting 0.0 ± 0.0" in notes[2]
    every = continual.plan(["a", "b"], "ridge", {}, shots=None, memory=2, seeds=2)
    assert "each), all images; replay" in of_sequence.notes(every, {})[0]


def test_a_sequence_has_the_last_accuracies(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    study = continual.plan(["a", "b"], "ridge", {}, shots=3, memory=2, seeds=2)
    study.write(tmp_path)
    matrix = {way: [[[0.5], [0.25, 0.75]], [[0.75], [0.5, 0.5]]] for way in continual.WAYS}
    monkeypatch.setattr(of_sequence, "matrices", lambda _: matrix)
    monkeypatch.setattr(Continual, "records", lambda *_: [run(0), run(1, 9)])
    monkeypatch.setattr(Continual, "adapters", lambda _, __, seed: [run(0, 100), run(0, 10 * seed)])
    found = of_sequence.summarise(tmp_path)
    routed, told, replay = found.rows
    assert routed.scores["a"] == t_interval([0.25, 0.5])
    assert routed.scores["b"] == t_interval([0.75, 0.5])
    assert routed.by_seed == [0.5, 0.5]
    assert (routed.trainable, told.trainable, replay.trainable) == (110, 110, 9)
    assert found.title == "ridge on a, b, one after the other"


def versus(**more: Any) -> Versus:
    terms: dict[str, Any] = {"name": "full", "label": "Full", "wins": 3, "ties": 1, "undecided": 2, "losses": 4,
                             "gain": interval(0.0123, 0.02)}  # fmt: skip
    return Versus(**{**terms, **more})


def transferred(*rows: TransferRow, **more: Any) -> TransferSummary:
    terms: dict[str, Any] = {"rows": list(rows), "versus": [versus()], "reference": "Ours", "seeds": 3, "margin": 0.01,
                             "unfinished": ["a/b", "c/d"], "claims": [{"source": "abstract", "against": "full", "says": "better", "doubt": "Of what?"}]}  # fmt: skip
    return TransferSummary(**{**terms, **more})


def test_sentences_of_a_transfer() -> None:
    assert of_cells.sentences(transferred()) == [
        "Ours against Full: 3 wins, 1 ties, 2 undecided, 4 losses over 10 pairs of data set and backbone; mean gain +1.2 points "
        "[−0.8, 3.2].",
        "Published (abstract), against full: better. Of what?",
        "Not finished, so not in the table: a/b, c/d.",
    ]
    one = versus(wins=1, ties=0, undecided=0, losses=0)
    assert of_cells.sentences(transferred(versus=[one], claims=[], unfinished=[])) == [
        "Ours against Full: 1 wins, 0 ties, 0 losses over 1 pairs of data set and backbone; mean gain +1.2 points."
    ]
    assert of_cells.legend(transferred()).startswith(
        "Mean ± sd over 3 seeds of one split. Difference"
    )
    assert of_cells.legend(transferred(seeds=1)).startswith(
        "One seed. Difference and verdict are against Ours, over"
    )


def test_cells_are_parts_of_a_transfer_s_table() -> None:
    cells = [("a", "v"), ("a", "v"), ("a", "w"), ("b", "w")]
    rows = [
        TransferRow(
            data, backbone, interval(0.8), 1000 if data == "b" else 7, OURS if i % 2 else BASE
        )
        for i, (data, backbone) in enumerate(cells)
    ]
    made = of_cells.table(transferred(*rows))
    assert made.parts == [2, 3]
    assert [[c.text for c in line[:7]] for line in (made.cells()[0], made.cells()[3])] == [
        ["a", "v", "Base", "80.0 ± 1.0", "−12.3", "worse", "0"],
        ["b", "w", "Ours", "80.00 ± 1.00", "–", "reference", "12,345"],
    ]
    assert [column.title for column in made.columns if column.brief][-1] == "Training, s"
    assert len([column for column in made.columns if column.brief]) == 7
    assert made.records[0]["difference"] == -0.123
    assert made.records[0]["difference_low"] == pytest.approx(-0.143)
    assert made.records[0]["difference_high"] == pytest.approx(-0.103)
    assert (made.records[0]["p_holm"], made.records[0]["verdict"]) == (0.03, "worse")
    assert [made.records[1][k] for k in ("difference", "difference_low", "difference_high", "p_holm", "verdict")] == [None] * 5  # fmt: skip
    assert (made.records[3]["images"], made.records[3]["accuracy_sd_over_seeds"]) == (1000, 0.01)


def test_wins_are_of_the_reference() -> None:
    rows = [
        TransferRow("a", str(i), interval(0.5), 7, replace(BASE, versus=against(gain, 0.01, verdict)))
        for i, (gain, verdict) in enumerate(((-0.1, "worse"), (-0.3, "worse"), (0.1, "better"), (0.0, "tie"), (0.0, "undecided")))
    ]  # fmt: skip
    found = of_cells._versus("base", "Base", [*rows, TransferRow("a", "0", interval(0.5), 7, OURS)])
    assert (found.wins, found.losses, found.ties, found.undecided) == (2, 1, 1, 1)
    assert found.gain.mean == pytest.approx((0.1 + 0.3 - 0.1) / 5)
    assert np.isclose(found.gain.mean, 0.06)

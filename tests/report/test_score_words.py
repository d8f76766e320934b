"""Rows and sentences of scores by column, whole, from numbers that are stated here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders.summaries import paired, run
from petiole.metrics.intervals import t_interval
from petiole.protocols.protocol import RowsProtocol, rows_of
from petiole.report import folder, scores
from petiole.report.scores import ScoreRow, ScoreSummary
from petiole.report.table import to_markdown


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

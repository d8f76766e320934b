"""Figures: bytes, ids, and what they draw."""

import re
import warnings
from xml.etree import ElementTree

import numpy as np
import pytest

from petiole.report import plots
from petiole.report.page_photos import by_class
from petiole.report.table import NOTHING
from petiole.report.tables import summarise


@pytest.fixture
def summary(build, at):
    labels = {"ours": "costs $5 & <b>$", "cosine": "余弦"}
    accuracy = {"baseline": 0.3, "cosine": 0.7, "ours": 0.8}
    return summarise(build.comparison("c", at(accuracy, 60), labels=labels, claims={"ours": 78.87}))


def figures(summary):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), 200)
    log = [{"step": s, "loss": 1 / (s + 1), "lr": 1e-3} for s in range(20)]
    counts = rng.integers(0, 9, (3, 3))
    return {
        "accuracy": lambda: plots.accuracy(summary),
        "parameters": lambda: plots.against_parameters(summary),
        "loss": lambda: plots.loss([log, log]),
        "reliability": lambda: plots.reliability(p, rng.integers(0, 3, 200)),
        "confusion": lambda: plots.confusion_matrix(counts, ["$a$", "<b>", "c" * 40]),
    }


@pytest.mark.parametrize("name", ["accuracy", "parameters", "loss", "reliability", "confusion"])
def test_svg_is_whole_quiet_and_the_same_twice(summary, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, second = (plots.svg(figures(summary)[name](), name, 'a "label"') for _ in range(2))
    assert first == second
    ElementTree.fromstring(first.replace("xlink:href", "href"))  # well-formed
    assert "http" not in first
    assert "<style" not in first
    assert 'aria-label="a &quot;label&quot;"' in first
    assert not re.search("#0[1-9a-f]0", first.lower()), "a stand-in colour is left"
    ids = re.findall(r' id="([^"]+)"', first)
    assert len(ids) == len(set(ids))
    assert all(i.startswith(f"{name}-") for i in ids)
    assert {r.strip("#()") for r in re.findall(r"#" + name + r"-[^\")]+", first)} <= set(ids)


def test_a_confusion_matrix_shares_out_each_true_class() -> None:
    counts = np.array([[6, 2, 0], [5, 5, 10], [0, 0, 0]])
    figure = plots.confusion_matrix(counts, ["a", "b", "c"])
    texts = {t.get_position(): t.get_text() for t in figure.axes[0].texts}  # column, row
    assert texts == {(0, 0): "75", (1, 0): "25", (0, 1): "25", (1, 1): "25", (2, 1): "50"}
    [cells] = figure.axes[0].collections
    assert [round(c[3], 3) for c in cells.get_facecolor()] == [
        round(0.08 + 0.82 * share, 3) for share in (0.75, 0.25, 0.25, 0.25, 0.5)
    ]


def test_classes_by_recall_precision_and_what_they_are_taken_for() -> None:
    counts = np.array([[6, 2, 0], [4, 6, 10], [0, 0, 0]])
    table = by_class(counts, ["a", "b", "c"], runs=2)
    cells = [[column.text(k) for column in table.columns] for k in range(3)]
    assert [row[1] for row in cells] == ["4", "10", "0"]
    assert [row[2] for row in cells] == ["75.0", "30.0", NOTHING]
    assert [row[3] for row in cells] == ["60.0", "75.0", "0.0"]
    assert [row[4] for row in cells] == ["b (25.0 %)", "c (50.0 %)", NOTHING]


def test_labels_are_text_and_never_mathematics(summary) -> None:
    text = plots.svg(plots.accuracy(summary), "a", "b")
    assert "costs $5 &amp; &lt;b&gt;$" in text
    assert "余弦" in text


def test_accuracy_draws_the_numbers_of_the_table(summary) -> None:
    axes = plots.accuracy(summary).axes[0]
    assert {tick.tick1line.get_markersize() for tick in axes.yaxis.get_major_ticks()} == {0}
    means = [c.get_offsets()[0][0] for c in axes.collections if c.get_sizes()[0] == 34]
    assert means == pytest.approx([100 * row.accuracy.mean for row in summary.rows])
    bars = [line.get_xdata() for line in axes.lines if len(line.get_ydata()) == 2][1:]
    for row, bar in zip(summary.rows, bars, strict=True):
        assert list(bar) == pytest.approx([100 * row.accuracy.low, 100 * row.accuracy.high])


def test_reliability_bins_by_hand() -> None:
    p = np.array([[0.9, 0.1], [0.92, 0.08], [0.55, 0.45], [0.2, 0.8]])
    axes = plots.reliability(p, [0, 1, 0, 1], bins=10).axes[0]
    x, y = axes.lines[1].get_xdata(), axes.lines[1].get_ydata()
    # (0.5, 0.6]: 0.55 right; (0.7, 0.8]: 0.8 right; (0.8, 0.9]: 0.9 right; (0.9, 1]: 0.92 wrong
    assert list(x) == pytest.approx([0.55, 0.8, 0.9, 0.92])
    assert list(y) == [1, 1, 1, 0]


def test_frontier_by_naive_search() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.integers(0, 6, (2, 30)).astype(float)
    naive = [
        not any((x[j] <= x[i] and y[j] >= y[i]) and (x[j] < x[i] or y[j] > y[i]) for j in range(30))
        for i in range(30)
    ]
    assert plots.frontier(x, y).tolist() == naive


def test_many_classes_have_distinct_colours() -> None:
    for k in (1, 10, 47, 100):
        assert len(set(plots.class_colours(k))) == k


def test_untrained_rows_are_drawn_too(build, at) -> None:
    accuracy = {"baseline": 0.3, "cosine": 0.7, "ours": 0.8}
    folder = build.comparison("c", at(accuracy, 60), trainable={"baseline": 0}, split_seeds=2)
    assert "Baseline" in plots.svg(plots.against_parameters(summarise(folder)), "p", "x")

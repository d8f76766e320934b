"""Rows, sentences and notes of a comparison, whole, from numbers that are stated here: no run is read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders.summaries import BASE, OURS, against, row, summary
from petiole.report import tables
from petiole.report.sentence import left_open, sentence, standing
from petiole.report.table import to_markdown


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

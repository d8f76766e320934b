"""Tables against naive recomputation from predictions, and verdicts on constructed cases."""

import csv
import io
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file

from builders.tables import rows_of
from petiole.commands.compare import Compared
from petiole.errors import RunError
from petiole.files import write_sealed
from petiole.report import table as tables
from petiole.report.tables import COSTS, columns, sentence, summarise, table
from petiole.tasks.classification.predictions import TENSORS

N = 60


def to_csv(summary) -> str:
    return tables.to_csv(table(summary))


def to_markdown(summary) -> str:
    return tables.to_markdown(table(summary))


def to_rich(summary):
    return tables.to_rich(table(summary))


STUDENT = {4: 2.7764451051977987, 2: 4.302652729911275}  # t quantile of 0.975 by freedom


def run_accuracy(run: Path) -> float:
    rows = rows_of(run / "predictions.csv")
    return sum(r["label"] == r["prediction"] for r in rows) / len(rows)


def split_accuracies(folder: Path, row: str, split_seeds: int, seeds: int) -> list[float]:
    at = folder / "runs" / row
    return [
        statistics.fmean(run_accuracy(at / f"split-{d}-seed-{i}") for i in range(seeds))
        for d in range(split_seeds)
    ]


def naive_macro_and_ece(run: Path) -> tuple[float, float]:
    tensors = load_file(run / TENSORS)
    p, y = tensors["probabilities"].astype(float), tensors["labels"]
    p = p / p.sum(axis=1, keepdims=True)
    recalls = [np.mean(p[y == k].argmax(axis=1) == k) for k in sorted(set(y.tolist()))]
    ece = 0.0
    for low in range(15):
        inside = [i for i in range(len(y)) if low / 15 < p[i].max() <= (low + 1) / 15]
        if inside:
            right = np.mean([p[i].argmax() == y[i] for i in inside])
            ece += len(inside) / len(y) * abs(right - np.mean([p[i].max() for i in inside]))
    return float(np.mean(recalls)), ece


@pytest.mark.parametrize("seeds", [1, 2])
def test_numbers_are_those_of_the_predictions(build, at, seeds: int) -> None:
    accuracy = {"baseline": 0.3, "cosine": 0.7, "ours": 0.8}
    folder = build.comparison("c", at(accuracy, N), split_seeds=5, seeds=seeds)
    summary = summarise(folder)
    table = {r["name"]: r for r in csv.DictReader(io.StringIO(to_csv(summary)))}
    base = split_accuracies(folder, "baseline", 5, seeds)
    assert summary.images == N
    for row in summary.rows:
        mine = split_accuracies(folder, row.name, 5, seeds)
        mean, sd = statistics.fmean(mine), statistics.stdev(mine)
        got = table[row.name]
        assert float(got["accuracy"]) == pytest.approx(mean, abs=1e-12)
        assert float(got["accuracy_sd_over_splits"]) == pytest.approx(sd, abs=1e-12)
        assert row.by_split == pytest.approx(mine, abs=1e-12)
        half = STUDENT[4] * sd / math.sqrt(5)
        assert float(got["accuracy_low_over_splits"]) == pytest.approx(mean - half, abs=1e-9)
        assert float(got["accuracy_low"]) < mean < float(got["accuracy_high"])
        runs = [
            folder / "runs" / row.name / f"split-{d}-seed-{i}"
            for d in range(5)
            for i in range(seeds)
        ]
        macro, ece = zip(*map(naive_macro_and_ece, runs), strict=True)
        by_split = [statistics.fmean(macro[d * seeds : (d + 1) * seeds]) for d in range(5)]
        assert row.macro.sd == pytest.approx(statistics.stdev(by_split), abs=1e-9)
        assert float(got["macro_accuracy"]) == pytest.approx(statistics.fmean(macro), abs=1e-9)
        assert float(got["ece"]) == pytest.approx(statistics.fmean(ece), abs=1e-9)
        assert f"{100 * mean:.1f} ± {100 * sd:.1f}" in to_markdown(summary)
        if row.name != "baseline":
            gains = [a - b for a, b in zip(mine, base, strict=True)]
            half = STUDENT[4] * statistics.stdev(gains) / math.sqrt(5)
            want = statistics.fmean(gains)
            assert float(got["gain_over_baseline_difference"]) == pytest.approx(want, abs=1e-12)
            assert float(got["gain_over_baseline_low"]) == pytest.approx(want - half, abs=1e-9)


def test_size_time_and_percentage_come_from_ledger_and_costs(build, at) -> None:
    sizes = {"baseline": 18_095, "cosine": 18_049, "ours": 255_233}
    folder = build.comparison("c", at(dict.fromkeys(sizes, 0.5), N), trainable=sizes, split_seeds=3)
    row = summarise(folder).row("ours")
    assert (row.trainable, row.inference) == (255_233, 255_233)
    assert row.percent_of_backbone_and_trainable == pytest.approx(1.1439, abs=1e-4)
    assert row.seconds == pytest.approx(3.1)  # median of 3.0, 3.1, 3.2


def test_costs_are_those_of_the_records_and_stand_beside_the_accuracy(build, at) -> None:
    sizes = {"baseline": 18_095, "ours": 255_233}
    correct = at(dict.fromkeys(sizes, 0.5), N)
    folder = build.comparison("c", correct, list(sizes), trainable=sizes, split_seeds=3)
    for split, memory in enumerate((700.0, 950.0, 800.4)):
        file = folder / f"runs/ours/split-{split}-seed-0/record.json"
        record = json.loads(file.read_text())
        record["costs"]["peak_memory_mb"] = memory
        record["ledger"]["flops_training"] = 1_500_000
        write_sealed(file, record)
    summary = summarise(folder)
    table = {r["name"]: r for r in csv.DictReader(io.StringIO(to_csv(summary)))}
    got = {k: float(table["ours"][k]) for k in (*COST_FIELDS, "inference", "train_seconds")}
    assert got == {
        "inference": 255_233,
        "stored_bytes": 4 * 255_233,
        "flops_forward": 12_250_500_000,
        "flops_training": 1_500_000,
        "peak_memory_mb": 800.4,
        "train_seconds": pytest.approx(2.1),
    }
    head, _, baseline, ours, *_ = to_markdown(summary).splitlines()
    last = [cell.strip() for cell in head.split("|")][-7:-1]
    assert last == [column.title for column in COSTS]
    cells = ["255,233", "1.02 MB", "12.3 GFLOPs", "1.50 MFLOPs", "800", "2.1"]
    assert [cell.strip() for cell in ours.split("|")][-7:-1] == cells
    assert [cell.strip() for cell in baseline.split("|")][-4] == "–", "nothing is trained there"


COST_FIELDS = ("stored_bytes", "flops_forward", "flops_training", "peak_memory_mb")


def test_p_is_adjusted_over_the_table(build, at) -> None:
    folder = build.comparison("c", at({"baseline": 0.3, "cosine": 0.6, "ours": 0.8}, N))
    rows = [r for r in summarise(folder).rows if r.versus]
    raw = sorted((r.versus.by_split.p, r.versus.p) for r in rows)
    assert raw[0][1] == pytest.approx(min(1, 2 * raw[0][0]))
    assert raw[1][1] == pytest.approx(max(raw[0][1], raw[1][0]))


def constructed(pattern):
    """``pattern[row](split_seed)`` gives the indices of the wrong images."""

    def correct(row: str, split_seed: int, _: int) -> np.ndarray:
        right = np.ones(N, dtype=bool)
        right[list(pattern[row](split_seed))] = False
        return right

    return correct


def test_verdicts(build) -> None:
    pattern = {
        "baseline": lambda d: range(40 + d % 3),
        "cosine": lambda d: range(10 + (d % 2)),  # as good as ours, give or take an image
        "ours": lambda d: range(10 + (d + 1) % 2),
        "best": lambda d: range(d % 2),
    }
    rows = ["baseline", "cosine", "ours", "best"]
    summary = summarise(build.comparison("c", constructed(pattern), rows, split_seeds=6))
    got = {r.name: r.versus.verdict if r.versus else None for r in summary.rows}
    assert got == {"baseline": "worse", "cosine": "undecided", "ours": None, "best": "better"}
    text = sentence(summary)
    assert "It is worse than Best and is better than Baseline." in text
    assert "Against Cosine, 6 splits cannot decide." in text
    assert "tie" not in text


def test_a_tie_lies_within_the_margin_that_the_comparison_states(build) -> None:
    pattern = {
        "baseline": lambda d: range(40 + d % 3),
        "cosine": lambda d: range(10 + (d % 2)),  # as good as ours, give or take an image
        "ours": lambda d: range(10 + (d + 1) % 2),
    }
    folder = build.comparison("c", constructed(pattern), split_seeds=6)
    stated = json.loads((folder / "comparison.json").read_text())
    write_sealed(folder / "comparison.json", {**stated, "margin": 0.05})
    summary = summarise(folder)
    assert summary.row("cosine").versus.verdict == "tie"
    text = sentence(summary)
    assert "ties with Cosine (differences within ±5 points) and is better than Baseline" in text
    assert "The cheapest of the tied is Cosine: 36,190 trained parameters" in text
    assert "a tie where that interval lies within ±5 points" in to_markdown(summary)


def test_a_difference_that_hangs_on_one_image_is_no_lead_though_every_draw_agrees(build) -> None:
    pattern = {
        "baseline": lambda d: range(40 + d % 2),
        "cosine": lambda _: [0],
        "ours": lambda _: [],
    }
    summary = summarise(build.comparison("c", constructed(pattern), split_seeds=9))
    versus = summary.row("cosine").versus
    assert versus.p < 0.05
    assert versus.both.low < 0 <= versus.both.high
    assert versus.verdict == "undecided"


def test_a_lead_that_favours_us_inside_its_interval_is_undecided(build, at) -> None:
    folder = build.comparison("c", at({"baseline": 0.2, "cosine": 0.68, "ours": 0.72}, N, 0.05))
    summary = summarise(folder)
    versus = summary.row("cosine").versus
    assert versus.both.mean < 0 < versus.both.high
    assert versus.verdict == "undecided"
    assert "Against Cosine, " in sentence(summary)


def test_a_large_difference_over_two_draws_is_undecided_and_not_a_tie(build) -> None:
    pattern = {
        "baseline": lambda d: range(45 + 3 * d),
        "cosine": lambda d: range(25 - 4 * d),
        "ours": lambda _: range(10),
    }
    summary = summarise(build.comparison("c", constructed(pattern), split_seeds=2))
    versus = summary.row("cosine").versus
    assert versus.p > 0.05
    assert versus.both.high < 0
    assert versus.verdict == "undecided"
    text = sentence(summary)
    assert "Cosine, 2 splits cannot decide" in text
    assert "tie" not in text
    assert "cheapest" not in text


def test_one_draw_says_so(build, at) -> None:
    folder = build.comparison(
        "c", at({"baseline": 0.2, "cosine": 0.7, "ours": 0.75}, N), split_seeds=1
    )
    summary = summarise(folder)
    assert "no interval between splits can be given" in sentence(summary)
    assert "no interval between splits can be given" in to_markdown(summary)
    row = summary.row("baseline")
    assert row.versus.by_split is None
    assert row.versus.headline.test == "McNemar exact"
    assert row.versus.verdict == "worse"
    assert " ± " not in to_markdown(summary)
    got = next(csv.DictReader(io.StringIO(to_csv(summary))))
    assert got["accuracy_sd_over_splits"] == got["accuracy_low_over_splits"] == ""
    assert got["versus_reference_test"] == "McNemar exact"


def test_a_notebook_shows_the_table_of_a_comparison(build, at) -> None:
    folder = build.comparison("c", at({"baseline": 0.2, "cosine": 0.7, "ours": 0.75}, N))
    summary = summarise(folder)
    html = Compared(folder=folder, report=folder / "report.html", summary=summary)._repr_html_()
    assert html.startswith("<table>")
    assert html.count("<tr") == len(summary.rows) + 1
    assert all(row.label in html for row in summary.rows)


def test_one_row_needs_no_comparison(build, at) -> None:
    folder = build.comparison("c", at({"ours": 0.7}, N), ["ours"], split_seeds=3, baseline="ours")
    summary = summarise(folder)
    assert summary.rows[0].gain is None
    assert summary.rows[0].versus is None
    assert sentence(summary).count(".") >= 1
    assert "ties" not in sentence(summary)


def test_missing_runs_are_named(build, at) -> None:
    folder = build.comparison("c", at(dict.fromkeys(("baseline", "cosine", "ours"), 0.5), N))
    (folder / "runs/cosine/split-3-seed-0/record.json").unlink()
    with pytest.raises(
        RunError, match=r"1 of 15 runs .*\n  runs/cosine/split-3-seed-0\n.*--resume"
    ):
        summarise(folder)


def test_changed_predictions_are_refused(build, at) -> None:
    folder = build.comparison("c", at(dict.fromkeys(("baseline", "cosine", "ours"), 0.5), N))
    file = folder / "runs/ours/split-0-seed-0" / TENSORS
    file.write_bytes((folder / "runs/ours/split-1-seed-0" / TENSORS).read_bytes())
    with pytest.raises(RunError, match=r"split-0-seed-0.*checksum differs"):
        summarise(folder)


def test_runs_on_other_images_are_refused(build, at) -> None:
    folder = build.comparison("c", at(dict.fromkeys(("baseline", "cosine", "ours"), 0.5), N))
    build.per_class -= 1
    run = folder / "runs/cosine/split-0-seed-0"
    (run / "test_evaluations.jsonl").unlink()
    build.run(run, np.ones(N - 3, dtype=bool))
    with pytest.raises(RunError, match=r"cosine/split-0-seed-0 was tested on other images"):
        summarise(folder)


def test_a_damaged_record_is_named(build, at) -> None:
    folder = build.comparison("c", at(dict.fromkeys(("baseline", "cosine", "ours"), 0.5), N))
    file = folder / "runs/ours/split-0-seed-0/record.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "scores": "none"}))
    with pytest.raises(RunError, match=r"split-0-seed-0/record.json is damaged"):
        summarise(folder)


def test_published_numbers_have_a_column_only_if_there_are_any(build, at) -> None:
    correct = at(dict.fromkeys(("baseline", "cosine", "ours"), 0.5), N)
    without = summarise(build.comparison("a", correct, split_seeds=1))
    given = summarise(build.comparison("b", correct, split_seeds=1, claims={"ours": 78.87}))
    assert "Published, %" not in [c.title for c in columns(without)]
    assert "78.87" in to_markdown(given)
    assert "78.87" not in to_markdown(without)


def test_markdown_and_terminal_keep_odd_labels_whole(build, at) -> None:
    labels = {"ours": "<b>a|b</b> [red]\nx", "cosine": "one, two"}
    accuracy = {"baseline": 0.2, "cosine": 0.7, "ours": 0.7}
    summary = summarise(build.comparison("c", at(accuracy, N, 0.05), labels=labels, split_seeds=3))
    lines = to_markdown(summary).splitlines()
    assert "**&lt;b>a\\|b&lt;/b> [red] x**" in lines[4]
    widths = {line.replace("\\|", "").count("|") for line in lines[:5]}
    assert len(widths) == 1
    console = Console(width=200, file=io.StringIO())
    console.print(to_rich(summary))
    assert "[red]" in console.file.getvalue()


def test_equal_records_give_equal_tables(build, at) -> None:
    folder = build.comparison("c", at({"baseline": 0.3, "cosine": 0.7, "ours": 0.8}, N))
    assert to_csv(summarise(folder)) == to_csv(summarise(folder))


def test_published_costs_stand_beside_ours(build, at) -> None:
    folder = build.comparison("c", at({"baseline": 0.2, "cosine": 0.7, "ours": 0.75}, N))
    assert "Published: " not in to_markdown(summarise(folder))
    stated = json.loads((folder / "comparison.json").read_text())
    costs = {"cosine": {"percent": "<0.1"}, "ours": {"percent": 0.26, "gflops": 0.12}}
    write_sealed(folder / "comparison.json", {**stated, "claimed_costs": costs})
    titles = [column.title for column in columns(summarise(folder))]
    assert titles[-2:] == ["Published: trained, %", "Published: GFLOPs"]
    rows = {row["name"]: row for row in csv.DictReader(io.StringIO(to_csv(summarise(folder))))}
    assert (rows["cosine"]["published_cost_percent"], rows["cosine"]["published_cost_gflops"]) == (
        "<0.1",
        "",
    )
    assert (rows["ours"]["published_cost_percent"], rows["ours"]["published_cost_gflops"]) == (
        "0.26",
        "0.12",
    )

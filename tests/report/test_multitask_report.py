"""The multi-task table against recomputation from the records, and verdicts on constructed rows."""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from scipy import stats

from petiole.errors import RunError
from petiole.files import write_sealed
from petiole.protocols.multitask import MAJORITY, STATE, Multitask
from petiole.protocols.protocol import ComparisonRow
from petiole.report.multitask import summarise
from petiole.report.scores import table
from petiole.report.table import to_dict, to_markdown, to_rich, write

SEEDS = 5
STUDENT_4 = 2.7764451051977987  # t quantile of 0.975, four degrees of freedom
VQA = [40.0, 43.0, 41.0, 42.0, 39.0]
CIDER = [110.0, 112.0, 111.0, 109.0, 113.0]
MAJORITIES = {"vqa": {"vqa_accuracy": 25.5, "soft_score": 99.0}, "caption": {"cider": 1.25}}
SHIFTS = {
    # What each row's average is above the reference's, by seed, in per cent.
    "vl-adapter": [0.0, 0.0, 0.0, 0.0, 0.0],
    "vl-adapters": [5.0, 5.1, 4.9, 5.2, 4.8],
    "vl-lora": [-5.0, -5.1, -4.9, -5.2, -4.8],
    "vl-prompt": [0.3, -0.2, 0.1, -0.3, 0.2],
    "vl-prefix": [1.0, 1.0, 0.1, 1.0, 0.1],
}
VERDICTS = {
    "vl-adapter": None,
    "vl-adapters": "better",
    "vl-lora": "worse",
    "vl-prompt": "tie",
    "vl-prefix": "undecided",
}


def scores_of(row: str, seed: int) -> dict[str, dict[str, float]]:
    shift = SHIFTS[row][seed]
    vqa, cider = VQA[seed] + 2 * shift, CIDER[seed]
    return {
        "vqa": {"vqa_accuracy": vqa, "vqa_accuracy_vlt5": 0.0},
        "caption": {"cider": cider, "bleu4": 77.0},
    }


def build(
    root: Path,
    scored: Callable[..., Any],
    *,
    seeds: int = SEEDS,
    rows: tuple[str, ...] = tuple(SHIFTS),
) -> Path:
    protocol = Multitask(
        model="tiny",
        tasks=["vqa", "caption"],
        rows=[ComparisonRow(name=name, label=name.upper(), method=name) for name in rows],
        reference="vl-adapter",
        seeds=seeds,
    )
    write_sealed(root / STATE, protocol.model_dump(mode="json"))
    write_sealed(root / MAJORITY, MAJORITIES)
    for row in protocol.rows:
        for seed in range(seeds):
            place = protocol.folder(root, row, seed)
            memory = 100.0 * (1 + seed)
            scored(
                place, "text", scores_of(row.name, seed), method=row.name, seed=seed, memory=memory
            )
    return root


@pytest.fixture
def folder(tmp_path: Path, scored: Callable[..., Any]) -> Path:
    return build(tmp_path, scored)


def test_every_number_is_that_of_the_records(folder: Path) -> None:
    found = to_dict(table(summarise(folder)))
    assert found["metrics"] == {"vqa": "vqa_accuracy", "caption": "cider"}
    assert found["majority"] == pytest.approx({"vqa": 0.255, "caption": 0.0125})
    for line in found["rows"]:
        heads: dict[str, list[float]] = {"vqa": [], "caption": []}
        for seed in range(SEEDS):
            file = folder / "runs" / line["name"] / f"seed-{seed}" / "record.json"
            scores = json.loads(file.read_text())["scores"]
            heads["vqa"].append(scores["vqa"]["vqa_accuracy"] / 100)
            heads["caption"].append(scores["caption"]["cider"] / 100)
        averages = [(a + b) / 2 for a, b in zip(heads["vqa"], heads["caption"], strict=True)]
        for interval, values in (
            *((line["scores"][task], values) for task, values in heads.items()),
            (line["headline"], averages),
        ):
            mean, sd = statistics.mean(values), statistics.stdev(values)
            half = STUDENT_4 * sd / math.sqrt(SEEDS)
            assert interval["mean"] == pytest.approx(mean)
            assert interval["sd"] == pytest.approx(sd)
            assert interval["low"] == pytest.approx(mean - half)
            assert interval["high"] == pytest.approx(mean + half)
        assert (line["trainable"], line["total"]) == (418, 10_000)
        assert (line["seconds"], line["megabytes"]) == (12.0, 300.0)


def test_differences_are_paired_by_seed_and_corrected_over_the_rows(folder: Path) -> None:
    lines = {line.name: line for line in summarise(folder).rows}
    tested = [name for name in SHIFTS if name != "vl-adapter"]
    p = {n: float(stats.ttest_1samp(SHIFTS[n], 0).pvalue) for n in tested}
    ranked, worst = sorted(tested, key=p.__getitem__), 0.0
    for rank, name in enumerate(ranked):
        worst = max(worst, min(1.0, (len(ranked) - rank) * p[name]))
        difference = lines[name].difference
        assert difference is not None
        values = [shift / 100 for shift in SHIFTS[name]]
        half = STUDENT_4 * statistics.stdev(values) / math.sqrt(SEEDS)
        assert difference.difference == pytest.approx(statistics.mean(values))
        assert difference.low == pytest.approx(statistics.mean(values) - half)
        assert difference.high == pytest.approx(statistics.mean(values) + half)
        holds_zero = difference.low <= 0 <= difference.high
        sure = worst < 0.05
        within = difference.low >= -0.01 and difference.high <= 0.01
        assert (lines[name].verdict == "tie") == (holds_zero and within)
        assert (lines[name].verdict in ("better", "worse")) == (sure and not holds_zero)
    assert {name: line.verdict for name, line in lines.items()} == VERDICTS
    # The undecided row would be called better without the correction.
    assert p["vl-prefix"] < 0.05
    assert lines["vl-adapter"].difference is None


def test_the_markdown_states_the_rows_the_baseline_and_its_terms(folder: Path) -> None:
    text = to_markdown(table(summarise(folder)))
    rows = [
        [cell.strip().strip("*") for cell in row.strip("|").split("|")]
        for row in text.splitlines()
        if row.startswith("| ")
    ]
    head, *body = rows
    assert head[3:5] == ["vqa, vqa_accuracy", "caption, cider"]
    assert {len(row) for row in rows} == {len(head)}
    cells = {row[0]: dict(zip(head, row, strict=True)) for row in body}
    reference = cells["VL-ADAPTER"]
    assert reference["vqa, vqa_accuracy"] == f"41.0 ± {statistics.stdev(VQA):.1f}"
    assert reference["%, of total"] == "4.18"
    assert (reference["Difference, of Avg"], reference["Verdict"]) == ("–", "reference")
    assert cells["VL-PROMPT"]["Verdict"] == "tie"
    assert cells["VL-LORA"]["Difference, of Avg"].startswith("−5.0 [−5.2, −4.8]")
    assert cells["the commonest answer"]["vqa, vqa_accuracy"] == "25.5"
    assert cells["the commonest answer"]["caption, cider"] == "1.2"
    assert cells["the commonest answer"]["Avg"] == "13.4"
    assert "differences are from VL-ADAPTER" in text or "Differences are from VL-ADAPTER" in text


def test_the_terminal_shows_the_same_cells(folder: Path) -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(to_rich(table(summarise(folder))))
    shown = console.export_text()
    assert "41.0 ± 1.6" in shown
    assert "the commonest answer" in shown


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "5 seeds"),
        ({"fraction": 0.25}, "25 % of the training samples"),
        ({"prefixes": False}, "all methods without hard prompts"),
        ({"prefixes": True}, "all methods with the same hard prompts"),
        ({"scored": "val"}, "scored once on val"),
    ],
)
def test_the_notes_say_how_it_was_measured(
    folder: Path, change: dict[str, Any], words: str
) -> None:
    state = json.loads((folder / STATE).read_text())
    write_sealed(folder / STATE, {**state, **change})
    assert words in " ".join(summarise(folder).notes)


def test_one_seed_has_no_spread_and_no_verdict_and_its_json_is_json(
    tmp_path: Path, scored: Callable[..., Any]
) -> None:
    root = build(tmp_path, scored, seeds=1)
    summary = summarise(root)
    assert {line.verdict for line in summary.rows} == {None, "unknown"}
    files = write(table(summary), root)
    found = json.loads(files[2].read_text(), parse_constant=pytest.fail)
    assert found["rows"][1]["headline"]["sd"] is None
    assert found["rows"][1]["difference"]["high"] is None
    assert "+5.0 unknown | unknown |" in files[0].read_text()


def test_a_lone_row_is_the_reference(tmp_path: Path, scored: Callable[..., Any]) -> None:
    (line,) = summarise(build(tmp_path, scored, rows=("vl-adapter",))).rows
    assert (line.difference, line.verdict) == (None, None)


def test_an_unfinished_measurement_is_no_table(folder: Path) -> None:
    (folder / "runs" / "vl-lora" / "seed-3" / "record.json").unlink()
    with pytest.raises(RunError, match=r"vl-lora/seed-3 holds no complete run.*--resume"):
        summarise(folder)
    (folder / STATE).write_text("{")
    with pytest.raises(RunError, match=r"multitask\.json is damaged"):
        summarise(folder)
    (folder / STATE).unlink()
    with pytest.raises(RunError, match=r"holds no measurement \(multitask\.json is missing"):
        summarise(folder)

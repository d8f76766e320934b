"""The transfer table against recomputation from the runs' files, and verdicts on constructed cells."""

from __future__ import annotations

import csv
import io
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from builders.tables import rows_of
from petiole.claims import table as claimed_table
from petiole.errors import RunError
from petiole.files import write_sealed
from petiole.protocols.protocol import ComparisonRow
from petiole.protocols.transfer import PAPER, Transfer, TransferCell
from petiole.report import table as tables
from petiole.report.transfer import COLUMNS, sentences, summarise, table

N, SEEDS = 60, 3
STUDENT_3 = 3.182446305284263  # t quantile of 0.975, three degrees of freedom
LABELS = {"head-only": "Head only", "full": "Full fine-tuning", "adaptertune": "AdapterTune"}

# Test images that a row gets wrong, by cell; one image more in the last seed, so that there is an sd.
WRONG = {
    ("pets", "vit_s.augreg_in1k"): {"head-only": 40, "full": 40, "adaptertune": 5},
    ("pets", "vit_b.augreg_in1k"): {"head-only": 41, "full": 6, "adaptertune": 5},
    ("food101", "vit_s.augreg_in1k"): {"head-only": 42, "full": 9, "adaptertune": 5},
    ("food101", "vit_b.augreg_in1k"): {"head-only": 31, "full": 5, "adaptertune": 30},
}
VERDICTS = {  # on the reference, against head-only and full
    "head-only": ["win", "win", "win", "undecided"],
    "full": ["win", "undecided", "undecided", "loss"],
}


def write_cells(build, cells=WRONG, *, rows=tuple(LABELS), reference="adaptertune") -> Path:
    for (data, backbone), wrong in cells.items():

        def correct(row: str, _: int, seed: int, wrong=wrong) -> np.ndarray:
            return np.arange(N) >= wrong[row] + (seed == SEEDS - 1)

        build.comparison(
            f"{data}/{backbone}",
            correct,
            rows,
            split_seeds=1,
            seeds=SEEDS,
            reference=reference,
            baseline=rows[0],
            labels=LABELS,
            vectors=False,
        )
    wanted = Transfer(
        cells=[TransferCell(data=d, backbone=b, terms={}) for d, b in WRONG],
        rows=[ComparisonRow(name=name, label=LABELS[name], method=name) for name in rows],
        seeds=SEEDS,
        reference=reference,
        baseline=rows[0],
    )
    wanted.write(build.root)
    return build.root


@pytest.fixture(scope="module")
def folder(make_build) -> Path:
    return write_cells(make_build("transfer"))


def naive_accuracies(folder: Path, data: str, backbone: str, row: str) -> list[float]:
    found = []
    for seed in range(SEEDS):
        run = folder / data / backbone / "runs" / row / f"split-0-seed-{seed}"
        rows = rows_of(run / "predictions.csv")
        found.append(sum(r["label"] == r["prediction"] for r in rows) / len(rows))
    return found


def test_accuracies_are_those_of_the_predictions(folder: Path) -> None:
    summary = summarise(folder)
    flat = {
        (r["data"], r["backbone"], r["name"]): r
        for r in csv.DictReader(io.StringIO(tables.to_csv(table(summary))))
    }
    assert len(flat) == len(summary.rows) == 3 * len(WRONG)
    text = tables.to_markdown(table(summary))
    for (data, backbone), wrong in WRONG.items():
        reference = statistics.fmean(naive_accuracies(folder, data, backbone, "adaptertune"))
        for row in wrong:
            mine = naive_accuracies(folder, data, backbone, row)
            mean, sd = statistics.fmean(mine), statistics.stdev(mine)
            got = flat[data, backbone, row]
            assert float(got["accuracy"]) == pytest.approx(mean, abs=1e-12)
            assert float(got["accuracy_sd_over_seeds"]) == pytest.approx(sd, abs=1e-12)
            assert f"| {LABELS[row]} | {100 * mean:.1f} ± {100 * sd:.1f} |" in text
            if row == "adaptertune":
                assert got["difference"] == got["p_holm"] == got["verdict"] == ""
            else:
                assert float(got["difference"]) == pytest.approx(mean - reference, abs=1e-12)


def test_wins_ties_and_losses_are_counted_over_cells(folder: Path) -> None:
    summary = summarise(folder)
    for v in summary.versus:
        wanted = VERDICTS[v.name]
        assert (v.wins, v.ties, v.undecided, v.losses) == tuple(
            wanted.count(word) for word in ("win", "tie", "undecided", "loss")
        )
        gains = [
            statistics.fmean(naive_accuracies(folder, *cell, "adaptertune"))
            - statistics.fmean(naive_accuracies(folder, *cell, v.name))
            for cell in WRONG
        ]
        half = STUDENT_3 * statistics.stdev(gains) / math.sqrt(len(gains))
        assert v.gain.mean == pytest.approx(statistics.fmean(gains), abs=1e-12)
        assert v.gain.low == pytest.approx(statistics.fmean(gains) - half, abs=1e-9)
    opposite = {"worse": "win", "better": "loss"}
    for name, wanted in VERDICTS.items():
        got = [one.row.versus.verdict for one in summary.rows if one.row.name == name]
        assert [opposite.get(word, word) for word in got] == wanted


def test_the_sentences_say_so_and_add_what_was_published(folder: Path) -> None:
    first, second, *published = sentences(summarise(folder))
    assert "against Head only: 3 wins, 0 ties, 1 undecided, 0 losses over 4 pairs" in first
    assert "against Full fine-tuning: 1 wins, 0 ties, 2 undecided, 1 losses over 4" in second
    assert f"mean gain {100 * (35 + 36 + 37 + 1) / 4 / N:+.1f} points [" in first
    claims = claimed_table(PAPER)["claims"]
    assert len(published) == len(claims) == 2
    for line, claim in zip(published, claims, strict=True):
        assert claim["says"] in line
        assert claim["doubt"] in line, "no claim without its doubt"


def test_costs_are_those_of_the_records(make_build) -> None:
    build = make_build("costs")
    folder = write_cells(build, dict(list(WRONG.items())[:1]))
    data, backbone = next(iter(WRONG))
    for seed, (memory, took) in enumerate(((700.0, 30.0), (950.0, 10.0), (800.0, 20.0))):
        run = folder / data / backbone / "runs/full" / f"split-0-seed-{seed}"
        record = json.loads((run / "record.json").read_text())
        record["costs"] |= {"peak_memory_mb": memory, "train_seconds": took}
        record["costs"]["adapter_bytes"] = 88_000_000
        record["ledger"] |= {"trainable": 22_000_000, "inference": 21_900_000}
        record["ledger"] |= {"flops_forward": 9_200_000_000, "flops_training": 27_600_000_000}
        write_sealed(run / "record.json", record)
    summary = summarise(folder)
    row = next(r for r in tables.to_dict(table(summary))["rows"] if r["name"] == "full")
    assert row["images"] == N
    want = {
        "trainable": 22_000_000,
        "inference": 21_900_000,
        "stored_bytes": 88_000_000,
        "flops_forward": 9_200_000_000,
        "flops_training": 27_600_000_000,
        "peak_memory_mb": 800.0,  # medians over the seeds
        "train_seconds": 20.0,
    }
    assert {name: row[name] for name in want} == want
    line = next(
        line for line in tables.to_markdown(table(summary)).splitlines() if "Full fine" in line
    )
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    shown = dict(zip((c.title for c in COLUMNS), cells, strict=True))
    assert {title: shown[title] for title in list(shown)[-7:]} == {
        "Trained": "22,000,000",
        "Kept for prediction": "21,900,000",
        "Stored": "88.0 MB",
        "Forward, one image": "9.20 GFLOPs",
        "Training, one image": "27.6 GFLOPs",
        "Peak memory, MB": "800",
        "Training, s": "20.0",
    }


def test_unfinished_cells_are_left_out_and_named(make_build) -> None:
    build = make_build("unfinished")
    folder = write_cells(build, dict(list(WRONG.items())[:2]))
    (folder / "pets/vit_b.augreg_in1k/runs/full/split-0-seed-1/record.json").unlink()
    summary = summarise(folder)
    assert {(one.data, one.backbone) for one in summary.rows} == {("pets", "vit_s.augreg_in1k")}
    rest = ["/".join(cell) for cell in list(WRONG)[1:]]
    assert summary.unfinished == rest
    assert sentences(summary)[-1].endswith(f"not in the table: {', '.join(rest)}.")
    [gain, _] = summary.versus
    assert math.isnan(gain.gain.sd)
    assert "[" not in sentences(summary)[0], "one cell has no interval"
    written = json.dumps(tables.to_dict(table(summary)), allow_nan=False)
    assert json.loads(written)["versus"][0]["gain"]["sd"] is None


def test_nothing_finished_is_an_empty_table(make_build) -> None:
    summary = summarise(write_cells(make_build("empty"), {}))
    assert (summary.rows, summary.versus) == ([], [])
    assert tables.to_csv(table(summary)) == ""
    assert len(summary.unfinished) == 4


def test_other_methods_have_no_claims_beside_them(make_build) -> None:
    cells = dict(list(WRONG.items())[:1])
    build = make_build("others")
    rows = ("head-only", "full")
    summary = summarise(write_cells(build, cells, rows=rows, reference="full"))
    assert summary.reference == "Full fine-tuning"
    assert summary.claims == []
    assert not any("Published" in line for line in sentences(summary))


def test_runs_on_other_images_are_refused(make_build) -> None:
    build = make_build("images")
    folder = write_cells(build, dict(list(WRONG.items())[:1]))
    build.per_class -= 1
    run = folder / "pets/vit_s.augreg_in1k/runs/full/split-0-seed-0"
    (run / "test_evaluations.jsonl").unlink()
    build.run(run, np.ones(N - 3, dtype=bool))
    with pytest.raises(RunError, match="full/split-0-seed-0 was tested on other images"):
        summarise(folder)


def test_files_and_terminal(folder: Path, tmp_path: Path) -> None:
    summary = summarise(folder)
    tables.write(table(summary), tmp_path)
    assert (tmp_path / "table.md").read_text() == tables.to_markdown(table(summary))
    assert (tmp_path / "table.csv").read_text() == tables.to_csv(table(summary))
    assert json.loads((tmp_path / "table.json").read_text()) == tables.to_dict(table(summary))
    console = Console(width=80, file=io.StringIO())
    console.print(tables.to_rich(table(summary)))
    said = console.file.getvalue()
    assert max(map(len, said.splitlines())) <= 80
    assert "reference" in said


def test_odd_names_stay_in_their_cells(make_build) -> None:
    build = make_build("odd")
    odd = {("a|b", "<i>v"): next(iter(WRONG.values()))}
    folder = write_cells(build, odd)
    wanted = Transfer.read(folder)
    cell = TransferCell(data="a|b", backbone="<i>v", terms={})
    wanted.model_copy(update={"cells": [cell]}).write(folder)
    line = tables.to_markdown(table(summarise(folder))).splitlines()[2]
    assert line.startswith("| a\\|b | &lt;i>v | Head only |")

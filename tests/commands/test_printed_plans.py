"""What verbs print that rank, plan, simulate and examine, whole."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from builders.printed import RUN, cells, printed
from petiole.commands.backbones import Backbones
from petiole.commands.doctor import Check, DoctorReport
from petiole.commands.label import LabelResult, ToLabel
from petiole.commands.multitask import Multitasked
from petiole.commands.plan import Planned
from petiole.commands.results import TableResult
from petiole.commands.simulate import Simulated, _duration
from petiole.commands.transfer import Transferred


def test_images_to_label_are_shown_up_to_twenty() -> None:
    rows = [ToLabel(path=f"{i}.png", cluster=i, size=i + 1, typicality=0.5) for i in range(22)]
    result = LabelResult(
        folder=RUN, csv=RUN / "label.csv", report=RUN / "report.html", backbone="b", images=9,
        labelled=1, chosen=rows,
    )  # fmt: skip
    lines = printed(result)
    assert [cells(line) for line in lines[:3]] == [
        ["label next", "stands for"],
        ["0.png", "1 image"],
        ["1.png", "2 images"],
    ]
    assert lines[20].startswith("19.png")
    assert lines[21:] == [
        "… and 2 more",
        "list     runs/a b/label.csv",
        "page     runs/a b/report.html",
    ]
    whole = result.model_copy(update={"chosen": rows[:20]})
    assert printed(whole)[21] == "list     runs/a b/label.csv", "nothing more"


def test_ranked_backbones() -> None:
    row = {
        "name": "vit", "accuracy": 0.8765, "low": 0.8, "high": 0.9, "images": 34, "parameters": 5_678_000,
        "megabytes": 12.34, "gflops": 1.234, "seconds": 5.67, "licence": "MIT",
    }  # fmt: skip
    result = Backbones(backbones=[row], unusable={"none": "not here"})
    assert [cells(line) for line in printed(result)] == [
        ["backbone", "accuracy, %", "M params", "MB", "GFLOPs", "seconds", "licence"],
        ["vit", "87.6 ± 5.0", "5.7", "12.3", "1.23", "5.7", "MIT"],
        ["of 34 left-out target images, by the averaged ridge"],
        ["note", "none: not here"],
    ]


def test_a_plan() -> None:
    rows = [
        {"label": "ridge", "spread": 1.234, "spread_of_seeds": 0.5, "draws": 12, "draws_with_more_seeds": 7},
        {"label": "knn", "spread": 0.0, "spread_of_seeds": None, "draws": 2, "draws_with_more_seeds": None},
    ]  # fmt: skip
    result = Planned(reference="ours", difference=1.5, power=0.8, rows=rows)
    assert [cells(line) for line in printed(result)] == [
        ["against ours", "spread", "of seeds", "draws", "with 3 x the seeds"],
        ["ridge", "1.23", "0.50", "12", "7"],
        ["knn", "0.00", "2"],
        ["draws that find 1.5 points with a chance of 80 % (paired t test, 5 %)"],
    ]


def test_a_simulation() -> None:
    stages = {"decoding": 59.5, "network": 7300.0, "writing": 0.0015}
    result = Simulated(
        work="features", seconds=7300.0, bottleneck="network", stages=stages, cost=1234.567,
        costs={}, notes=["n"],
    )  # fmt: skip
    assert [cells(line) for line in printed(result)] == [
        ["stage", "alone"],
        ["network", "2.0 h"],
        ["decoding", "59.5 s"],
        ["writing", "1.5 ms"],
        ["takes", "2.0 h"],
        ["held by", "network"],
        ["costs", "1,234.57"],
        ["note", "n"],
    ]
    never = Simulated(
        work="requests", seconds=None, bottleneck="x", stages={"a": 0.12345}, cost=None, costs={}, notes=[]
    )  # fmt: skip
    assert [cells(line) for line in printed(never)] == [
        ["stage", "busy"],
        ["a", "0.123"],
        ["takes", "never: more come than can be answered"],
        ["held by", "x"],
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.0 ms"), (1.999, "1,999.0 ms"), (2.0, "2.0 s"), (119.9, "119.9 s"), (120.0, "2.0 min"),
        (7199.0, "120.0 min"), (7200.0, "2.0 h"), (172_799.0, "48.0 h"), (172_800.0, "2.0 days"),
        (63_115_199.0, "730.5 days"), (63_115_200.0, "2.0 years"), (1e12, "31,688.1 years"),
    ],
)  # fmt: skip
def test_durations_are_in_the_unit_in_which_they_are_read(seconds: float, shown: str) -> None:
    assert _duration(seconds) == shown


def test_a_doctor_s_report() -> None:
    checks = [Check(name=n, level=n, finding=f"it is {n}") for n in ("ok", "note", "bad")]
    assert [cells(line) for line in printed(DoctorReport(checks=checks))] == [
        ["ok", "ok", "it is ok"],
        ["note", "note", "it is note"],
        ["bad", "bad", "it is bad"],
    ]
    assert not DoctorReport(checks=checks).ok
    assert DoctorReport(checks=checks[:2]).ok


def test_a_table_and_what_lies_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from petiole.report.table import plain

    shown = plain(["Row", "Score"], [["a", "1"]], notes=["a note"], stressed=0)
    monkeypatch.setattr(TableResult, "table", lambda _: shown)
    monkeypatch.setattr(Transferred, "table", lambda _: shown)
    rows = SimpleNamespace(protocol=SimpleNamespace(rows=[SimpleNamespace(name="first")]))
    for kind, places in (
        (TableResult, ["runs     f/runs"]),
        (Transferred, ["cells    f"]),
        (
            Multitasked,
            [
                "adapter  f/runs/first/seed-0/adapter",
                'next     petiole predict f/runs/first/seed-0/adapter IMAGE --question "..."',
            ],
        ),
    ):
        lines = printed(kind(folder=Path("f"), summary=rows))
        assert lines[-len(places) - 2 :] == ["a note", "table    f/table.md", *places]
        assert "<table>" in kind(folder=Path("f"), summary=rows)._repr_html_()

"""What results print, whole: every number in its place, both sides of every branch."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from petiole.commands.backbones import Backbones
from petiole.commands.cache import Cache
from petiole.commands.check import CheckResult
from petiole.commands.diff import DiffResult
from petiole.commands.doctor import Check, DoctorReport
from petiole.commands.evaluate import Evaluation, ece_of, reached
from petiole.commands.export import Exported
from petiole.commands.features import Extracted
from petiole.commands.fit import FitResult, scores_line, scores_table
from petiole.commands.fold import FoldedAdapter, FoldedSpeaker
from petiole.commands.import_dassl import ImportedAdapter
from petiole.commands.inspect import Inspection
from petiole.commands.kinds import SERVED
from petiole.commands.label import LabelResult, ToLabel
from petiole.commands.merge import Merged
from petiole.commands.multitask import Multitasked
from petiole.commands.options import CommandResult
from petiole.commands.pair import PairResult
from petiole.commands.params import Params, _lines
from petiole.commands.plan import Planned
from petiole.commands.predict import Prediction, PredictResult
from petiole.commands.push_to_hub import Pushed
from petiole.commands.report import ReportResult
from petiole.commands.reproduce import Reproduced, ReproducedShares, ReproducedTable
from petiole.commands.results import TableResult
from petiole.commands.sign import Signed
from petiole.commands.simulate import Simulated, _duration
from petiole.commands.synthesize import SynthesizeResult
from petiole.commands.transfer import Transferred
from petiole.commands.verify import Verified
from petiole.metrics.intervals import t_interval
from petiole.protocols.reproduction import ClaimResult
from petiole.protocols.shares import Share

RUN = Path("runs/a b")


def printed(result: CommandResult | Any) -> list[str]:
    """Lines of a wide terminal without colours."""
    stream = io.StringIO()
    Console(file=stream, width=200, no_color=True).print(
        result.text() if isinstance(result, CommandResult) else result
    )
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def cells(line: str) -> list[str]:
    """What stands in a row of a table, columns being two spaces apart."""
    return [one.strip() for one in line.split("  ") if one.strip()]


# --- fit ----------------------------------------------------------------------------------------

IMAGES = {"accuracy": 0.8125, "macro_accuracy": 0.75, "ece": 0.0625, "nll": 0.5, "n": 1234.0}


def fitted(
    kind: str, scores: dict[str, dict[str, float]], notes: tuple[str, ...] = (), **more: Any
) -> FitResult:
    record = {
        "request": {"kind": kind, "data": {"classes": ["a", "b"], "notes": list(notes)}},
        "ledger": {
            "trainable": 12345,
            "trainable_percent_of_backbone": 0.45678,
            "inference": 6789,
        },
        "scores": scores,
        "selection": "last step",
        "test_evaluations": 3,
    }
    return FitResult(
        folder=RUN, adapter=RUN / "adapter", report=RUN / "report.html", record=record, **more
    )


TRAINED = "trained  12,345 parameters (0.457 % of the backbone's), 6,789 kept for prediction"


def test_a_fit_of_photos() -> None:
    chosen = {"method": None, "backbone": "b", "notes": ["lr was chosen"], "settings": {}}
    result = fitted("classification", {"test": IMAGES}, ("one is left out",), selection=chosen)
    assert printed(result) == [
        "81.25 % correct on 1,234 held-back images (macro 75.00 %, ECE 0.062, last step, test set "
        "opened 3x)",
        TRAINED,
        "auto     lr was chosen",
        "note     one is left out",
        "adapter  runs/a b/adapter",
        "report   runs/a b/report.html",
        "next     petiole predict 'runs/a b/adapter' IMAGE",
    ]


def test_a_fit_of_numbers() -> None:
    result = fitted("regression", {"test": {"r2": 0.87654, "mae": 1.23456, "n": 1.0}})
    assert printed(result) == [
        "r2 0.8765, mae 1.235 on 1 image; last step",
        TRAINED,
        "adapter  runs/a b/adapter",
        "report   runs/a b/report.html",
        "next     petiole predict 'runs/a b/adapter' IMAGE",
    ]
    assert str(scores_line({"r2": 1.0, "n": 2.0})) == "r2 1 on 2 images"


@pytest.mark.parametrize("kind", ["text", "codebook"])
def test_a_fit_of_questions(kind: str) -> None:
    scores = {"some/vqa": {"accuracy": 12.34, "words_given": 5.0}, "nlvr": {"accuracy": 56.78}}
    lines = printed(fitted(kind, scores))
    assert [cells(line) for line in lines[:3]] == [
        ["vqa", "nlvr"],
        ["accuracy", "12.3", "56.8"],
        ["words, where explained", "5.0"],
    ]
    assert lines[3] == TRAINED
    assert lines[-1] == "next     petiole predict 'runs/a b/adapter' IMAGE --question \"...\"", (
        "it answers questions"
    )
    assert [column.justify for column in scores_table(scores).columns] == ["left", "right", "right"]


# --- eval ---------------------------------------------------------------------------------------


def evaluated(kind: str, scores: dict[str, dict[str, float]], **more: Any) -> Evaluation:
    return Evaluation(
        adapter=RUN, data="d", kind=kind, scores=scores, samples=1000, test_evaluations=2, **more
    )


OPENED = "this set was opened 2x with this adapter"


def test_an_evaluation_of_photos_names_the_five_commonest_mistakes() -> None:
    scores = {
        "test": {**IMAGES, "n": 1.0},
        "fog 3": {"accuracy": 0.5},
        "pgd, 1/255": {"accuracy": 0.9},
    }
    confusion = [[99, 1, 2, 0], [3, 99, 4, 0], [5, 6, 99, 0], [0, 0, 0, 9]]
    classes = ["ash", "birch", "elm", "oak"]
    result = evaluated(
        "classification", scores, classes=classes, confusion=confusion, notes=["a note"]
    )
    assert printed(result) == [
        "81.25 % correct on 1 image (macro 75.00 %, ECE 0.062, NLL 0.500)",
        "50.00 % under fog 3 (-31.25)",
        "90.00 % under pgd, 1/255 (+8.75)",
        OPENED,
        "    6 x elm taken for birch",
        "    5 x elm taken for ash",
        "    4 x birch taken for elm",
        "    3 x birch taken for ash",
        "    2 x ash taken for elm",
        "a note",
    ]
    right = evaluated("classification", {"test": IMAGES}, classes=classes[:2], confusion=[[1, 0], [0, 1]])  # fmt: skip
    assert printed(right)[1:] == [OPENED], "no mistakes, none named"
    calibrated = {**IMAGES, "calibrated_nll": 0.25, "calibrated_ece": 0.01}
    assert (
        "(macro 75.00 %, ECE 0.010 calibrated, 0.062 before, NLL 0.250)"
        in printed(evaluated("classification", {"test": calibrated}, classes=classes))[0]
    )


def test_other_evaluations() -> None:
    served = evaluated(SERVED, {"test": {"f1": 0.5, "n": 7.0}}, notes=["x"])
    assert printed(served) == ["f1 0.5 on 7 images", OPENED, "x"]
    texts = evaluated("text", {"vqa": {"accuracy": 50.0}}, notes=["x"])
    assert [cells(line) for line in printed(texts)[:2]] == [["vqa"], ["accuracy", "50.0"]]
    assert printed(texts)[2:] == ["1,000 samples", OPENED, "x"]


def test_the_headline_of_uneven_classes_and_of_one() -> None:
    uneven = {"macro_accuracy": 0.5, "accuracy": 0.75, "ece": 0.1}
    assert (
        str(reached(uneven, ["a", "b"], "9 images", "more"))
        == "50.00 % macro accuracy over uneven classes on 9 images (accuracy 75.00 %, ECE 0.100, more)"
    )
    assert str(reached(uneven, ["moss"], "9 images", "more")) == (
        "There is one class only, moss: nothing to tell apart, so being correct on 9 images means nothing. "
        "Add images of what it is to be told from."
    )
    assert ece_of({"ece": 0.25}) == "ECE 0.250"


# --- predict ------------------------------------------------------------------------------------


def predicted(*rows: Prediction, notes: tuple[str, ...] = ()) -> PredictResult:
    return PredictResult(adapter=RUN, model="m", predictions=list(rows), notes=list(notes))


RANKED = {"ash": 0.5, "birch": 0.25, "elm": 0.125, "oak": 0.0625, "yew": 0.03125}


def test_predictions_with_the_three_next_labels() -> None:
    row = Prediction(path="a.png", label="birch", probability=0.25, probabilities=RANKED)
    lines = printed(predicted(row, notes=("calibrated",)))
    assert [cells(line) for line in lines[:2]] == [
        ["image", "label", "p", "next"],
        ["a.png", "birch", "0.250", "ash 0.500, elm 0.125, oak 0.062"],
    ]
    assert lines[2:] == ["note     calibrated"]
    first = row.model_copy(update={"label": "ash", "probability": 0.5})
    assert cells(printed(predicted(first))[1])[-1] == "birch 0.250, elm 0.125, oak 0.062"


def test_predictions_with_sets_and_marks_have_columns_for_them() -> None:
    plain = Prediction(path="a", label="ash", probability=0.5)
    sets = Prediction(path="b", label="ash", probability=0.5, label_set=["ash", "elm"])
    both = Prediction(path="c", label="ash", probability=0.5, outside=True, abstain=True)
    inside = Prediction(path="d", label="ash", probability=0.5, outside=False, abstain=False)
    assert [cells(line) for line in printed(predicted(plain, sets, both))] == [
        ["image", "label", "p", "next", "set", "mark"],
        ["a", "ash", "0.500"],
        ["b", "ash", "0.500", "ash, elm"],
        ["c", "ash", "0.500", "out of distribution, abstain"],
    ]
    assert "mark" not in printed(predicted(inside, plain))[0]
    assert predicted(plain, both).to_csv() == (
        "path,label,probability,question,outside,abstain\n"
        "a,ash,0.500000,,,\n"
        "c,ash,0.500000,,yes,yes\n"
    )
    assert predicted(inside, sets).to_csv() == (
        "path,label,probability,question,label_set,outside,abstain\n"
        "d,ash,0.500000,,,no,no\n"
        "b,ash,0.500000,,ash|elm,,\n"
    )
    assert predicted().to_csv() == "path,label,probability,question\n"


def test_answers_numbers_and_labels() -> None:
    answer = Prediction(path="", label="two", question="How many?")
    assert answer.answers
    assert printed(predicted(answer)) == ["two"]
    assert predicted(answer).to_csv() == "path,label,probability,question\n,two,,How many?\n"
    for more in (
        {"probability": 0.0},
        {"labels": []},
        {"value": 0.0},
        {"values": {}},
        {"shares": {}},
    ):
        row = Prediction(path="a", label="", **more)
        assert not row.answers
        assert cells(printed(predicted(row))[1])[:2] == ["a", "none"]
    assert Prediction(path="a", label="x").answers, "nothing else is said"
    numbers = [
        Prediction(path="a", label="1.5", value=1.5, values={"=w": 2.5, "h": 0.5}),
        Prediction(path="s3://b/=c", label="=0", value=0.0, values={"=w": 0.0, "h": 1.0}),
    ]
    assert predicted(*numbers).to_csv() == (
        "path,label,probability,question,value,value.=w,value.h\n"
        "a,1.5,,,1.5,2.5,0.5\n"
        "s3://b/=c,'=0,,,0.0,0.0,1.0\n"
    )


# --- the others ---------------------------------------------------------------------------------


def entry(**more: Any) -> dict[str, Any]:
    key = {"cut": ["block.1.out", "final.cls"], "view": 2, "dtype": "float16"}
    return {
        "digest": "0123456789abcdef",
        "key": key,
        "images": 1234,
        "bytes": 5_678_900,
        "damaged": 0,
        **more,
    }


def test_a_cache() -> None:
    result = Cache(folder=Path("c"), entries=[entry(), entry(key={}, damaged=1)], removed=1)
    assert [cells(line) for line in printed(result)] == [
        ["key", "cut", "view", "dtype", "images", "MB", "damaged"],
        ["0123456789", "block.1.out, final.cls", "2", "float16", "1,234", "5.7", "0"],
        ["0123456789", "key.json is damaged", "1,234", "5.7", "1"],
        ["c: 2 keys, 11.4 MB"],
        ["removed 1 file"],
    ]
    assert not result.ok
    sound = Cache(folder=Path("c"), entries=[entry()])
    assert sound.ok
    assert printed(sound)[-1] == "c: 1 key, 5.7 MB", "nothing was removed"


def test_a_contract() -> None:
    lines = [
        {"name": "accuracy", "value": 0.87654, "bound": 0.9, "at_least": True, "images": 1234, "ok": False},
        {"name": "ece", "value": 0.0123, "bound": 0.05, "at_least": False, "images": 7, "ok": True},
    ]  # fmt: skip
    result = CheckResult(
        adapter=RUN, contract=Path("c"), ok=False, test_evaluations=1, lines=lines, notes=["n"]
    )
    assert [cells(line) for line in printed(result)] == [
        ["value", "bound", "images"],
        ["accuracy", "0.877", ">= 0.9", "1,234", "FAIL"],
        ["ece", "0.012", "<= 0.05", "7", "pass"],
        ["note", "n"],
    ]


def test_a_difference() -> None:
    result = DiffResult(
        report=Path("d/report.html"), a=Path("one"), b=Path("two"), images=1, fixed=12, broken=3,
        accuracy=(0.5, 0.8125), classes=[], domains=[], layers={}, notes=["n"],
    )  # fmt: skip
    assert printed(result) == [
        "50.00 % -> 81.25 % correct on 1 image",
        "   12 fixed: wrong with one, right with two",
        "    3 broken: the other way round",
        "note     n",
        "page     d/report.html",
    ]


def exported(**more: Any) -> Exported:
    return Exported(
        folder=Path("o o"), format="onnx", files={"a": 2**20, "b": 2**19},
        largest_difference=0.000123, same_label=0.9876, images=34, approximate="", **more,
    )  # fmt: skip


def test_an_export() -> None:
    assert printed(exported()) == [
        "folder   o o (onnx, 1.5 MB)",
        "parity   logits differ by 0.00012 at most; 98.8% of 34 images get the same label",
    ]
    result = exported(accuracy=0.5, adapter_accuracy=0.75).model_copy(
        update={"approximate": "8 bits", "files": {"predict.py": 0}}
    )
    assert printed(result)[2:] == [
        "note     it is not exact: 8 bits",
        "accuracy 50.0%, and 75.0% of the adapter",
        "next     python 'o o/predict.py' IMAGE...",
    ]


def test_extracted_features() -> None:
    result = Extracted(
        cache=Path("c"), backbone="b", tokens=36, width=64, shard="1/1", images=1234, computed=1000,
        left_out=[], notes=["n"], megabytes=5678.91, seconds=12.34, digest="d1",
    )  # fmt: skip
    assert printed(result) == [
        "features 1,234 images, 1,000 of them new",
        "size     36 x 64 each, 5,678.9 MB in c",
        "digest   d1",
        "seconds  12.3",
        "note     n",
    ]
    part = result.model_copy(update={"shard": "2/3"})
    assert printed(part)[0] == "features 1,234 images, 1,000 of them new, shard 2/3"


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (
            FoldedAdapter(adapter=RUN, classes=7, values=1234),
            ["adapter  runs/a b (7 classes, 1,234 numbers)", "next     petiole predict 'runs/a b' IMAGE..."],
        ),
        (
            FoldedSpeaker(adapter=RUN, tasks=["vqa"], values=1234, before=5678),
            [
                "adapter  runs/a b (1,234 numbers; before 5,678)",
                "next     petiole predict 'runs/a b' IMAGE --question \"...\"",
            ],
        ),
        (
            ImportedAdapter(adapter=RUN, method="coop", classes=7),
            ["adapter  runs/a b (coop, 7 classes)", "next     petiole predict 'runs/a b' IMAGE..."],
        ),
        (
            Merged(backbone="vit", weights=Path("w.safetensors"), adapter=RUN),
            [
                "backbone w.safetensors (vit)",
                "adapter  runs/a b",
                "next     petiole predict 'runs/a b' IMAGE...",
            ],
        ),
        (
            PairResult(folder=RUN, texts=1000, width=2048),
            [
                "folder   runs/a b (1,000 texts, 2,048 numbers)",
                "next     petiole generalise IMAGES --backbone 'runs/a b'",
            ],
        ),
        (
            Pushed(name="hf/me/a", url="https://x"),
            ["adapter  hf/me/a", "commit   https://x", "next     petiole predict hf/me/a IMAGE..."],
        ),
        (ReportResult(report=RUN), ["report   runs/a b"]),
        (
            Signed(path=RUN, signatures=[Path("a.sig"), Path("b.sig")]),
            [
                "signed   a.sig",
                "signed   b.sig",
                "next     petiole verify 'runs/a b' --trusted PUBLIC-KEY",
            ],
        ),
        (
            Verified(files=[Path("a")], covered=[Path("b"), Path("c")]),
            ["verified a", "covered  b", "covered  c"],
        ),
        (
            SynthesizeResult(folder=RUN, task="species", style="", classes=3, samples=6, images=1234),
            [
                "folder   runs/a b (3 classes, 1,234 pictures)",
                "drawn    species, in the styles of pre-training",
                "next     petiole generalise 'runs/a b' --backbone petiole/tiny-lit",
            ],
        ),
        (
            SynthesizeResult(folder=RUN, task="masks", style="dark", classes=3, samples=6, images=6),
            [
                "folder   runs/a b (3 classes, 6 pictures)",
                "drawn    masks, dark",
                "next     petiole fit 'runs/a b' --backbone petiole/tiny-vit",
            ],
        ),
        (
            SynthesizeResult(folder=RUN, task="shapes", style="dark", classes=3, samples=6, images=6),
            [
                "folder   runs/a b (3 classes, 6 pictures)",
                "drawn    shapes, dark",
                "next     petiole generalise 'runs/a b' --backbone petiole/tiny-clip",
            ],
        ),
        (
            SynthesizeResult(folder=RUN, task="vqa", style="", classes=0, samples=1234, images=6),
            [
                "folder   runs/a b (1,234 samples, 6 pictures)",
                "drawn    vqa, in the styles of pre-training",
            ],
        ),
        (
            Inspection(what="x", facts={"a": 1, "long name": ("b", 2)}),
            ["x", " a          1", " long name  b, 2"],
        ),
    ],
)  # fmt: skip
def test_what_was_written_and_what_comes_next(result: CommandResult, lines: list[str]) -> None:
    assert printed(result) == lines


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


# --- reproduce ----------------------------------------------------------------------------------


def test_a_share_that_is_reproduced_or_not() -> None:
    result = Reproduced(
        name="t", claimed=0.92, source="abstract", doubt="of what?", accounting="one", ours=0.91714,
        agrees=True, others={"other": 1.5}, pairs={},
    )  # fmt: skip
    lines = printed(result)
    assert lines[:2] == [
        "t: claimed 0.92 (abstract), ours 0.9171: reproduced",
        "note     of what?",
    ]
    assert [cells(line) for line in lines[2:]] == [["accounting", "%"], ["one", "0.9171"], ["other", "1.5000"]]  # fmt: skip
    assert printed(result.model_copy(update={"agrees": False}))[0].endswith(": not reproduced")


def share(**more: Any) -> Share:
    terms = {"row": "LoRA", "tags": ("a", "b"), "claimed": 4.18, "trainable": 41_800, "total": 1_000_000,
             "alone": 500_000, "verdict": "reproduced", "note": ""}  # fmt: skip
    return Share(**{**terms, **more})


def test_shares_of_language_models() -> None:
    rows = (
        share(),
        share(tags=(), claimed=None, verdict="no claim"),
        share(claimed=4.0, verdict="differs", note="a slip"),
    )
    result = ReproducedShares(
        name="t",
        title="T",
        source="s",
        doubt="d",
        rows=rows,
        missing=("m",),
        sources={"a": "means"},
    )
    lines = printed(result)
    assert lines[:3] == ["t: T", "claimed  s", "note     d"]
    assert [cells(line) for line in lines[3:7]] == [
        ["method", "claimed", "trained", "total", "% total", "% LM alone", "verdict"],
        ["LoRA (a, b)", "4.18", "41,800", "1,000,000", "4.180", "8.360", "reproduced"],
        ["LoRA", "–", "41,800", "1,000,000", "4.180", "8.360", "no claim"],
        ["LoRA (a, b)", "4.00", "41,800", "1,000,000", "4.180", "8.360", "differs +0.180"],
    ]
    assert lines[7:] == ["note     LoRA: a slip", "source   a: means", "missing  m"]
    assert result.model_dump()["rows"][0]["percent_alone"] == pytest.approx(8.36)


def reproduced(claims: dict[str, dict[str, Any]], found: tuple[ClaimResult, ...] = ()) -> Any:
    return ReproducedTable(
        name="t", title="T", source="s", doubt="d", found=found, claims=claims, missing=("m",),
        folder=Path("f"), sources={},
    )  # fmt: skip


def test_a_table_beside_its_claims() -> None:
    one = ClaimResult("pets", "CoOp", "base", 0.8125, t_interval([0.5, 0.75]), "lower")
    claims = {"CoOp": {"pets": [1, 2, 3], "cars": {"mean": 5.0, "sd": 0.1}}, "Zero": {"cars": 7}}
    lines = [line for line in printed(reproduced(claims, (one,))) if line and "─" not in line]
    assert lines[:3] == ["t: T", "claimed  s", "note     d"]
    assert [cells(line) for line in lines[3:]] == [
        ["claimed", "pets", "cars"],
        ["CoOp", "1 / 2 / 3", "5.0 ± 0.1"],
        ["Zero", "–", "7"],
        ["data", "method", "claimed", "ours", "verdict"],
        ["pets", "CoOp", "base", "81.25", "62.50 ± 17.68", "lower"],
        ["runs", "f"],
        ["missing", "m"],
    ]
    empty = printed(reproduced(claims))
    assert not any("runs" in line for line in empty), "nothing was run"


def test_many_columns_give_way_to_the_average() -> None:
    def heads(places: int, average: bool = True, tags: tuple[str, str] = ("x", "x")) -> list[str]:
        row = {str(i): i for i in range(places)} | ({"average": 1} if average else {})
        claims = {f"row {tag}{i}": {**row, "seen in": tag} for i, tag in enumerate(tags)}
        found = [cells(line) for line in printed(reproduced(claims))]
        return next(row for row in found if row[:1] == ["claimed"] and row[1:2] != ["s"])

    assert heads(7) == ["claimed", *map(str, range(7)), "average"], (
        "the legend says where it is seen"
    )
    assert heads(8) == ["claimed", "average"]
    assert heads(9, average=False) == ["claimed", *map(str, range(9))]
    assert heads(6, tags=("x", "y")) == ["claimed", *map(str, range(6)), "average", "seen in"]


# --- params -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "value", "lines"),
    [
        ("parts", {"a_b": 1234}, [("part: a b", "1,234")]),
        ("trained parts", {"a": 1}, [("trained part: a", "1")]),
        ("other", {"a": 1}, []),
        ("flops forward", 1_234_567_890, [("flops forward (G, one image)", "1.2346")]),
        ("flops classes", 0, [("flops classes (G, all class names)", "0.0000")]),
        ("flops backbone", None, []),
        ("trainable percent of total", 1.23456, [("trainable % of total", "1.235")]),
        ("head", 12_345, [("head", "12,345")]),
        ("cut", ["a", "b"], [("cut", "a, b")]),
        ("cut", [], []),
        ("none", None, []),
    ],
)
def test_rows_of_a_ledger(words: str, value: Any, lines: list[tuple[str, str]]) -> None:
    assert list(_lines(words, value, "one image")) == lines


def test_the_ledger_of_a_question() -> None:
    flops = dict.fromkeys(
        ("encoder", "quantiser", "projector", "prefill", "per_token", "decoding", "language"), 0
    )
    whole = {**flops, "total": 4_000_000_000, "image_tokens": 16, "text_tokens": 32, "answer_tokens": 8,
             "image_percent_of_language_flops": 33.33}  # fmt: skip
    pruned = {**whole, "total": 3_000_000_000, "image_tokens": 12, "keep": 0.75,
              "image_percent_of_language_flops": 25.0}  # fmt: skip
    counts = {"parts": {"codes": 3}, "unit": {"images": 2}, "flops_forward": 2_000_000_000,
              "flops_question": whole, "flops_pruned": pruned}  # fmt: skip
    result = Params(of_backbone="vlm", of_method="craft", of={"text_tokens": 32, "answer_tokens": 8}, counts=counts)  # fmt: skip
    lines = printed(result)
    text = "\n".join(lines)
    assert text.replace("\n", " ").startswith("craft on vlm, 32 text tokens, 8 answer tokens ")
    rows = [[c.strip() for c in line.strip("│┃").replace("┃", "│").split("│")] for line in lines]
    for row in (
        ["part: codes", "3"],
        ["unit: images", "2"],
        ["flops forward (G, one image)", "2.0000"],
        ["", "all tokens", "keep 0.75", "change in % of all"],
        ["image tokens", "16", "12", ""],
        ["answer tokens", "8", "8", ""],
        ["per token", "0.000000", "0.000000", ""],
        ["total", "4.000000", "3.000000", "-25.0"],
        ["image tokens, % of language", "33.3", "25.0", ""],
    ):
        assert row in rows, (row, text)
    assert "VL-Adapter's tables" in text
    assert "An image is seen once" in text
    assert result.model_dump() == {"of_backbone": "vlm", "of_method": "craft", "text_tokens": 32, "answer_tokens": 8, **counts}  # fmt: skip
    plain = Params(of_backbone="vit", of_method="ridge", of={"classes": 7}, counts={
        "parts": {}, "unit": {"samples": 1}, "flops_forward": 1, "flops_question": None})  # fmt: skip
    text = "\n".join(printed(plain))
    assert "ridge on vit, 7 classes" in text
    assert "one sample" in text
    assert "VL-Adapter" not in text
    assert "An image is seen once" not in text

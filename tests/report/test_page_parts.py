"""Parts of pages, whole, from records that are stated here: facts, tiles, ledes, galleries and tables of runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from petiole.data.dataset import Dataset, Sample
from petiole.data.preprocessing import Preprocessing
from petiole.engine.record import RECORD, Record, RunRequest
from petiole.errors import RunError
from petiole.metrics.intervals import Interval, t_interval
from petiole.protocols.protocol import RowsProtocol, rows_of
from petiole.report import page, page_diff, page_label, page_photos, page_scores, sections
from petiole.report.flips import Flips
from petiole.report.page_diff import AdapterOnImages, group_rows
from petiole.report.page_photos import by_class, domain_distances
from petiole.report.runs import RowRuns, read_runs
from petiole.report.sections import Fact
from petiole.report.table import NOTHING
from petiole.tasks.classification.predictions import StoredPredictions
from petiole.tasks.classification.spectrum import BlockChange


def record(kind: str = "classification", **more: Any) -> Any:
    """A record of made-up numbers; ``more`` goes to wherever it belongs."""
    ledger = {"backbone": 22_000_000, "adapters": 1000, "head": 234, "training_only": None, "trainable": 1234,
              "inference": 1200, "total": 22_001_234, "trainable_percent_of_backbone": 0.00561,
              "trainable_percent_of_backbone_and_trainable": 0.00561, "trainable_percent_of_full_fine_tuning": 1.5,
              "trainable_percent_of_language_model": None, "trainable_percent_of_encoder": None,
              "inference_percent_of_backbone": 25.0, "inference_percent_of_backbone_and_inference": 20.0,
              "adapters_percent_of_backbone": 0.5, "flops_forward": 12_250_000_000, "flops_above_cut": 500_000, "flops_training": 0}  # fmt: skip
    costs = {"feature_seconds": 1.5, "train_seconds": 123.4, "test_seconds": 0.012, "peak_memory_mb": 812.5,
             "adapter_bytes": 4936, "flops_per_second": None, "utilisation": None}  # fmt: skip
    data = {"digests": {"train": "t0", "test": "e"}, "samples": {"source": 3000, "train": 3040, "test": 1234}, "classes": ["a", "b", "c", "d"],
            "tasks": [], "shots": 10, "split_seed": 0, "fraction": 1.0, "scored": "test", "notes": []}  # fmt: skip
    preprocessing = Preprocessing(
        size=(224, 192), crop=0.875, interpolation="bicubic", mean=(0.5,) * 3, std=(0.5,) * 3
    )
    request = {"kind": kind, "method": "lora", "settings": {"rank": 4, "blocks": "all"}, "seed": 0,
               "options": {"precision": "bf16", "dtype": "float16"}}  # fmt: skip
    backbone = {
        "name": "vit",
        "fingerprint": "f" * 8,
        "preprocessing": preprocessing,
        "vision_backbone": None,
    }
    found = {"id": "i0", "created": "now", "selection": "last step", "test_evaluations": 1, "diagnosis": {},
             "environment": {"torch": "2"}, "files": {}, "scores": {"test": {"accuracy": 0.8125, "macro_accuracy": 0.75, "ece": 0.0456}}}  # fmt: skip
    for name, value in more.items():
        for part in (ledger, costs, data, request, backbone, found):
            if name in part:
                part[name] = value
    found |= {"ledger": SimpleNamespace(**ledger), "costs": SimpleNamespace(**costs)}
    asked = RunRequest.model_construct(**request, backbone=SimpleNamespace(**backbone), data=SimpleNamespace(**data))  # fmt: skip
    return Record.model_construct(**found, request=asked)


def run(folder: str = "f", guesses: Any = (), labels: Any = (), p: Any = None, **more: Any) -> Any:
    guessed, true = np.array(guesses, dtype=int), np.array(labels, dtype=int)
    return SimpleNamespace(
        folder=Path(folder), record=record(**more), guesses=guessed, labels=true, correct=guessed == true,
        probabilities=p, log=more.get("log", []),
    )  # fmt: skip


def texts(table: Any) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.cells()]


def titles(table: Any) -> list[str]:
    return [column.title for column in table.columns]


# --- runs of a row ------------------------------------------------------------------------------


def test_seeds_of_a_split_are_averaged() -> None:
    labels = [0, 1, 0, 1]
    right = [[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1], [1, 1, 1, 0]]
    runs = [
        run(guesses=[y if ok else 1 - y for y, ok in zip(labels, row, strict=True)], labels=labels, train_seconds=float(i))
        for i, row in enumerate(right)
    ]  # fmt: skip
    row = RowRuns(rows_of(["ridge"])[0], runs, 2)
    assert row.correct.astype(int).tolist() == right
    wanted = np.array([[2, 1, 1, 1], [2, 2, 1, 1]]) / 3
    assert row.correct_by_split == pytest.approx(wanted)
    assert row.by_split(lambda r: r.costs.train_seconds).tolist() == [1.0, 4.0]
    assert row.median(lambda r: r.costs.train_seconds**2) == (4 + 9) / 2


class Terms(RowsProtocol):
    """Of rows alone."""

    STATE = "terms.json"


def test_runs_that_are_missing_are_named_up_to_ten(tmp_path: Path) -> None:
    protocol = Terms(rows=rows_of(["ridge", "knn"]), seeds=6)
    first = protocol.runs(tmp_path, "ridge")[0]
    first.mkdir(parents=True)
    (first / RECORD).write_text("")
    with pytest.raises(RunError) as told:
        read_runs(protocol, tmp_path)
    lines = str(told.value).splitlines()
    assert lines[0] == f"11 of 12 runs of {tmp_path} are not finished:"
    assert lines[1] == "  runs/ridge/seed-1"
    assert lines[11:] == ["  and 1 more", "Repeat the command that wrote it with --resume."]
    second = protocol.runs(tmp_path, "ridge")[1]
    second.mkdir()
    (second / RECORD).write_text("")
    with pytest.raises(RunError) as told:
        read_runs(protocol, tmp_path)
    assert "more" not in str(told.value)
    assert len(str(told.value).splitlines()) == 12


# --- tables and lists of runs -------------------------------------------------------------------

ROWS = [("Ours", [run(), run(seed=1, train_seconds=99.0, trainable=2345)]), ("Other", [run()])]


def test_parameters_and_percentages_of_rows() -> None:
    counts = sections.parameter_counts(ROWS)
    assert titles(counts) == ["Method", "Backbone, frozen", "Adapters", "Head", "Trained", "Kept for prediction", "Backbone and trained"]  # fmt: skip
    assert texts(counts)[0] == [
        "Ours",
        "22,000,000",
        "1,000",
        "234",
        "2,345",
        "1,200",
        "22,001,234",
    ]
    shares = sections.percentages(ROWS)
    assert titles(shares)[1:] == [
        "Trained, % of the backbone", "Trained, % of backbone + trained", "Trained, % of full fine-tuning (backbone + head)",
        "Kept for prediction, % of the backbone", "Kept for prediction, % of backbone + kept", "Adapters, % of the backbone",
    ]  # fmt: skip
    assert texts(shares)[1] == ["Other", "0.006", "0.006", "1.50", "25.00", "20.00", "0.500"]


def test_costs_are_medians_over_runs() -> None:
    made = sections.costs(ROWS)
    assert titles(made) == [
        "Method", "Features, s", "Training, s", "Scoring the test set, s", "Peak memory", "Adapter file", "Forward, one image",
        "of which repeated in training", "Training step, one image",
    ]  # fmt: skip
    assert texts(made) == [
        ["Ours", "1.5", "111", "0.01", "812 MB", "4.94 kB", "12.2 GFLOPs", "500 kFLOPs", "–"],
        ["Other", "1.5", "123", "0.01", "812 MB", "4.94 kB", "12.2 GFLOPs", "500 kFLOPs", "–"],
    ]
    assert made.cells()[0][2].value == pytest.approx(111.2)
    assert (
        titles(sections.costs([("T", [run(kind="codebook")])]))[-1] == "Training step, one question"
    )
    assert (
        titles(sections.costs([("T", [run(kind="regression")])]))[-1] == "Training step, one sample"
    )
    assert len(titles(sections.costs([("T", [run(flops_forward=0)])]))) == 6


def test_all_scores_of_a_run() -> None:
    photos = sections.all_scores(record())
    assert (titles(photos), texts(photos)) == (
        ["Task", "accuracy", "macro_accuracy", "ece"],
        [["test", "81.2", "75.0", "4.6"]],
    )
    codebook = sections.all_scores(
        record("codebook", scores={"m": {"em": 62.54}, "n": {"em": 7.0}})
    )
    assert (titles(codebook), texts(codebook)) == (["Language model", "em"], [["m", "62.5"], ["n", "7.0"]])  # fmt: skip
    mixed = sections.all_scores(record("text", scores={"vqa": {"acc": 41.26}, "cap": {"cider": 110.0}}))  # fmt: skip
    assert titles(mixed) == ["Task", "Metric", "Score"]
    assert texts(mixed) == [["vqa", "acc", "41.3"], ["cap", "cider", "110.0"]]
    numbers = sections.all_scores(record("regression", scores={"test": {"mae": 1.23456}}))
    assert texts(numbers) == [["test", "1.235"]]
    assert [sections.in_per_cent(record(k)) for k in ("classification", "text", "codebook", "regression")] == [True, True, True, False]  # fmt: skip


def test_what_was_measured_beside_scores() -> None:
    assert sections.measured(record(diagnosis={"x": 3})) is None
    made = sections.measured(record(diagnosis={"start": {"flip_rate": 0.0}, "at end": {"flip_rate": 0.25, "perplexity": 12345.678}}))  # fmt: skip
    assert made is not None
    assert titles(made) == ["Measure", "Start", "At end"]
    assert texts(made) == [["flip rate", "0", "0.25"], ["perplexity", "nan", "1.235e+04"]]
    assert not made.sortable


def test_facts_of_photos() -> None:
    facts = sections.facts([run(), run(seed=1), run(seed=1, split_seed=2)])
    assert facts == [
        Fact("Backbone", "vit"),
        Fact("Input", str(record().request.backbone.preprocessing)),
        Fact("Images", "3,000 source, 3,040 to train on (source and shots), 1,234 target test"),
        Fact("Classes", "4"),
        Fact("Shots", "10 target images a class"),
        Fact("Runs", "3: 2 split seeds, 2 seeds"),
        Fact("Model selection", "last step"),
        Fact("Test set scored", "once, by each run, at its end"),
        Fact("Arithmetic", "bf16, features kept as float16"),
    ]
    one = {
        fact.name: fact.text
        for fact in sections.facts([run(shots=None, preprocessing=None, test_evaluations=0, options={}), run(selection="best", test_evaluations=0)])
    }  # fmt: skip
    assert "Input" not in one
    assert one["Shots"] == "all target images"
    assert one["Runs"] == "2: 1 split seed, 1 seed"
    assert one["Model selection"] == "best, last step"
    assert one["Test set scored"] == "never"
    assert one["Arithmetic"] == "unknown, features kept as unknown"
    twice = sections.facts([run(), run(test_evaluations=2)])
    assert Fact("Test set scored", "up to 2 times by one run") in twice


def test_facts_of_texts() -> None:
    vision = SimpleNamespace(name="clip")
    options = {"precision": "fp32", "prefixes": True, "no_such": None, "parts": ["a", "b"], "pruning": {"keep": 0.5, "mode": "full"}, "empty": []}  # fmt: skip
    facts = sections.facts([run(kind="text", vision_backbone=vision, tasks=["vqa", "nlvr"], samples={"vqa/train": 1234}, fraction=0.25, options=options, split_seed=3)])  # fmt: skip
    assert facts == [
        Fact("Backbone", "vit"),
        Fact("Images are seen by", "clip"),
        Fact("Tasks", "vqa, nlvr"),
        Fact("Samples", "1,234 vqa/train"),
        Fact("Share of the training samples", "25 %"),
        Fact("Scored", "test"),
        Fact("Runs", "1: 1 seed"),
        Fact("Model selection", "last step"),
        Fact("Test set scored", "once, by each run, at its end"),
        Fact("Precision", "fp32"),
        Fact("Prefixes", "yes"),
        Fact("Parts", "a, b"),
        Fact("Pruning", "keep=0.5, mode=full"),
    ]
    assert sections._said(False) == "no"
    names = [fact.name for fact in sections.facts([run(kind="text")])]
    assert "Images are seen by" not in names
    assert "Share of the training samples" not in names


def test_machines_digests_settings_and_notes() -> None:
    runs = [run(notes=["n"]), run(environment={"torch": "3", "os": "x"}, digests={"train": "t1", "test": "e"}, split_seed=1, notes=["n", "m"]),
            run(digests={"train": "t1"}, split_seed=4)]  # fmt: skip
    assert sections.environment(runs) == [Fact("torch", "2, 3"), Fact("os", "–, x")]
    assert sections.hashes(runs) == [
        Fact("backbone", "f" * 8),
        Fact("training images, split seed 0", "t0"),
        Fact("training images, split seed 1, 4", "t1"),
        Fact("test images", "e"),
    ]
    assert sections.settings([("Ours", runs), ("Other", [run(settings={})])]) == [
        Fact("Ours", 'lora blocks="all" rank=4'),
        Fact("Other", "lora"),
    ]
    assert sections.notes(runs, ["first", "n"]) == ["first", "n", "m"]


def test_a_list_of_runs() -> None:
    made = sections.run_list(ROWS)
    assert titles(made) == ["Method", "Split seed", "Seed", "Accuracy, %", "Request", "Finished"]
    assert texts(made)[:2] == [["Ours", "0", "0", "81.25", "i0", "now"], ["Ours", "0", "1", "81.25", "i0", "now"]]  # fmt: skip
    assert [cell.style for cell in made.cells()[0]][-2:] == ["code", "code"]
    texts_ = sections.run_list([("T", [run(kind="text", scores={"a": {"acc": 50.0}, "b": {"acc": 25.5}})])])  # fmt: skip
    assert (titles(texts_), texts(texts_)) == (["Method", "Seed", "Score, %", "Request", "Finished"], [["T", "0", "37.75", "i0", "now"]])  # fmt: skip
    numbers = sections.run_list(
        [("R", [run(kind="regression", scores={"test": {"r2": 0.123456}})])]
    )
    assert (titles(numbers)[2], texts(numbers)[0][2]) == ("Score", "0.1235")


# --- pages --------------------------------------------------------------------------------------


def test_tiles_of_one_run() -> None:
    assert page.size_tiles(run()) == [
        Fact("1,234", "trained parameters, 0.006 % of backbone + trained"),
        Fact("123 s", "of training"),
    ]
    assert page._rate(run(flops_per_second=4.2e10)) == ", 42.0 GFLOP/s"
    assert page._rate(run(flops_per_second=4.2e10, utilisation=0.314)).endswith(", 31 % of a matrix product (MFU)")  # fmt: skip


def test_curves_are_of_runs_with_steps() -> None:
    log = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5}]
    assert page.loss_curves([run()]) == []
    assert page.loss_curves([run(log=log), run()])[0].caption == "Training loss."
    assert page.loss_curves([run(log=log)] * 2)[0].caption == "Training loss, 2 runs."


def test_the_page_of_a_run_of_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {"vqa": {"acc": 41.26}, "cap": {"cider": 110.0}}
    one = run(kind="text", scores=scores, samples={"vqa/train": 40, "cap/train": 1200, "cap/test": 30, "vqa/test": 5, "vqa/val": 7}, tasks=["vqa", "cap"])  # fmt: skip
    made = page_scores._run(one)
    assert made.lede.startswith(
        "lora reaches 41.3 % on vqa (acc) and 110.0 % on cap (cider). One run has"
    )
    assert made.tiles[:2] == [Fact("41.3 %", "acc, vqa"), Fact("110.0 %", "cider, cap")]
    assert len(made.tiles) == 4
    assert made.done == "lora was trained on the frozen vit with 1,240 samples (seed 0), and scored on 35 test samples."  # fmt: skip
    assert (made.kind, made.title, made.heading, made.galleries) == ("Run", "lora", "Scores", [])
    many = {name: {"acc": 50.0} for name in "abcde"}
    five = page_scores._run(run(kind="text", scores=many))
    assert "50.0 % on c (acc) and 2 more below." in five.lede
    assert [tile.text for tile in five.tiles[:5]] == ["acc, a", "acc, b", "acc, c", "acc, d", "trained parameters, 0.006 % of backbone + trained"]  # fmt: skip
    four = {name: {"acc": 50.0} for name in "abcd"}
    assert (
        "on c (acc) and 50.0 % on d (acc)." in page_scores._run(run(kind="text", scores=four)).lede
    )
    numbers = page_scores._run(run(kind="regression", scores={"test": {"r2": 0.87654}}))
    assert "reaches 0.877 on test (r2)" in numbers.lede
    monkeypatch.setattr(page_scores, "read_bytes", lambda path: path.name.encode())
    masks = run(kind="segmentation", files={"overlays/2.webp": "x", "overlays/1.webp": "y", "predictions.csv": "z"})  # fmt: skip
    (gallery,) = page_scores._overlays(masks)
    assert (gallery.title, gallery.wide) == ("Test images", True)
    assert [example.name for example in gallery.examples] == ["overlays/1.webp", "overlays/2.webp"]
    assert gallery.examples[0].thumbnail == "data:image/webp;base64,MS53ZWJw"


def test_dots_are_seeds_where_there_are_several() -> None:
    assert [page_scores._caption(n) for n in (1, 2)] == [
        "Mean and 95 % interval.",
        "Mean and 95 % interval, small dots are single seeds.",
    ]


PAIR = {"guesses": [0] * 6 + [1] * 2, "labels": [0] * 4 + [1] * 4}


def test_the_lede_of_a_run_of_photos() -> None:
    interval = Interval(0.75, 0.4, 0.5, 0.9, 1234, 0.95, "BCa")
    assert page_photos._run_lede(run(**PAIR), interval, "[50.0, 90.0]") == (
        "lora reaches 75.0 % on 1,234 test images (95 % interval over images [50.0, 90.0]; one run, so no interval between splits "
        "can be given). One number alone ranks nothing: compare it with the cheap baselines."
    )
    one = page_photos._run_lede(run(**PAIR, classes=["moss"]), interval, "")
    assert one.startswith("There is one class only, moss: lora had nothing to tell apart, and its answers on 1,234 test images")  # fmt: skip
    uneven = run(guesses=[0] * 90, labels=[0] * 80 + [2] * 10)
    assert page_photos._run_lede(uneven, interval, "[50.0, 90.0]").startswith(
        "lora reaches 75.0 % in the mean of the classes, which are uneven (10 to 80 test images), and 75.0 % on 1,234 test images"
    )


def test_what_a_run_of_photos_was_done_with() -> None:
    assert page_photos._run_done(run()) == (
        "lora was trained on the frozen backbone vit, with 3,000 source images and 10 target images of each of 4 classes at hand "
        "(split seed 0, seed 0), and scored on 1,234 held-back target images."
    )
    alone = page_photos._run_done(run(samples={"train": 39, "test": 7}, shots=10))
    assert "with up to 10 target images of each" in alone
    assert "with all target images of each" in page_photos._run_done(run(samples={"train": 39, "test": 7}, shots=None))  # fmt: skip
    assert page_photos._shots(record(samples={"train": 40, "test": 7}).request.data) == "10"
    assert page_photos._shots(record(samples={"source": 0, "train": 41, "test": 7}).request.data) == "up to 10"  # fmt: skip


def compared(methods: int = 2, split_seeds: int = 5, seeds: int = 1, **more: Any) -> Any:
    c = SimpleNamespace(shots=more.pop("shots", 10), split_seeds=split_seeds, seeds=seeds, rows=[1] * methods)  # fmt: skip
    return SimpleNamespace(comparison=c, runs=[run(**more)])


def test_what_a_comparison_was_done_with() -> None:
    end = "(4 classes) at hand{}, and scored on the same 1,234 held-back target images."
    start = "2 methods were trained on the frozen backbone vit, with 3,000 source images and 10 target images of each class "
    assert page_photos._comparison_done(compared()) == start + end.format(", over 5 draws of these shots")  # fmt: skip
    both = page_photos._comparison_done(compared(seeds=3))
    assert both == start + end.format(", over 5 draws of these shots and 3 seeds of each")
    assert page_photos._comparison_done(compared(split_seeds=1)) == start + end.format("")
    assert ", over 2 seeds of each, and" in page_photos._comparison_done(compared(split_seeds=1, seeds=2))  # fmt: skip
    every = page_photos._comparison_done(compared(1, shots=None, samples={"train": 9, "test": 8}))
    assert every == (
        "One method was trained on the frozen backbone vit, with all target images (4 classes) at hand, and scored on the same 8 "
        "held-back target images."
    )


def summary(**more: Any) -> Any:
    gain = SimpleNamespace(both=t_interval([0.0123]))
    row = SimpleNamespace(label="Ours", over_splits=t_interval([0.79, 0.81]), accuracy=t_interval([0.8]), macro=t_interval([0.7]),
                          gain=gain, percent_of_backbone_and_trainable=0.4567, trainable=1234, seconds=3.456, published=None)  # fmt: skip
    terms = {"headline": "ours", "split_seeds": 5, "uneven": False, "baseline": "base", "reference": "ours", "rows": [row],
             "row": lambda _: row}  # fmt: skip
    return SimpleNamespace(**{**terms, **more})


def test_tiles_of_a_comparison() -> None:
    tiles = page_photos._comparison_tiles(summary())
    assert tiles == [
        Fact("80.0 %", "accuracy, ± 1.4 over 5 splits"),
        Fact("+1.2", "points against Ours"),
        Fact("1,234", "trained parameters, 0.457 % of backbone + trained"),
        Fact("3.5 s", "of training, median"),
    ]
    uneven = page_photos._comparison_tiles(summary(uneven=True, split_seeds=1))
    assert uneven[:2] == [
        Fact("70.0 %", "mean accuracy of the classes, which are uneven"),
        Fact("80.0 %", "accuracy, one split"),
    ]
    assert page_photos._accuracy_caption(summary()) == (
        "Mean and 95 % interval, small dots are single splits; the line is Ours."
    )
    one = summary(split_seeds=1)
    one.rows[0].published = 0.0
    assert page_photos._accuracy_caption(one) == (
        "Mean and 95 % interval, diamonds the published values; the line is Ours."
    )


def test_confusion_is_summed_over_runs_and_errors_are_of_all() -> None:
    p = np.array([[0.9, 0.1, 0, 0]] * 6 + [[0.2, 0.8, 0, 0]] * 2)
    runs = [run(**PAIR, p=p, scores={"test": {"ece": 0.05}}), run(**PAIR, p=p, scores={"test": {"ece": 0.15}})]  # fmt: skip
    made = page_photos._by_class(runs)
    assert made["confusion"].caption.endswith("per cent of the row, over 2 runs.")
    assert texts(made["classes"])[:2] == [
        ["a", "4", "100.0", "66.7", "–"],
        ["b", "4", "50.0", "100.0", "a (50.0 %)"],
    ]
    assert [cell.value for cell in made["classes"].cells()[1]] == ["b", 8, 0.5, 1.0, 50.0]
    assert made["curves"][0].caption == "Reliability: calibration error 10.0 %; a dot grows with its images."  # fmt: skip
    assert page_photos._by_class(runs[:1])["confusion"].caption.endswith("per cent of the row.")
    none = by_class(np.array([[0, 0], [1, 0]]), ["x", "y"], 1)
    assert texts(none) == [
        ["x", "0", NOTHING, "0.0", "–"],
        ["y", "1", "0.0", NOTHING, "x (100.0 %)"],
    ]


def test_distances_of_domains_in_the_order_of_the_page() -> None:
    made = domain_distances(SimpleNamespace(before={"mmd2": 0.12345, "domain_accuracy": 1.0}, after={"mmd2": 0.0, "centroid_cosine": 0.5}))  # type: ignore[arg-type]  # fmt: skip
    assert [row[:3] for row in texts(made)] == [
        ["Domain classifier, accuracy", "1.000", NOTHING],
        ["Maximum mean discrepancy, squared", "0.123", "0.000"],
        ["Source to target mean of a class, cosine distance", NOTHING, "0.500"],
    ]
    assert not made.sortable


@pytest.mark.parametrize(("classes", "named"), [(12, 12), (13, 0)])
def test_a_map_names_twelve_classes_at_most(classes: int, named: int) -> None:
    diagnosis = SimpleNamespace(
        map_before=[(0.0, 0.0)] * 4, map_after=[(1.0, 1.0)] * 4, is_target=[True, False] * 2, labels=[0, 1, 2, 3],
        images={"source": 0, "target": 1234}, before={}, after={}, note="n",
    )  # fmt: skip
    made = page_photos._map(diagnosis, run(classes=[str(i) for i in range(classes)]))  # type: ignore[arg-type]
    assert made is not None
    assert len(made.colours) == named
    assert (made.images, made.sheet, made.note) == ("1,234 target", None, "n")
    assert [panel.caption for panel in made.panels] == ["Before, by class", "After, by class", "Before, by domain", "After, by domain"]  # fmt: skip
    diagnosis.map_after, diagnosis.before = [], {"mmd2": 1.0}
    empty = page_photos._map(diagnosis, run())  # type: ignore[arg-type]
    assert empty is not None
    assert (empty.panels, empty.colours) == ([], [])
    assert empty.sheet is not None
    assert page_photos._map(None, run()) is None


def test_galleries_say_how_many_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Flips(["x", "y"], ["z"], 1234, 1, 5000)  # type: ignore[arg-type]
    monkeypatch.setattr(page_photos, "flips", lambda *_: found)
    c = SimpleNamespace(baseline="b", headline="h", row=lambda name: SimpleNamespace(label=name.upper()))  # fmt: skip
    runs = SimpleNamespace(runs=[None])
    results: Any = SimpleNamespace(comparison=c, row=lambda _: runs, headline=runs)
    fixed, broken = page_photos._flip_galleries(results)
    assert (fixed.title, fixed.text) == ("Fixed", "1,234 of 5,000 test images: B wrong, H right; the 2 surest.")  # fmt: skip
    assert (broken.title, broken.text) == ("Broken", "1 of 5,000 test images: B right, H wrong.")
    c.headline = "b"
    assert page_photos._flip_galleries(results) == []


# --- two adapters on the same images ------------------------------------------------------------


def on_images(title: str, guesses: list[int], blocks: Any = ()) -> AdapterOnImages:
    p = torch.eye(3)[guesses]
    stored = StoredPredictions(probabilities=p, labels=torch.tensor([0, 0, 1, 1, 1]), ids=list("abcde"), paths=list("abcde"))  # fmt: skip
    return AdapterOnImages(title, f"m-{title}", stored, ["x", "y", "z"], list(blocks))


A = on_images(
    "A", [0, 1, 1, 0, 2], [BlockChange(role="block.10.out", energy=0.5, effective_rank=2.25)]
)
B = on_images("B", [1, 0, 1, 2, 2], [BlockChange(role="block.2.out", energy=0.12345, effective_rank=1.0)])  # fmt: skip


def test_flips_by_group() -> None:
    rows = group_rows(A, B, [0, 0, 1, 1, 1], ["x", "y", "z"])
    assert rows == [
        {"name": "x", "images": 2, "accuracy_a": 0.5, "accuracy_b": 0.5, "fixed": 1, "broken": 1, "other": 0},
        {"name": "y", "images": 3, "accuracy_a": 1 / 3, "accuracy_b": 1 / 3, "fixed": 0, "broken": 0, "other": 1},
    ]  # fmt: skip
    assert texts(page_diff._table(rows)) == [
        ["x", "2", "50.0", "50.0", "1", "1", "0"],
        ["y", "3", "33.3", "33.3", "0", "0", "1"],
    ]
    layers = page_diff._layers(A, B).table
    assert texts(layers) == [
        ["block.2.out", "–", "0.123", "–", "1.0"],
        ["block.10.out", "0.500", "–", "2.2", "–"],
    ]


def photos(domains: str = "stttt") -> Dataset:
    names = {"s": "source", "t": "target"}
    labels = (0, 0, 1, 1, 1)
    samples = tuple(Sample(Path(f"{i}.png"), label, str(i), names[d]) for i, (label, d) in enumerate(zip(labels, domains, strict=True)))  # fmt: skip
    return Dataset("photos", ("x", "y", "z"), samples)


def test_the_page_of_a_difference(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(page_diff, "render", lambda content: shown.append(content) or "<html>")
    file = page_diff.write_diff_page(tmp_path, A, B, photos())
    assert file.read_text() == "<html>"
    (made,) = shown
    assert made.lede == "On 5 images B gets 1 right that A does not, and 1 wrong that A has right."
    assert made.tiles == [Fact("40.0 %", "of A (m-A) right"), Fact("40.0 %", "of B (m-B) right"), Fact("2", "images turned right or wrong")]  # fmt: skip
    assert [sheet.title for sheet in made.sheets] == ["By class", "By domain", "Layer by layer"]
    assert texts(made.sheets[1].table) == [["source", "1", "100.0", "0.0", "0", "1", "0"], ["target", "4", "25.0", "50.0", "1", "0", "1"]]  # fmt: skip
    assert [gallery.text for gallery in made.galleries] == ["Wrong with A, right with B: 1; the surest 1.", "Right with A, wrong with B: 1; the surest 1."]  # fmt: skip
    bare = page_diff._sheets(on_images("A", [0] * 5), on_images("B", [0] * 5), photos("ttttt"))
    assert [sheet.title for sheet in bare] == ["By class"]
    one = page_diff._sheets(on_images("A", [0] * 5), B, photos("ttttt"))
    assert [sheet.title for sheet in one] == ["By class", "Layer by layer"]


def test_the_page_of_images_to_label_shows_two_hundred(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # fmt: skip
    shown: list[Any] = []
    monkeypatch.setattr(page_label, "render", lambda content: shown.append(content) or "<html>")
    monkeypatch.setattr(page_label, "thumbnail", lambda _: ("uri", True))
    samples = [Sample(Path(f"{i}.png"), 0, str(i)) for i in range(1001)]
    chosen = [SimpleNamespace(size=1000 + i) for i in range(1001)]
    page_label.write_label_page(tmp_path, samples, chosen, Dataset("photos", ("",), tuple(samples)))  # type: ignore[arg-type]
    (made,) = shown
    (gallery,) = made.galleries
    assert len(gallery.examples) == 200
    first = gallery.examples[0]
    assert (first.name, first.thumbnail, first.small, first.label, first.confidence) == ("0.png", "uri", True, "0.png, for 1,000", 0.0)  # fmt: skip
    assert made.tiles == [Fact("1,001", "images to label"), Fact("1,001", "images seen")]
    assert made.lede.startswith("These 1,001 of 1,001 images stand for the most others")

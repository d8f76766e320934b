"""Several labels and a number an image, from table to page by the command, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import petiole
from builders.cli import say
from builders.known import check_run
from petiole.data.splits import holdout, read_split
from petiole.data.targets import open_targets, value_matrix, value_names, value_text
from petiole.engine.record import read_record
from petiole.errors import DataError
from petiole.tasks.image_targets import VectorRun
from petiole.tasks.multilabel.workspace import MultiLabel
from petiole.tasks.target_workspace import Pairs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty images: halves red or blue, green as bright as their number; twenty of them to train on."""
    root = tmp_path_factory.mktemp("targets")
    rng, rows = np.random.default_rng(0), []
    for i in range(30):
        pixels = rng.integers(0, 20, (48, 48, 3), dtype=np.uint8)
        red, blue, green = i % 2, i // 2 % 2, float(rng.uniform(0, 9))
        pixels[:24, :, 0] += np.uint8(200 * red)
        pixels[:, 24:, 2] += np.uint8(200 * blue)
        pixels[..., 1] += np.uint8(20 * green)
        Image.fromarray(pixels).save(root / f"{i}.png")
        labels = "|".join(["red"] * red + ["blue"] * blue)
        rows.append((f"{i}.png", labels, green, "train" if i < 20 else "test"))
    for name, column in (("tags", "labels"), ("ages", "value")):
        with (root / f"{name}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["path", column, "split"])
            table.writerows((p, a if column == "labels" else v, s) for p, a, v, s in rows)
    return root


@pytest.fixture
def fit(place: Path, tmp_path: Path):
    def run(data: str, *more: object):
        out = tmp_path / "run"
        model = ("--backbone", "petiole/tiny-vit", "--cache-dir", place / "cache", "--quiet")
        return say("fit", place / data, *model, "--out", out, *more), out

    return run


def test_labels_end_to_end(place: Path, fit) -> None:
    done, run = fit("tags.csv")
    assert not done.code, done.err
    check_run(Path(__file__).with_name("known_multilabel.json"), run)
    record = read_record(run)
    assert record.request.kind == "multilabel"
    assert record.request.method == "ridge"
    assert record.request.data.samples == {"train": 20, "test": 10}
    assert list(record.main)[:2] == ["mAP", "f1_macro"]
    assert record.main["mAP"] > 0.95
    assert set(record.diagnosis["average precision"]) == {"red", "blue"}
    assert "mAP, test" in (run / "report.html").read_text("utf-8")
    found = say("predict", run, place / "1.png", place / "0.png", "--json").json["predictions"]
    assert [row["labels"] for row in found] == [["red"], []]
    assert found[0]["probabilities"]["red"] > 0.5 > found[0]["probabilities"]["blue"]
    again = say("eval", run, place / "tags.csv", "--json").json
    assert again["scores"]["test"] == record.main
    assert again["samples"] == 10
    assert again["test_evaluations"] == 1
    rows = list(csv.DictReader((run / "predictions.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 10
    assert {row["truth"] for row in rows} == {"", "red", "blue", "blue|red"}


@pytest.mark.parametrize("method", ["ridge", "linear-probe"])
def test_numbers_end_to_end(place: Path, fit, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modes, evaluate = [], VectorRun.evaluate

    def watched(self, adapted, folder):
        modes.append(adapted.training)
        return evaluate(self, adapted, folder)

    monkeypatch.setattr(VectorRun, "evaluate", watched)
    settings = () if method == "ridge" else ("--set", "steps=60", "views=0", "lr=0.01")
    done, run = fit("ages.csv", "--method", method, *settings)
    assert not done.code, done.err
    record = read_record(run)
    assert record.request.kind == "regression"
    assert modes == [False]
    assert list(record.main) == ["r2", "mae", "rmse", "n"]
    assert record.main["r2"] > 0.1
    found = say("predict", run, place / "3.png", "--json").json["predictions"][0]
    assert 0 < found["value"] < 10
    assert say("eval", run, place / "ages.csv", "--json").json["scores"]["test"] == pytest.approx(
        record.main, rel=1e-4
    )


def test_the_closed_form_equals_scikit_learn() -> None:
    from sklearn.linear_model import Ridge

    from petiole.layers.ridge import RidgeHead

    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 5, generator=draw), torch.randn(12, 2, generator=draw)
    head = RidgeHead(5, 2, grid=(3.0,))
    every = torch.ones(12, dtype=torch.bool)
    left_out = head.solve_targets(x, y, torch.ones(12), every)
    model = Ridge(3.0).fit(x.numpy(), y.numpy())
    np.testing.assert_allclose(head(x).numpy(), model.predict(x.numpy()), atol=1e-5)
    rest = np.arange(12) != 4
    without = Ridge(3.0).fit(x.numpy()[rest], y.numpy()[rest]).predict(x.numpy()[4:5])
    np.testing.assert_allclose(left_out[4:5].numpy(), without, atol=1e-5)


def test_trained_heads_resume_and_say_the_same(place: Path, tmp_path: Path) -> None:
    terms = {"method": "linear-probe", "backbone": "petiole/tiny-vit", "quiet": True}
    settings = {"steps": 8, "views": 0, "lr": 1.0}
    one, two = (
        petiole.fit(
            place / "tags.csv",
            **terms,
            settings=settings,
            out=tmp_path / n,
            cache_dir=place / "cache",
        )
        for n in "ab"
    )
    a, b = (petiole.Adapter.load(run.adapter).contents().state_dict() for run in (one, two))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(value.abs().max() > 0.05 for value in a.values())


def test_an_interrupted_run_goes_on_to_the_same_bits(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from petiole.engine import checkpoint

    terms = {"method": "linear-probe", "backbone": "petiole/tiny-vit", "quiet": True}
    terms |= {"settings": {"steps": 8, "views": 0, "lr": 0.1}, "checkpoint_seconds": 0}
    terms |= {"cache_dir": place / "cache"}
    whole = petiole.fit(place / "ages.csv", **terms, out=tmp_path / "whole")
    save, seen = checkpoint.save, []

    def third(*given: object, **more: object) -> None:
        save(*given, **more)
        seen.append(1)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", third)
        with pytest.raises(KeyboardInterrupt):
            petiole.fit(place / "ages.csv", **terms, out=tmp_path / "cut")
    assert not (tmp_path / "cut" / "record.json").exists()
    again = petiole.fit(place / "ages.csv", **terms, out=tmp_path / "cut", resume=True)
    a, b = (petiole.Adapter.load(run.adapter).contents().state_dict() for run in (whole, again))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert again.record["scores"] == whole.record["scores"]


def test_pairs_in_python(place: Path, tmp_path: Path) -> None:
    pairs = [(str(place / f"{i}.png"), ["red"] if i % 2 else []) for i in range(12)]
    terms = {"backbone": "petiole/tiny-vit", "quiet": True, "cache_dir": place / "cache"}
    run = petiole.fit(pairs, task="multilabel", out=tmp_path / "run", **terms)
    assert run.record["request"]["data"]["samples"] == {"train": 6, "test": 6}
    assert run.predict([place / "1.png"]).predictions[0].labels == ["red"]
    task = MultiLabel("petiole/tiny-vit", Pairs(pairs))
    whole = task.parts(pairs)["train"].images
    kept = read_split(tmp_path / "run" / "split.csv").parts["train"]
    assert set(kept.ids) == set(holdout(whole, task.test_fraction, 0)[0].ids)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--method", "knn"), "The head of knn is solved for classes"),
        (("--method", "cls-residual-lora"), "cls-residual-lora has losses on classes"),
        (("--method", "glora-search"), "glora-search searches by accuracy"),
        (("--shots", "3", "--all-images"), "--shots and --all-images say different things"),
        (("--method", "linear-probe", "--set", "mixup=0.2"), "mixup speaks of classes"),
        (("--task", "regression"), "column label is missing; it has path, labels, split"),
    ],
)
def test_what_needs_classes_is_refused(fit, more: tuple[str, ...], words: str) -> None:
    done, run = fit("tags.csv", *more)
    assert done.code
    assert words in done.err, done.err
    assert not (run / "request.json").exists()


def test_rows_that_contradict_each_other(place: Path) -> None:
    (place / "copy.png").write_bytes((place / "1.png").read_bytes())
    table = place / "twice.jsonl"
    lines = [{"path": "1.png", "labels": ["red"]}, {"path": "copy.png", "labels": ["red", "blue"]}]
    table.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"path": "2.png"}]))
    with pytest.raises(DataError, match=r"two labels.*\n.*1\.png \(red\).*copy\.png \(blue\|red\)"):
        open_targets(table, MultiLabel.column, MultiLabel.text)
    table.write_text(json.dumps({"path": "1.png", "value": "x"}) + "\n")
    with pytest.raises(DataError, match=r"row 1 \(1\.png\): 'x' is no finite number"):
        open_targets(table, "value", value_text)


def test_labels_of_the_test_images_alone_are_named(place: Path, fit) -> None:
    other = place / "other.csv"
    other.write_text("path,labels\n0.png,\n1.png,red|green\n", "utf-8")
    done, run = fit("tags.csv", "--test", other)
    assert not done.code, done.err
    notes = " ".join(read_record(run).request.data.notes)
    assert "1 labels of other/train are not trained on and not scored: green." in notes


def test_a_comparison(place: Path, tmp_path: Path) -> None:
    done = say(
        *("compare", place / "ages.csv", "--methods", "ridge", "linear-probe", "--seeds", 1),
        *("--backbone", "petiole/tiny-vit", "--cache-dir", place / "cache", "--quiet"),
        *("--set", "steps=3", "views=0", "--out", tmp_path / "compare"),
    )
    assert not done.code, done.err
    assert all(title in done.out for title in ("MAE", "RMSE", "R² times 100; one seed"))


# --- several numbers, fewer images, another domain ------------------------------------------------


@pytest.fixture(scope="module")
def two(place: Path) -> Path:
    """The same images with two numbers each, in columns; the first ten are of the source domain."""
    with (place / "ages.csv").open() as file:
        rows = list(csv.DictReader(file))
    with (place / "two.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["path", "value.green", "value.red", "domain", "split"])
        for i, row in enumerate(rows):
            domain = "source" if i < 10 else "target"
            table.writerow([row["path"], row["value"], i % 2, domain, row["split"]])
    return place / "two.csv"


def test_several_numbers_with_a_source_domain(two: Path, fit) -> None:
    done, run = fit("two.csv")
    assert not done.code, done.err
    check_run(Path(__file__).with_name("known_regression.json"), run)
    record = read_record(run)
    assert record.request.data.classes == ["green", "red"]
    assert record.request.data.samples == {"source": 10, "train": 20, "test": 10}
    each = record.diagnosis["r2"]
    assert record.main["r2"] == pytest.approx(np.mean([each["green"], each["red"]]))
    assert each["red"] > 0.5
    found = say("predict", run, two.parent / "3.png", "--json").json["predictions"][0]
    assert list(found["values"]) == ["green", "red"]
    assert found["values"]["red"] > 0.5
    say("predict", run, two.parent / "3.png", "--csv", run / "said.csv")
    header, row = (run / "said.csv").read_text().splitlines()
    assert header.endswith("value.green,value.red")
    assert float(row.split(",")[-1]) == pytest.approx(found["values"]["red"], abs=1e-6)
    assert say("eval", run, two, "--json").json["scores"]["test"] == pytest.approx(record.main)


def test_a_cell_of_two_numbers_is_two_columns(place: Path, two: Path) -> None:
    with two.open() as file:
        rows = list(csv.DictReader(file))
    cells = [(place / r["path"], f"{r['value.green']}|{r['value.red']}") for r in rows]
    one = open_targets(cells, "value", value_text)["train"]
    assert value_names(one) == ("value 1", "value 2")
    parts = open_targets(two, "value", value_text)
    several = parts["train"].joined(parts["source"]).joined(parts["test"])
    np.testing.assert_array_equal(
        value_matrix(one, value_names(one)),
        value_matrix(several.select(one.images), ("green", "red")),
    )


def test_shots_draw_from_all_and_seeds_draw_anew(place: Path, tmp_path: Path) -> None:
    model = ("--backbone", "petiole/tiny-vit", "--cache-dir", place / "cache", "--quiet")
    with (place / "other.csv").open("w") as file:
        file.write("path,labels\n" + "".join(f"{i}.png,red\n" for i in (0, 2, 4)))
    clash = say(
        "fit", place / "tags.csv", "--source", place / "other.csv", *model, "--out", tmp_path / "f"
    )
    assert clash.code
    assert "Correct one" in clash.err
    (place / "other.csv").unlink()
    done = say(
        *("compare", place / "tags.csv", "--shots", 6, "--seeds", 2, "--methods", "ridge"),
        *("linear-probe", "--set", "steps=4", *model, "--out", tmp_path / "c"),
    )
    assert not done.code, done.err
    records = [
        read_record(tmp_path / "c" / "runs" / method / f"split-0-seed-{seed}")
        for method in ("ridge", "linear-probe")
        for seed in (0, 1)
    ]
    cards = [record.request.data for record in records]
    assert {card.samples["train"] for card in cards} == {6}
    assert cards[0].digests == cards[2].digests != cards[1].digests == cards[3].digests
    assert "a draw of 6 training images" in (tmp_path / "c" / "report.html").read_text("utf-8")


def test_numbers_that_do_not_fit_are_refused_by_image(place: Path, fit) -> None:
    pairs = [(place / "0.png", "1|2"), (place / "1.png", 3.0)]
    with pytest.raises(
        DataError, match=r"1\.png: 1 number\(s\) are said of this image, and 2 of others"
    ):
        value_names(open_targets(pairs, "value", value_text)["train"])
    done, _ = fit("tags.csv", "--split-seed", 3)
    assert "unless --shots says how many" in done.err

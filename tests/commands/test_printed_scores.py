"""What ``fit``, ``eval`` and ``predict`` print, whole: every number in its place, both sides of every branch."""

from __future__ import annotations

from typing import Any

import pytest

from builders.printed import RUN, cells, printed
from petiole.commands.evaluate import Evaluation, ece_of, reached
from petiole.commands.fit import FitResult, scores_line, scores_table
from petiole.commands.kinds import SERVED
from petiole.commands.predict import Prediction, PredictResult

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


def test_a_notebook_shows_what_the_terminal_prints() -> None:
    html = fitted("regression", {"test": {"r2": 0.87654, "n": 1.0}})._repr_html_()
    assert html.startswith("<pre>")
    assert "r2 0.8765" in html
    assert "<html" not in html

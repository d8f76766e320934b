"""What ``eval``, ``predict`` and ``diff`` hand to the rooms below them, and what they make of the answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from builders.asked import Asked
from petiole.commands import diff as diffing
from petiole.commands import evaluate as evaluating
from petiole.commands import predict as predicting
from petiole.errors import ConfigError


def kind_is(asked: Asked, kind: str) -> None:
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.adapter.read_manifest", SimpleNamespace(kind=kind))


def test_options_of_another_kind_of_adapter_are_refused(asked: Asked) -> None:
    for kind, given, said in (
        ("text", {"weights": Path("w")}, "--weights is for image backbones, and a has none"),
        ("classification", {"keep": 0.5}, "are for models over a codebook, and a is of the kind classification"),
        ("codebook", {"adapt": "mta"}, "--adapt is for classifiers of images, and a is of the kind codebook"),
        ("text", {"attack": "fgsm"}, "--attack and --corrupt are for classifiers"),
        ("text", {"corrupt": ["fog"]}, "--attack and --corrupt are for classifiers"),
    ):  # fmt: skip
        kind_is(asked, kind)
        with pytest.raises(ConfigError, match=said):
            evaluating.evaluate(Path("a"), "d", device="cpu", **given)


class Images(list[int]):
    """Five images."""

    labels, notes, name = np.array([0, 1, 1, 0, 1]), ("n",), "named"
    ids = paths = tuple("abcde")
    classes, domains = ("x", "y"), ("s", "t", "t", "t", "t")
    samples = (0, 1, 2, 3, 4)

    def digest(self) -> str:
        return "dig"


def test_an_adapter_of_photos_is_scored_clean_adapted_corrupted_and_attacked(asked: Asked) -> None:
    kind_is(asked, "classification")
    logits = torch.tensor([[2.0, 1], [0, 1], [3, 1], [1, 0], [0, 5]])
    opened = SimpleNamespace(classes=["x", "y"], calibration="cal", adapted=SimpleNamespace(backbone="net", cut=("c",)))  # fmt: skip
    asked.of("petiole.tasks.classification.adapter.ClassificationAdapter.load", opened)
    asked.of("petiole.data.inputs.as_dataset", Images(range(5)))
    asked.of("petiole.engine.record.count_test_evaluation", 4)
    table = SimpleNamespace(batches=lambda n: ("batches", n))
    asked.of("petiole.engine.feature_extractor.Features", SimpleNamespace(table=lambda *_: table))
    asked.of("petiole.tasks.classification.model.predict", SimpleNamespace(logits=logits))
    asked.of("petiole.tasks.classification.calibration.scores_of", lambda _, y, cal: {"accuracy": 0.6, "n": float(len(y)), "calibrated": float(cal == "cal")})  # fmt: skip
    asked.of(
        "petiole.tasks.classification.test_time.adapted_outputs", SimpleNamespace(logits=logits)
    )
    asked.of(
        "petiole.tasks.classification.robustness.under_corruptions", {"fog 3": {"accuracy": 0.5}}
    )
    asked.of("petiole.tasks.classification.robustness.under_attack", {"accuracy": 0.1})
    done = evaluating.evaluate(Path("a"), ["d"], device="cpu", weights=Path("w"), skip_bad=True, attack="fgsm", corrupt=["fog"], adapt="mta")  # fmt: skip
    assert done.confusion == [[2, 0], [1, 2]]
    assert list(done.scores) == ["test", "mta", "fog 3", "fgsm, 1/255"]
    assert done.scores["test"]["calibrated"] == 1
    assert done.scores["mta"]["calibrated"] == 0
    assert (done.samples, done.test_evaluations, done.notes, done.data, done.classes) == (5, 4, ["n"], "d", ["x", "y"])  # fmt: skip
    assert asked.one("as_dataset") == (
        ("d",),
        {"classes": ["x", "y"], "skip_bad": True, "common": True},
    )
    assert asked.one("count_test_evaluation")[0] == (Path("a"), "dig", 5, "petiole eval")
    assert asked.one("predict")[0] == (opened.adapted, ("batches", 5))
    assert asked.one("under_corruptions")[0][2:] == (("fog",), (3,))
    assert asked.one("under_attack")[0][3] == 1 / 255
    plain = evaluating.evaluate(Path("a"), Images(range(5)), device="cpu")
    assert (plain.data, list(plain.scores)) == ("named", ["test", "fog 3"])


def test_questions_are_scored_by_every_language_model(asked: Asked) -> None:
    kind_is(asked, "codebook")
    data = type("Data", (), {"notes": ("n",), "digest": lambda _: "dig", "__getitem__": lambda _, k: {"test": "abc"}[k]})()  # fmt: skip
    asked.of("petiole.data.readers.registry.open_questions", data)
    asked.of("petiole.tasks.codebook.adapter.CodebookAdapter.load", lambda adapter, backbone, device: SimpleNamespace(adapted=SimpleNamespace(model=SimpleNamespace(name=backbone or "own"))))  # noqa: ARG005  # fmt: skip
    asked.of("petiole.engine.record.count_test_evaluation", 2)
    asked.of("petiole.tasks.codebook.training.evaluate", ({"em": 50.0}, 0.25))
    done = evaluating.evaluate(
        Path("a"), "q", device="cpu", language_models=["l", "m"], route=True, keep=0.5
    )
    assert done.scores == {"l": {"em": 50.0}, "m": {"em": 50.0}}
    assert (done.notes, done.samples, done.test_evaluations) == (["n", "25 % of the images went through the tuned encoder"], 3, 2)  # fmt: skip
    assert asked.one("open_questions")[1] == {"skip_bad": False, "task": "question"}
    plain = evaluating.evaluate(Path("a"), "q", device="cpu")
    assert (list(plain.scores), plain.notes) == (["own"], ["n"])


def test_texts_are_scored_as_the_adapter_s_task(asked: Asked) -> None:
    kind_is(asked, "text")
    known = SimpleNamespace(
        manifest=SimpleNamespace(tasks=[SimpleNamespace(kind="vqa", name="mine")])
    )
    asked.of("petiole.tasks.text.adapter.TextAdapter.load", known)
    asked.of("petiole.data.readers.registry.open_questions", SimpleNamespace(task="nlvr"))
    with pytest.raises(ConfigError, match=r"nlvr"):
        evaluating.evaluate(Path("a"), "q", device="cpu")


def test_what_serves_itself_predicts_with_masks_only_where_it_has_some(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(predicting, "served_as", lambda *_: "served")
    kind_is(asked, "counting")
    manifest = SimpleNamespace(backbone=SimpleNamespace(name="net"))
    plain = SimpleNamespace(kind="counting", manifest=manifest, predict_rows=lambda data: [{"path": str(data), "label": "3", "value": 3.0}])  # fmt: skip
    asked.of("petiole.engine.adapter.Adapter.load", plain)
    done = predicting.predict(Path("a"), ["x.png"], device="cpu", csv=Path("o.csv"))
    assert (done.model, done.predictions[0].value, done.predictions[0].path) == (
        "net",
        3.0,
        "x.png",
    )
    assert Path("o.csv").read_text() == "path,label,probability,question,value\nx.png,3,,,3.0\n"
    for given, said in (
        ({"question": "?"}, "^--question means nothing to an adapter of the kind counting"),
        ({"task": "t"}, "^--task means nothing"),
        ({"keep": 0.5}, "^--keep means nothing"),
        ({"coverage": 0.9}, "^--coverage means nothing"),
        ({"masks": Path("m")}, "^--masks means nothing"),
    ):
        with pytest.raises(ConfigError, match=said):
            predicting.predict(Path("a"), ["x.png"], device="cpu", **given)
    drawn = SimpleNamespace(kind="counting", manifest=manifest, predict_rows=lambda data, masks: [{"path": str(data), "label": "", "mask": str(masks)}])  # fmt: skip
    asked.of("petiole.engine.adapter.Adapter.load", drawn)
    done = predicting.predict(Path("a"), "x.png", device="cpu", masks=Path("m"))
    assert done.predictions[0].mask == "m"
    monkeypatch.setattr(predicting, "served_as", lambda *_: "classification")
    with pytest.raises(
        ConfigError, match=r"--masks means nothing to an adapter of the kind classific"
    ):
        predicting.predict(Path("a"), "x.png", device="cpu", masks=Path("m"))


def test_predictions_on_common_classes_are_shares_again(asked: Asked) -> None:
    p = torch.tensor(
        [[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.2, 0.6, 0.2], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]]
    )
    one: Any = SimpleNamespace(adapted="adapted", probabilities=lambda _: p, classes=["x", "w", "y"], manifest=SimpleNamespace(method="m"))  # fmt: skip
    asked.of("petiole.engine.adapter.find", lambda path: path)
    asked.of("petiole.engine.record.count_test_evaluation", 1)
    asked.of("petiole.tasks.classification.adapter.logits_of", "logits")
    asked.of("petiole.tasks.classification.spectrum.changes", [])
    seen = diffing._seen(Path("a"), "A", one, Images(range(5)), ["x", "y"])  # type: ignore[arg-type]
    both = p[:, [0, 2]]
    assert torch.allclose(seen.stored.probabilities, both / both.sum(1, keepdim=True))
    assert seen.stored.labels.tolist() == [0, 1, 1, 0, 1]
    assert (seen.title, seen.method, seen.known, seen.stored.ids) == (
        "A",
        "m",
        ["x", "y"],
        list("abcde"),
    )
    assert asked.one("count_test_evaluation")[0] == (Path("a"), "dig", 5, "petiole diff")
    same = diffing._seen(Path("a"), "A", one, Images(range(5)), ["x", "w", "y"])  # type: ignore[arg-type]
    assert torch.equal(same.stored.probabilities, p)

"""Runs on images with targets, by hand: the model that is built, its record, and numbers as they are told."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from petiole.layers.ridge import RidgeHead
from petiole.tasks import image_targets
from petiole.tasks.multilabel.task import MultiLabelRun
from petiole.tasks.regression.adapter import RegressionAdapter, Scale


@pytest.mark.parametrize("solved", [True, False])
def test_a_model_of_targets_is_on_its_device_and_knows_their_names(solved: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    done: list[Any] = []

    class Model:
        head = object.__new__(RidgeHead) if solved else nn.Linear(1, 1)

        def __init__(self, *given: Any, **more: Any) -> None:
            done.append((given, more))

        def to(self, device: Any) -> Model:
            done.append(device)
            return self

        def name(self, names: Any) -> None:
            done.append(names)

    monkeypatch.setattr(image_targets, "AdaptedClassifier", Model)
    run = object.__new__(MultiLabelRun)
    run.names, run.selection = ("a", "b"), "last step"
    task = SimpleNamespace(checkpointing="again", compiled="quick")
    run.workspace = SimpleNamespace(backbone="vit", task=task, features=SimpleNamespace(device="d"))  # type: ignore[assignment]
    run.plan = lambda: "plan"  # type: ignore[method-assign,assignment,return-value]
    assert isinstance(run.build(), Model)
    assert done == [(("vit", "plan"), {"checkpoint": "again", "compiled": "quick"}), "d", ("a", "b")]  # fmt: skip
    assert run.selection == ("solved" if solved else "last step")


@pytest.mark.parametrize("named", [True, False])
def test_what_a_record_says_of_targets(named: bool) -> None:
    """The source is named where there is one, and the scored part as it is called."""

    def part(name: str, count: int) -> Any:
        return SimpleNamespace(images=[0] * count, digest=lambda: f"of {name}", select=lambda rows: part(f"{name} {rows}", count - 1))  # fmt: skip

    run = object.__new__(MultiLabelRun)
    run.names, run.train_images, run.scored = ("a",), "rows", "scored"  # type: ignore[assignment]
    run.subset = SimpleNamespace(scored="test", shots=3, split_seed=4)  # type: ignore[assignment]
    targets = {"test": part("test", 5), **({"source": part("source", 9)} if named else {})}
    leaks = SimpleNamespace(summary=lambda: "no leaks")
    run.workspace = SimpleNamespace(  # type: ignore[assignment]
        targets=targets, learned=part("learned", 7), task=SimpleNamespace(kind="made"), notes=("n",),
        leaks=lambda *given: leaks if given == ("rows", "scored") else None,
    )  # fmt: skip
    card = run.data()
    source = {"source": "of source"} if named else {}
    assert card.digests == {**source, "train": "of learned rows", "test": "of test"}
    assert card.samples == {**({"source": 9} if named else {}), "train": 6, "test": 5}
    assert (card.classes, card.shots, card.split_seed, card.tasks, card.scored) == (["a"], 3, 4, ["made"], "test")  # fmt: skip
    assert card.notes == ["n", "no leaks"]


@pytest.mark.parametrize("several", [True, False])
def test_numbers_of_an_image_are_told_by_name_where_there_are_several(several: bool) -> None:
    adapter = object.__new__(RegressionAdapter)
    scale = Scale(mean=[1.0, 10.0][: 1 + several], sd=[2.0, 4.0][: 1 + several])
    adapter.read_details = lambda: scale  # type: ignore[method-assign]
    adapter.manifest = SimpleNamespace(classes=["age", "size"][: 1 + several])  # type: ignore[assignment]
    outputs = torch.tensor([[0.5, 0.25], [-1.0, 0.0]])[:, : 1 + several]
    rows, said = adapter.rows(outputs), adapter.said(outputs)
    if several:
        assert rows[0] == {"label": "age 2, size 11", "values": {"age": 2.0, "size": 11.0}}
        assert said == ["2.0|11.0", "-1.0|10.0"]
    else:
        assert rows == [{"label": "2", "value": 2.0}, {"label": "-1", "value": -1.0}]
        assert said == ["2.0", "-1.0"]
    assert adapter.scores(outputs, scale.values(outputs))["mae"] == 0

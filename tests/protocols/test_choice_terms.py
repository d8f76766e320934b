"""How a method and a backbone are chosen from losses that are stated here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from builders.comparisons import TASK
from petiole.engine.run import RunSpec
from petiole.errors import BackboneError, DataError
from petiole.files import write_sealed
from petiole.protocols import backbone_selection, model_selection, selection, tuning
from petiole.protocols.model_selection import Choice, Judged, _candidate, _Choosing
from petiole.protocols.protocol import rows_of
from petiole.protocols.selection import Open, Selection
from petiole.protocols.settled import Tuning
from petiole.tasks.classification.workspace import Subset


def judged(*losses: float, hits: str = "", seconds: float = 1.0) -> Judged:
    right = [float(h) for h in hits or "1" * len(losses)]
    return Judged(np.array(losses), np.array(right), seconds)


START = judged(0.5, 0.6, 0.7, 0.8, hits="1110", seconds=3.0)


BETTER = judged(0.30, 0.41, 0.50, 0.59, hits="1110")


def chosen(shots: int, **candidates: Judged | None) -> Choice:
    choosing = _Choosing(START, shots)
    for method, one in candidates.items():
        choosing.consider(method.replace("_", "-"), one)
    return choosing.choice(70)


def test_a_candidate_says_how_much_lower_its_loss_is() -> None:
    one = _candidate("m", BETTER, START)
    assert (one.method, one.accuracy, one.seconds) == ("m", 0.75, 1.0)
    assert one.log_loss == pytest.approx(0.45)
    assert one.gain == pytest.approx(0.2)
    assert 0.18 < one.gain_low < 0.2
    assert (one.low, one.high) == (0.0, 1.0), "bounds are shares"
    even = _candidate("m", judged(*[0.5] * 64, hits="10" * 32), judged(*[0.5] * 64))
    assert 0.3 < even.low < 0.5 < even.high < 0.7


def test_what_is_better_beyond_the_noise_and_as_often_right_is_chosen() -> None:
    assert chosen(3, lora_qkv=BETTER).method == "lora-qkv"
    fewer = Judged(BETTER.losses, np.array([1.0, 1.0, 0.0, 0.0]), 1.0)
    noisy = judged(0.1, 0.9, 0.2, 0.9, hits="1110")
    equal = judged(0.5, 0.6, 0.7, 0.8, hits="1110")
    for other in (fewer, noisy, equal, None):
        assert chosen(3, lora_qkv=other).method == "averaged-ridge"
    assert chosen(2, lora_qkv=BETTER).method == "averaged-ridge"
    assert chosen(3, class_means=BETTER).method == "averaged-ridge", "it is a yardstick"
    still = judged(0.29, 0.40, 0.49, 0.58, hits="1110")
    assert chosen(3, a=BETTER, b=still).method == "b", "against what stands"
    assert chosen(3, a=still, b=BETTER).method == "a"


def test_a_choice_says_why() -> None:
    assert chosen(3, zero_shot=BETTER).reason == (
        "zero-shot: on left-out target images its log-loss is lower than averaged-ridge's by 0.200 (at least 0.187) and "
        "it is right as often; nothing need be trained."
    )
    assert chosen(3, lora_qkv=BETTER).reason.endswith("and it is right as often.")
    assert chosen(2, lora_qkv=BETTER).reason == (
        "averaged-ridge: fewer than 3 target images a class cannot show that another is better."
    )
    assert chosen(3).reason == "averaged-ridge: nothing else was tried."
    assert chosen(3, lora_qkv=START).reason == (
        "averaged-ridge: no other method that was tried is better on left-out target images beyond the noise."
    )


def test_a_forecast_needs_seventy_images() -> None:
    choosing = _Choosing(START, 3)
    assert choosing.choice(69).forecast is None
    assert choosing.choice(70).forecast == pytest.approx(1 - 0.84 * 0.25)
    choosing.untried["full"] = "it is slow"
    lines = choosing.choice(70).lines()
    assert lines == [
        "averaged-ridge: nothing else was tried.",
        "averaged-ridge: 75.0 % [0.0, 100.0] of 70 left-out target images, log-loss 0.650",
        "full: not tried, it is slow",
        "twice as many labelled images: about 79 % (give or take 8 points, 80 %)",
    ]
    assert len(choosing.choice(69).lines()) == 3


def test_minutes_are_of_the_frozen_half_and_all_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(spec="spec")
    monkeypatch.setattr(model_selection, "_built", lambda *_: (run, None))
    monkeypatch.setattr(model_selection, "seconds_of", lambda *_: (30.0, 6.0))
    assert model_selection._minutes(None, None, "m") == (30 + 5 * 6) / 60  # type: ignore[arg-type]
    monkeypatch.setattr(model_selection, "_built", lambda *_: None)
    assert model_selection._minutes(None, None, "m") is None  # type: ignore[arg-type]


def test_losses_are_at_the_temperature_that_suits_best(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 1.0, 0.0], [3.0, 0.0, 1.0]])
    found = SimpleNamespace(logits=logits, labels=torch.tensor([0, 1, 2, 0]))
    monkeypatch.setattr(model_selection, "_built", lambda *_: ("run", "adapted"))
    monkeypatch.setattr(model_selection, "left_out", lambda *given: found if given[2] == 5 else None)  # fmt: skip
    monkeypatch.setattr(model_selection, "temperature", lambda *_: 2.0)
    one = model_selection.judge(None, None, "m")  # type: ignore[arg-type]
    assert one is not None
    scaled = logits.double() / 2
    wanted = scaled.logsumexp(1) - scaled[range(4), [0, 1, 2, 0]]
    assert one.losses == pytest.approx(wanted.numpy())
    assert one.hits.tolist() == [1.0, 1.0, 0.0, 1.0]
    assert 0 <= one.seconds < 5
    monkeypatch.setattr(model_selection, "left_out", lambda *_: None)
    assert model_selection.judge(None, None, "m") is None  # type: ignore[arg-type]


def test_what_was_chosen_goes_into_the_run(tmp_path: Path) -> None:
    spec = RunSpec(TASK, "auto", tmp_path, {"steps": 1})
    choice = Choice(method="knn", settings={"k": 3}, images=9, reason="why")
    assert selection.chosen(spec, Selection()) == spec
    one = selection.chosen(spec, Selection(backbone="c", method=choice))
    assert (one.task.backbone, one.method, one.settings) == ("c", "knn", {"k": 3})
    tuned = selection.chosen(spec, Selection(settings={"lr": 2}))
    assert (tuned.method, tuned.settings) == ("auto", {"lr": 2})
    assert selection.selection_lines(tmp_path) == []
    whole = Selection(unusable={"x": "It is gone."}, method=choice, notes=["n"])
    write_sealed(tmp_path / "selection.json", whole.model_dump(mode="json"))
    assert selection.selection_lines(tmp_path) == ["x: not judged. It is gone.", "why", "n"]


def test_what_is_left_open_is_announced() -> None:
    assert not Open((), False, 0.0)
    for some in (Open(("a", "b"), False, 0.0), Open((), True, 0.0), Open((), False, 0.0, Tuning())):
        assert some
    assert Open(("a", "b"), True, 2.5).notes() == [
        "these backbones are compared first: a, b",
        "methods that are trained may be tried for 2.5 min",
    ]
    assert Open((), True, 0.0).notes() == Open((), False, 2.5).notes() == []
    spec = RunSpec(TASK, "lora-qkv", Path("f"), options=Subset(5))
    assert Open((), False, 0.0).trials(spec) == []
    rates = len(tuning.with_rates(rows_of(["lora-qkv"]))[0].grid["lr"])
    assert len(Open((), False, 0.0, Tuning(0.5)).trials(spec)) == 2 * rates


def ranked(name: str, accuracy: float, gflops: float = 1.0) -> Any:
    return backbone_selection.RankedBackbone(
        name=name, accuracy=accuracy, low=accuracy - 0.1, high=accuracy + 0.1, images=34,
        parameters=5_678_000, megabytes=1.0, gflops=gflops, seconds=0.0,
    )  # fmt: skip


def test_backbones_go_by_accuracy_then_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"a": ranked("a", 0.5), "b": ranked("b", 0.75, 3.0), "c": ranked("c", 0.75, 2.0), "d": "why"}  # fmt: skip
    monkeypatch.setattr(backbone_selection, "_judged", lambda asked: found[asked.task.backbone])
    best, failed = backbone_selection.rank_backbones(TASK, "abcda", Subset(3))
    assert [one.name for one in best] == ["c", "b", "a"]
    assert failed == {"d": "why"}
    assert best[0].line() == (
        "c: 75.0 % [65.0, 85.0] of 34 left-out target images; 5.7 M parameters, 2.00 GFLOPs an image"
    )
    with pytest.raises(BackboneError, match=r"^None of these backbones can be used. d: why$"):
        backbone_selection.rank_backbones(TASK, "d", Subset(3))


def test_costs_of_a_backbone_are_in_millions_and_billions(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Any] = []
    judged_ = SimpleNamespace(accuracy=SimpleNamespace(mean=0.5, low=-0.1, high=1.1, n=34))
    net = SimpleNamespace(name="b", parameter_count=7, stored_bytes=2_500_000_000_000_000)
    bench: Any = SimpleNamespace(backbone=net, task=TASK, shift=SimpleNamespace(classes="abc"), feature_seconds=4.5)  # fmt: skip
    start = SimpleNamespace(plan=lambda *given: planned.append(given))
    monkeypatch.setattr(backbone_selection, "judge", lambda *_: judged_)
    monkeypatch.setattr(backbone_selection, "create", lambda _: start)
    monkeypatch.setattr(backbone_selection, "count", lambda *_: SimpleNamespace(flops_forward=3_500_000_000_000_000))  # fmt: skip
    found = backbone_selection._ranked(bench, Subset(3))
    assert found.model_dump() == {
        "name": "b", "accuracy": 0.5, "low": 0.0, "high": 1.0, "images": 34, "parameters": 7, "megabytes": 2.5e9, "gflops": 3.5e6,
        "seconds": 4.5,
    }  # fmt: skip
    assert planned == [(net, 3)]
    monkeypatch.setattr(backbone_selection, "judge", lambda *_: None)
    with pytest.raises(DataError, match=r"here no class has two\. Give at least two"):
        backbone_selection._ranked(bench, Subset(3))

"""What is left open is chosen on left-out target images, kept beside the run, and taken up again."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from petiole.engine.run import RunSpec
from petiole.engine.task import forget_workspaces
from petiole.errors import BackboneError, DataError, RunError
from petiole.protocols import model_selection, selection
from petiole.protocols.backbone_selection import rank_backbones
from petiole.protocols.model_selection import Judged, select_method
from petiole.protocols.selection import SELECTION, Open, read_selection, select
from petiole.tasks.classification.left_out import left_out
from petiole.tasks.classification.task import ClassificationRun
from petiole.tasks.classification.workspace import (
    Classification,
    ClassificationWorkspace,
    Subset,
)

RIGHT = np.array([1.0] * 9 + [0.0])


@pytest.fixture
def workspace(bench: Classification) -> ClassificationWorkspace:
    return bench.open()


def spec_of(bench: Classification, folder: Path = Path(), **subset: int) -> RunSpec:
    return RunSpec(bench, "averaged-ridge", folder, options=Subset(**{"shots": 4, **subset}))


def judged_as(monkeypatch: pytest.MonkeyPatch, losses: dict[str, float | None]) -> list[str]:
    """Every method is right nine times of ten, with these log-losses; ``None`` does not fit. Returns who was judged."""
    asked: list[str] = []
    noise = np.linspace(-0.01, 0.01, 10)

    def judge(_workspace: object, _spec: object, method: str, *_: object) -> Judged | None:
        asked.append(method)
        loss = losses.get(method)
        return None if loss is None else Judged(loss + noise, RIGHT, 6.0)

    monkeypatch.setattr(model_selection, "judge", judge)
    monkeypatch.setattr(model_selection, "_minutes", lambda *_: 2.0)
    return asked


def test_the_start_is_kept_and_says_how_good_it_is(workspace: ClassificationWorkspace) -> None:
    choice = select_method(workspace, spec_of(workspace.task))
    assert choice.method == "averaged-ridge"
    first, means = choice.candidates
    assert (first.method, means.method) == ("averaged-ridge", "class-means")
    assert choice.images == 12
    assert 0.5 < first.accuracy <= 1
    assert first.low <= first.accuracy <= first.high
    assert "cls-residual-lora" in choice.untried
    assert "--budget" in choice.untried["cls-residual-lora"]
    assert choice.forecast is None  # twelve images cannot forecast


def test_one_shot_keeps_the_start(workspace: ClassificationWorkspace) -> None:
    choice = select_method(workspace, spec_of(workspace.task, shots=1))
    assert choice.method == "averaged-ridge"
    assert not choice.candidates
    assert "one target image a class" in choice.reason
    assert "left out of averaged-ridge" in choice.untried["class-means"]
    assert "zero-shot" not in choice.untried  # this backbone has no text encoder


def test_a_better_method_is_climbed_to(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = {"averaged-ridge": 0.5, "class-means": 0.9, "cls-residual-lora": 0.3, "lora-qkv": 0.4}
    judged_as(monkeypatch, losses)
    choice = select_method(workspace, spec_of(workspace.task), budget=10)
    assert choice.method == "cls-residual-lora"
    assert "lower than averaged-ridge's by 0.200" in choice.reason


def test_noise_is_no_evidence(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_as(monkeypatch, {"averaged-ridge": 0.5, "cls-residual-lora": 0.5, "lora-qkv": 0.51})
    assert select_method(workspace, spec_of(workspace.task), budget=10).method == "averaged-ridge"


def test_fewer_hits_are_not_climbed_to(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_as(monkeypatch, {"averaged-ridge": 0.5})
    known = model_selection.judge

    def judge(*arguments: object) -> Judged | None:
        if arguments[2] == "zero-shot":
            return Judged(np.full(10, 0.1), np.array([1.0] * 8 + [0.0] * 2), 1.0)
        return known(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(model_selection, "judge", judge)
    assert select_method(workspace, spec_of(workspace.task)).method == "averaged-ridge"


def test_zero_shot_is_chosen_where_it_wins_and_class_means_are_not(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_as(monkeypatch, {"averaged-ridge": 0.5, "class-means": 0.1, "zero-shot": 0.3})
    choice = select_method(workspace, spec_of(workspace.task))
    assert choice.method == "zero-shot"
    assert "nothing need be trained" in choice.reason


def test_two_shots_show_nothing(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judged_as(
        monkeypatch, {"averaged-ridge": 0.5, "class-means": 0.1, "cls-residual-lora": 0.1}
    )
    choice = select_method(workspace, spec_of(workspace.task, shots=2), budget=10)
    assert choice.method == "averaged-ridge"
    assert asked == ["averaged-ridge", "class-means", "zero-shot"]  # nothing is trained for nothing


def test_the_budget_is_kept(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = judged_as(
        monkeypatch, {"averaged-ridge": 0.5, "cls-residual-lora": 0.6, "lora-qkv": 0.1}
    )
    choice = select_method(workspace, spec_of(workspace.task), budget=2.05)
    assert "cls-residual-lora" in asked
    assert "lora-qkv" not in asked
    assert "--budget 2.1" in choice.untried["lora-qkv"]  # 0.1 spent and 2 wanted


def test_test_images_are_not_looked_at(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = set(workspace.parts(Subset(4))[1].ids)
    seen: set[str] = set()
    table = workspace.features.table

    def watched(data, *rest, **options):  # type: ignore[no-untyped-def]
        seen.update(data.ids)
        return table(data, *rest, **options)

    monkeypatch.setattr(workspace.features, "table", watched)
    select_method(workspace, spec_of(workspace.task), budget=0)
    assert seen
    assert not seen & held


def test_without_target_images_there_is_nothing_to_choose_on(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = workspace.shift.source
    monkeypatch.setattr(workspace, "parts", lambda _: (source, source))
    with pytest.raises(DataError, match="Name a method"):
        select_method(workspace, spec_of(workspace.task))


def test_backbones_are_ranked_and_what_fails_is_named(bench: Classification) -> None:
    names = ["petiole/tiny-vit", "petiole/efficientnet-lite0", "petiole/no-such"]
    ranked, failed = rank_backbones(replace(bench, image_size=None), names, Subset(4))
    assert sorted(one.name for one in ranked) == sorted(names[:2])
    assert ranked[0].accuracy >= ranked[1].accuracy
    assert ranked[0].gflops > 0
    assert list(failed) == ["petiole/no-such"]
    with pytest.raises(BackboneError, match="petiole/no-such"):
        rank_backbones(bench, ["petiole/no-such"], Subset(4))
    with pytest.raises(DataError, match="two labelled"):
        rank_backbones(bench, ["petiole/efficientnet-lite0"], Subset(1))


class Sent:
    """An executor that sends its jobs as they go to other processes."""

    places = 2

    def map(self, work, jobs):  # type: ignore[no-untyped-def]
        for job in jobs:
            yield pickle.loads(pickle.dumps(work(pickle.loads(pickle.dumps(job)))))


def test_elsewhere_the_numbers_are_the_same(
    workspace: ClassificationWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fits without each part, in a workspace that is opened there; and backbones."""
    forget_workspaces()
    opened = []
    work = Classification.open
    monkeypatch.setattr(Classification, "open", lambda task: opened.append(task) or work(task))
    spec = replace(spec_of(workspace.task), method="linear-probe", settings={"steps": 4})
    run = ClassificationRun(workspace, spec)
    here, there = (left_out(run, run.build(), 2, place) for place in (None, Sent()))
    assert here is not None
    assert there is not None
    assert torch.equal(here.logits, there.logits)
    assert torch.equal(here.similarity, there.similarity)
    assert len(opened) == 1
    names = ["petiole/efficientnet-lite0", "petiole/no-such"]
    one, other = (
        rank_backbones(workspace.task, names, Subset(4), place) for place in (None, Sent())
    )
    assert one[0][0].model_dump(exclude={"seconds"}) == other[0][0].model_dump(exclude={"seconds"})
    assert one[1] == other[1]


def test_a_resumed_run_takes_its_choice_up_again(
    bench: Classification, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, chosen = select(spec_of(bench, tmp_path), Open((), method=True, budget=0))
    assert chosen.method is not None
    assert read_selection(tmp_path) == chosen
    monkeypatch.setattr(selection, "select_method", lambda *_, **__: pytest.fail("chosen again"))
    resumed = replace(spec_of(bench, tmp_path), resume=True)
    again = select(resumed, Open((), method=True, budget=0))
    assert again == (replace(spec, resume=True), chosen)
    (tmp_path / SELECTION).write_text("{", encoding="utf-8")
    with pytest.raises(RunError, match=r"selection\.json is damaged"):
        select(resumed, Open((), method=True, budget=0))


def test_the_better_backbone_is_taken(bench: Classification, tmp_path: Path) -> None:
    names = ("petiole/tiny-vit", "petiole/efficientnet-lite0")
    small = replace(bench, image_size=None)
    spec, chosen = select(spec_of(small, tmp_path), Open(names, method=False, budget=0))
    assert spec.task.backbone == chosen.backbone == chosen.backbones[0].name
    assert chosen.method is None
    assert spec.method == "averaged-ridge"

"""Runs of a generalisation, and how their scores are read by place, without running any."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from builders.comparisons import TASK
from petiole.engine.record import Record, RunRequest
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError
from petiole.protocols import generalisation, headroom, published
from petiole.protocols.protocol import rows_of
from petiole.tasks.classification.workspace import Classification, Subset


def base_to_novel(*methods: str, **terms: Any) -> generalisation.Generalisation:
    return generalisation.plan("pets", rows_of(methods), reference="", shots=4, seeds=2, **terms)


def test_half_of_the_classes_are_trained_on_unless_a_method_needs_all() -> None:
    protocol = base_to_novel("coop", "promptkd")
    assert (protocol.kind, protocol.places) == ("base-to-novel", ["novel"])
    made = generalisation.jobs_of(protocol, TASK, Path("f"), {"epochs": 3}, resume=True)
    assert [(m.method, m.task.part, m.seed, m.options) for m in made] == [
        ("coop", "base", 0, Subset(4, 0)),
        ("coop", "base", 1, Subset(4, 1)),
        ("promptkd", "all", 0, Subset(4, 0)),
        ("promptkd", "all", 1, Subset(4, 1)),
    ]
    assert all(m.resume and m.task.quiet for m in made)
    assert made[1].folder == Path("f/runs/coop/seed-1")
    assert generalisation.transductive("promptkd+textrefiner")
    assert not generalisation.transductive("coop+textrefiner")
    places = generalisation.places_of(protocol, TASK, {})
    assert [(name, task.part) for name, task in places.items()] == [("base", "base"), ("novel", "novel")]  # fmt: skip


def test_elsewhere_all_classes_are_trained_on() -> None:
    protocol = base_to_novel("coop", places=["cars", "dogs"])
    assert (protocol.kind, protocol.places) == ("elsewhere", ["cars", "dogs"])
    made = generalisation.jobs_of(protocol, TASK, Path("f"), {})
    assert {m.task.part for m in made} == {"all"}
    source = Classification("b", Path("x"), Path("s"), Path("t"))
    places = generalisation.places_of(protocol, source, {"cars": Path("c")})
    assert places == {"cars": Classification("b", Path("c"))}
    assert generalisation.beside(protocol, TASK, Path("f")) == []


def test_few_shot_has_runs_for_each_number_of_shots() -> None:
    protocol = generalisation.few_shot("pets", rows_of(["coop"]), [4, 1], reference="", seeds=2)
    assert (protocol.levels, protocol.shots, protocol.places) == (("1", "4"), None, ["1", "4"])
    made = generalisation.jobs_of(protocol, TASK, Path("f"), {})
    assert [(m.options.shots, m.seed, str(m.folder)) for m in made] == [
        (k, seed, f"f/runs/coop/shots-{k}/seed-{seed}") for k in (1, 4) for seed in (0, 1)
    ]
    assert protocol.runs(Path("f"), "coop") == [m.folder for m in made]
    assert generalisation.places_of(protocol, TASK, {}) == {}
    for shots in ([], [0, 1], [2, 2], [-1]):
        with pytest.raises(ConfigError, match=r"Shots are different numbers from 1 up, not"):
            generalisation.few_shot("pets", rows_of(["coop"]), shots, reference="", seeds=1)


def test_settings_that_were_published_are_noted() -> None:
    protocol = generalisation.few_shot(
        "pets", rows_of(["coop", "zero-shot"]), [1, 8], reference="", seeds=1, known="OxfordPets", published=True
    )  # fmt: skip
    assert protocol.notes({}) == [
        "coop, 1 shots: context=16, phrase='', epochs=50, as published",
        "coop, 8 shots: context=16, phrase='', epochs=200, as published",
        "zero-shot: templates=['a photo of a {}, a type of pet.'], as published",
    ]
    assert protocol.notes({"epochs": 3, "templates": ["{}"]}) == []


def test_published_numbers_of_steps() -> None:
    assert published.training("clip-lora", "", 16) == {"steps": 8000}
    assert [published.training("coop", "", n)["epochs"] for n in (1, 2, 4, 5)] == [50, 100, 100, 200]  # fmt: skip
    assert published.training("knn", "", 1) == {}
    assert published.sentences("coop", "OxfordPets", {}) == {}
    assert published.sentences("zero-shot", "none", {}) == {}
    assert published.sentences("zero-shot", "OxfordPets", {"templates": []}) == {}
    ensemble = published.sentences("zero-shot-ensemble", "ImageNet", {})["templates"]
    assert len(ensemble) == 7
    assert published.sentences("zero-shot-ensemble", "EuroSAT", {})["templates"][7:] == [
        "a centered satellite photo of {}."
    ]


def accuracies_by_folder(monkeypatch: pytest.MonkeyPatch, *modules: Any) -> None:
    """Every run's accuracy tells its folder: the sum of the digits of its path."""

    def record(folder: Path) -> Any:
        value = sum(int(c) for c in str(folder) if c.isdigit()) / 100
        request = RunRequest.model_construct(kind="classification")
        return Record.model_construct(request=request, scores={"test": {"accuracy": value}})

    for module in modules:
        monkeypatch.setattr(module, "read_record", record)


def test_scores_by_place_and_seed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracies_by_folder(monkeypatch, generalisation)
    few = generalisation.few_shot("pets", rows_of(["coop"]), [1, 4], reference="", seeds=2)
    assert generalisation.scores(few, Path("f"), few.rows[0]) == {"1": [0.01, 0.02], "4": [0.04, 0.05]}  # fmt: skip
    monkeypatch.setattr(
        generalisation,
        "read_transfer",
        lambda file: SimpleNamespace(name=file.stem, scores={"accuracy": int(file.parents[1].name[-1]) + 0.5}),
    )  # fmt: skip
    for protocol, own in (
        (base_to_novel("coop", "promptkd"), "base"),
        (base_to_novel("coop", "promptkd", places=["novel"]), "source"),
    ):
        root = tmp_path / own
        for row in protocol.rows:
            for run in protocol.runs(root, row):
                (run / "transfer").mkdir(parents=True)
                for place in ("novel", "base") if row.name == "promptkd" else ("novel",):
                    (run / f"transfer/{place}.json").write_text("")
        coop, kd = (generalisation.scores(protocol, root, row) for row in protocol.rows)
        assert list(coop) == [own, "novel"]
        assert coop["novel"] == [0.5, 1.5]
        assert len(coop[own]) == 2
        if own == "base":
            assert kd == {"base": [0.5, 1.5], "novel": [0.5, 1.5]}, "its own test is of all classes"
        else:
            assert (len(kd["source"]), kd["base"]) == (2, [0.5, 1.5])


def test_heads_of_fixed_classes_are_refused_before_anything_is_trained(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    from petiole.backbones.registry import load_backbone

    vit = load_backbone("petiole/tiny-vit", device="meta")
    monkeypatch.setattr(generalisation, "open_workspace", lambda _: SimpleNamespace(backbone=vit))
    with pytest.raises(
        ConfigError, match=r"linear-probe has a fixed set of classes and cannot name"
    ):
        generalisation._check_names([RunSpec(TASK, "linear-probe", Path("f"))])


def test_room_to_move(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = headroom.jobs_of(TASK, Path("f"), shots=4, seeds=2, known="OxfordPets", resume=True)
    runs = [("zero-shot", 0), ("class-means", 0), ("class-means", 1), ("logistic-regression", 0), ("logistic-regression", 1)]  # fmt: skip
    assert [(m.task.part, m.method, m.seed) for m in made] == [
        (half, *run) for half in ("base", "novel") for run in runs
    ]
    assert made[0].settings == {"templates": ["a photo of a {}, a type of pet."]}
    assert made[1].settings == {}
    assert made[7].folder == Path("f/headroom/novel/class-means/seed-1")
    assert made[7].options == Subset(4, 1)
    assert all(m.resume and m.task.quiet for m in made)
    assert headroom.accuracies(tmp_path, 2) == {}
    (tmp_path / "headroom").mkdir()
    accuracies_by_folder(monkeypatch, headroom)
    monkeypatch.chdir(tmp_path)
    found = headroom.accuracies(Path(), 2)
    assert found["zero-shot"] == {"base": [0.0], "novel": [0.0]}
    assert found["class-means"] == found["logistic-regression"] == {"base": [0.0, 0.01], "novel": [0.0, 0.01]}  # fmt: skip

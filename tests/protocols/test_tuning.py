"""Settings are chosen on validation images, once a row, and the test set stays closed meanwhile."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petiole.data.splits import holdout
from petiole.engine.executor import Local
from petiole.engine.record import TEST_EVALUATIONS, read_record
from petiole.engine.task import open_workspace
from petiole.protocols import domain_shift, tuning
from petiole.protocols.comparison import Comparison, ComparisonRow
from petiole.tasks.classification.predictions import read_predictions
from petiole.tasks.classification.workspace import VALIDATION_SEED, Classification, Subset

GRID = {"lr": [1e-6, 3e-2], "clip": [0.0, 1.0]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes by brightness, twelve images each."""
    root = tmp_path_factory.mktemp("tuning")
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 180)):
        (root / label).mkdir()
        for i in range(12):
            pixels = np.clip(level + rng.normal(0, 30, (40, 40, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def done(
    photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Comparison, Classification, Path]:
    """A comparison with one tuned row and one without a grid."""
    folder = tmp_path_factory.mktemp("comparison") / "c"
    bench = Classification("petiole/tiny-vit", photos, cache=folder.parent / "cache", quiet=True)
    comparison = Comparison(
        title="t",
        rows=[
            ComparisonRow(name="probe", label="Probe", method="linear-probe", grid=GRID),
            *domain_shift.rows_of(["class-means"]),
        ],
        split_seeds=2,
        seeds=1,
        shots=4,
        validation=0.5,
        reference="probe",
        baseline="class-means",
        headline="probe",
    )
    jobs = domain_shift.jobs_of(comparison, bench, folder, {"steps": 6, "views": 0})
    domain_shift.compare(comparison, jobs, folder, executor=Local(), quiet=True)
    return comparison, bench, folder


def test_points_are_all_combinations_in_order() -> None:
    row = ComparisonRow(name="r", label="R", method="linear-probe", grid=GRID)
    assert tuning.points(row) == [
        {"lr": 1e-6, "clip": 0.0},
        {"lr": 1e-6, "clip": 1.0},
        {"lr": 3e-2, "clip": 0.0},
        {"lr": 3e-2, "clip": 1.0},
    ]
    assert tuning.points(ComparisonRow(name="r", label="R", method="knn")) == [{}]


def test_methods_bring_their_own_rates() -> None:
    rows = tuning.with_rates(domain_shift.rows_of(["adaptertune", "knn", "peft:loha"]))
    assert [sorted(row.grid) for row in rows] == [["lr"], [], ["lr"]]
    assert rows[0].grid["lr"] == sorted(rows[0].grid["lr"])
    assert rows[2].name == "peft-loha"


def test_the_best_of_validation_trains_on_all_images(
    done: tuple[Comparison, Classification, Path],
) -> None:
    comparison, _, folder = done
    losses = []
    for i in range(4):
        places = [folder / "tuning" / "probe" / str(i) / f"fold-{fold}" for fold in range(2)]
        found = [read_predictions(place) for place in places]
        of_each = [
            -float(f.probabilities[range(len(f.labels)), f.labels].double().log().mean())
            for f in found
        ]
        assert of_each == pytest.approx([read_record(place).main["nll"] for place in places])
        losses.append(sum(of_each) / 2)
    best = losses.index(min(losses))
    assert best >= 2, "a rate of 1e-6 cannot have learned"
    for run in comparison.runs(folder, "probe"):
        record = read_record(run)
        assert record.request.settings["lr"] == GRID["lr"][best // 2]
        assert record.request.settings["clip"] == GRID["clip"][best % 2]
        assert record.request.data.samples["train"] == 8
        assert record.test_evaluations == 1
    said = Comparison.read(folder).notes
    assert any("lr=0.03 of (1e-06, 0.03) by mean log-loss of 2 folds" in note for note in said)


def test_trials_leave_the_test_set_closed(
    done: tuple[Comparison, Classification, Path],
) -> None:
    _, bench, folder = done
    test = {s.id for s in open_workspace(bench).shift.test.samples}
    shots, _ = open_workspace(bench).parts(Subset(4, 0))
    for i, fold in itertools.product(range(4), range(2)):
        _, held = holdout(shots, 0.5, VALIDATION_SEED, fold)
        trial = folder / "tuning" / "probe" / str(i) / f"fold-{fold}"
        record = read_record(trial)
        assert record.test_evaluations == 0
        assert not (trial / TEST_EVALUATIONS).exists()
        assert record.request.data.digests["validation"] == held.digest()
        assert record.request.data.samples == {"train": 4, "validation": 4}
    assert not test & {s.id for s in shots.samples}


def test_a_second_call_changes_nothing(done: tuple[Comparison, Classification, Path]) -> None:
    comparison, bench, folder = done
    files = {p: p.stat().st_mtime_ns for p in folder.rglob("record.json")}
    settings = {"steps": 6, "views": 0}
    jobs = domain_shift.jobs_of(comparison, bench, folder, settings, resume=True)
    domain_shift.compare(comparison, jobs, folder, executor=Local(), resume=True, quiet=True)
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("record.json")} == files


@pytest.mark.parametrize(("value", "warned"), [(1e-3, True), (1e-2, False), (1e-1, True)])
def test_a_choice_at_an_end_of_its_grid_is_pointed_out(
    done: tuple[Comparison, Classification, Path], value: float, warned: bool
) -> None:
    row = ComparisonRow(
        name="probe", label="P", method="linear-probe", grid={"lr": [1e-3, 1e-2, 1e-1]}
    )
    changed = done[0].model_copy(update={"rows": [row]})
    (note,) = tuning.notes(changed, {"probe": {"lr": value}})
    assert ("an end of the grid" in note) == warned


def test_fractions_are_nested_and_validation_is_the_same_for_all(
    done: tuple[Comparison, Classification, Path],
) -> None:
    _, bench, _ = done
    workspace = open_workspace(bench)
    parts = [workspace.parts(Subset(None, 3, fraction, 0.25)) for fraction in (0.2, 0.6, 1.0)]
    ids = [{s.id for s in train.samples} for train, _ in parts]
    assert ids[0] < ids[1] < ids[2]
    assert len({scored.digest() for _, scored in parts}) == 1
    held = {s.id for s in parts[0][1].samples}
    whole = {s.id for s in workspace.shift.train.samples}
    assert not held & ids[2]
    assert held | ids[2] == whole
    assert workspace.parts(Subset(None, 4, 0.6, 0.25))[1].digest() == parts[0][1].digest()

"""What ships with an adapter: calibration, predictions with doubt, contracts, differences, and images to label."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import petiole
from builders.cli import say
from builders.images import write_images
from builders.tables import rows_of
from petiole.commands.diff import _titles
from petiole.engine.adapter import Adapter
from petiole.engine.run import RunSpec, run
from petiole.errors import AdapterError, ConfigError, DataError
from petiole.files import write_sealed
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.contract import read_contract
from petiole.tasks.classification.workspace import Classification, Subset


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("ship")
    write_images(root / "train", 12, 0)
    write_images(root / "test", 6, 1)
    return root


@dataclass(frozen=True)
class Fitted:
    """A finished run."""

    adapter: Path
    scores: dict[str, float]


def fit(
    place: Path,
    name: str,
    method: str,
    *,
    shots: int = 8,
    folds: int | None = None,
    images: Path | None = None,
    **settings: Any,
) -> Fitted:
    """What ``petiole fit`` does, without its page, which takes longest."""
    task = Classification(
        "petiole/tiny-vit",
        images or place / "train",
        test=None if images else place / "test",
        cache=place / "cache",
        quiet=True,
    )
    options = Subset(shots, calibration_folds=folds)
    record = run(RunSpec(task, method, place / name, settings, options))
    return Fitted(place / name / "adapter", record.scores["test"])


@pytest.fixture(scope="module")
def ridge(place: Path) -> Fitted:
    return fit(place, "ridge", "ridge")


@pytest.fixture(scope="module")
def probe(place: Path) -> Fitted:
    return fit(place, "lora", "lora-qkv", steps=3, views=0, lr=1e-2)


def test_a_solved_head_is_calibrated_and_a_trained_one_when_asked(
    place: Path, ridge: Fitted, probe: Fitted
) -> None:
    own = ClassificationAdapter.load(ridge.adapter).calibration
    assert own is not None
    assert (own.images, own.folds, len(own.scores)) == (24, 5, 24)
    assert own.scores == sorted(own.scores)
    assert ridge.scores["calibrated_nll"] < ridge.scores["nll"]
    assert ClassificationAdapter.load(probe.adapter).calibration is None
    asked = fit(place, "asked", "linear-probe", folds=2, steps=3, views=0)
    found = ClassificationAdapter.load(asked.adapter).calibration
    assert found is not None
    assert (found.images, found.folds) == (24, 2)
    none = fit(place, "none", "ridge", folds=0)
    assert ClassificationAdapter.load(none.adapter).calibration is None


def test_folds_that_leave_nothing_out_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="2 or more, or 0"):
        petiole.fit(place / "train", method="ridge", calibration_folds=1, shots=2, quiet=True)
    with pytest.raises(ConfigError, match="is for labelled images"):
        petiole.fit(place / "train", method="vl-adapter", calibration_folds=2)
    with pytest.raises(ConfigError, match="no class has two"):
        fit(place, "shot", "ridge", folds=2, shots=1)
    quiet = fit(place, "quiet", "ridge", shots=1)
    assert ClassificationAdapter.load(quiet.adapter).calibration is None


def test_predictions_have_sets_and_marks(place: Path, ridge: Fitted, tmp_path: Path) -> None:
    images = place / "test"
    options = {"coverage": 0.8, "abstain_below": 0.9, "csv": tmp_path / "out.csv"}
    found = petiole.predict(ridge.adapter, images, **options).predictions
    adapter = ClassificationAdapter.load(ridge.adapter)
    calibration = adapter.calibration
    assert calibration is not None
    for row in found:
        inside = [n for n, p in row.probabilities.items() if 1 - p <= calibration.bound(0.8)]
        assert row.label_set == (inside or [row.label])
        assert row.abstain == (row.probability < 0.9 or row.outside)
    assert any(len(row.label_set) < 3 for row in found)
    rows = rows_of(tmp_path / "out.csv")
    assert [r["label_set"].split("|") for r in rows] == [p.label_set for p in found]
    assert {r["abstain"] for r in rows} <= {"yes", "no"}
    all_labels = petiole.predict(ridge.adapter, images, coverage=0.99)
    assert all(len(row.label_set) == 3 for row in all_labels.predictions)
    assert "too few for sets at 0.99" in all_labels.notes[0]
    module = petiole.load_adapter(ridge.adapter)
    assert module.predict(images)[0].probability == pytest.approx(found[0].probability, abs=1e-6)
    module.save(tmp_path / "again")
    assert ClassificationAdapter.load(tmp_path / "again").calibration == calibration
    module.train()
    assert module.calibration is None


def test_images_of_noise_look_out_of_distribution(ridge: Fitted) -> None:
    adapter = ClassificationAdapter.load(ridge.adapter)
    assert adapter.calibration is not None
    assert adapter.calibration.novelty is not None
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), dtype=np.uint8)
    found = petiole.predict(ridge.adapter, noise, abstain_below=0.01).predictions
    assert sum(bool(row.outside) for row in found) > 4
    assert all(row.abstain == row.outside for row in found)


def test_an_adapter_without_calibration_says_so(place: Path, probe: Fitted) -> None:
    image = place / "test" / "ash" / "0.png"
    assert "not calibrated" in petiole.predict(probe.adapter, image).notes[0]
    for option in ("coverage", "abstain_below"):
        with pytest.raises(ConfigError, match=r"is not calibrated.*--calibration-folds 5"):
            petiole.predict(probe.adapter, image, **{option: 0.9})
    with pytest.raises(ConfigError, match="probability"):
        petiole.predict(probe.adapter, image, coverage=90)


def test_a_damaged_calibration_is_refused(ridge: Fitted, tmp_path: Path) -> None:
    Adapter.load(ridge.adapter).save(tmp_path)
    file = tmp_path / "adapter.json"
    value = json.loads(file.read_text())
    value["details"]["calibration"]["temperature"] = -1
    write_sealed(file, value)
    with pytest.raises(AdapterError, match=r"damaged: calibration: temperature"):
        ClassificationAdapter.load(tmp_path)


CONTRACT = """
[accuracy]
min = {accuracy}
[ece]
max = 1
[[recall]]
class = "ash"
min = 0
slice = "ash/[01].png"
[[corruption]]
name = "jpeg_compression"
severity = 1
max_drop = 1
[ood]
images = "others"
min_auroc = 0
"""


def test_a_contract_passes_or_fails_line_by_line(place: Path, ridge: Fitted) -> None:
    write_images(place / "others", 3, 5, classes=("stone",))
    data = (place / "test",)
    for bound, code in ((0, 0), (1.0, 1)):
        (place / "contract.toml").write_text(CONTRACT.format(accuracy=bound))
        said = say("check", ridge.adapter, place / "contract.toml", *data, "--json")
        lines = {line["name"]: line for line in said.json["lines"]}
        wrong = lines["accuracy"]["value"] < 1
        assert said.code == (code if wrong else 0)
        assert lines["accuracy"]["ok"] == (code == 0 or not wrong)
        assert lines["recall of ash on ash/[01].png"]["images"] == 2
        assert lines["AUROC against others"]["images"] == 18 + 3
    scored = petiole.evaluate(ridge.adapter, place / "test").scores["test"]
    assert lines["accuracy"]["value"] == pytest.approx(scored["accuracy"])
    assert lines["ECE"]["value"] == pytest.approx(scored["calibrated_ece"], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "asks for nothing"),
        ("accuracy = ", "cannot be read as TOML"),
        ("[accurac_y]\nmin = 1", r"Unknown table of a contract 'accurac_y'.*accuracy"),
        ("[ece]\nmin = 1\nmax = 1", r"Unknown key in \[ece\] 'min'"),
        ('[[recall]]\nclass = "ash"\nmn = 1\nmin = 1', r"key in \[recall\] 'mn'.*min"),
        ('[[recall]]\nclass = "ash"\nmim = 1', r"key in \[recall\] 'mim'. Did you mean min"),
        ('[[recall]]\nclass = "ash"', "recall.0 needs min"),
        ("[accuracy]\nmin = 2", "accuracy.min: .*not 2"),
    ],
)
def test_a_slip_in_a_contract_is_named(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "contract.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        read_contract(file)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('[[recall]]\nclass = "ahs"\nmin = 0', ConfigError, "ash"),
        ('[[corruption]]\nname = "defocus_blu"\nmax_drop = 0', ConfigError, "defocus_blur"),
        ('[[recall]]\nclass = "ash"\nmin = 0\nslice = "night/*"', DataError, r"ash/\d+\.png"),
        ('[zero_shot]\nimages = "others"\nmax_drop = 0', ConfigError, "fixed set of classes"),
    ],
)
def test_a_contract_that_does_not_fit_is_told(
    place: Path, ridge: Fitted, tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    file = tmp_path / "contract.toml"
    file.write_text(text)
    with pytest.raises(error, match=message):
        petiole.check(ridge.adapter, file, data=place / "test")


def test_zero_shot_classes_are_kept_by_what_trains_nothing(place: Path, tmp_path: Path) -> None:
    task = Classification("petiole/tiny-clip", place / "train", test=place / "test", quiet=True)
    run(RunSpec(task, "zero-shot", tmp_path / "run", options=Subset(3, calibration_folds=None)))
    found = ClassificationAdapter.load(tmp_path / "run").calibration
    assert found is not None
    assert (found.images, found.folds) == (9, 0)
    write_images(tmp_path / "novel", 2, 3, classes=("circle", "square"))
    (tmp_path / "contract.toml").write_text('[zero_shot]\nimages = "novel"\nmax_drop = 0.0')
    done = petiole.check(tmp_path / "run", tmp_path / "contract.toml", data=place / "test")
    assert done.ok
    assert (done.lines[0]["value"], done.lines[0]["images"]) == (0, 4)


def test_diff_counts_flips_and_layers(
    place: Path, ridge: Fitted, probe: Fitted, tmp_path: Path
) -> None:
    found = petiole.diff(ridge.adapter, probe.adapter, place / "test", out=tmp_path)
    one, two = (
        [
            p.label == Path(p.path).parent.name
            for p in petiole.predict(r.adapter, place / "test").predictions
        ]
        for r in (ridge, probe)
    )
    assert found.fixed == sum(b and not a for a, b in zip(one, two, strict=True))
    assert found.broken == sum(a and not b for a, b in zip(one, two, strict=True))
    assert found.fixed + found.broken > 0
    assert sum(row["fixed"] for row in found.classes) == found.fixed
    assert found.layers["a"] == []  # ridge moves no tokens
    assert all(b["energy"] > 0 and b["effective_rank"] >= 1 for b in found.layers["b"])
    assert len(found.layers["b"]) > 1
    page = found.report.read_text()
    for part in ("ridge → lora", "By class", "Layer by layer", "Fixed", "Broken"):
        assert part in page
    same = petiole.diff(ridge.adapter, ridge.adapter, place / "test", out=tmp_path / "same")
    assert (same.fixed, same.broken) == (0, 0)


def test_diff_compares_the_classes_that_both_know(
    place: Path, ridge: Fitted, tmp_path: Path
) -> None:
    few = write_images(tmp_path / "few", 4, 0, classes=("ash", "birch"))
    fewer = fit(tmp_path, "fewer", "class-means", images=few, shots=2, folds=0)
    found = petiole.diff(ridge.adapter, fewer.adapter, place / "test", out=tmp_path / "page")
    assert (found.images, [row["name"] for row in found.classes]) == (12, ["ash", "birch"])
    assert any("1 of the classes are of" in note and "cedar" in note for note in found.notes)
    other = write_images(tmp_path / "other", 4, 0, classes=("yew", "elm"))
    alone = fit(tmp_path, "alone", "class-means", images=other, shots=2, folds=0)
    with pytest.raises(ConfigError, match="no class in common"):
        petiole.diff(ridge.adapter, alone.adapter, place / "test")


def test_label_writes_a_list_and_a_page(place: Path, tmp_path: Path) -> None:
    options = {"backbone": "petiole/tiny-vit", "cache_dir": place / "cache", "quiet": True}
    known = write_images(tmp_path / "known", 12, 0, classes=("ash",))  # a part of train, again
    found = petiole.label(
        place / "train", budget=3, labelled=known, out=tmp_path / "out", **options
    )
    assert (found.images, found.labelled, len(found.chosen)) == (24, 12, 3)
    assert not any("ash" in row.path for row in found.chosen)
    rows = rows_of(found.csv)
    assert [row["path"] for row in rows] == [row.path for row in found.chosen]
    page = found.report.read_text()
    assert page.count("<img ") == 3
    assert "Parameters" not in page
    with pytest.raises(DataError, match="1 to 36"):
        petiole.label(place / "train", budget=37, out=tmp_path / "out", **options)


def test_what_is_compared_is_named_as_short_as_tells_it_apart() -> None:
    a, b = Path("x/shoes/adapter"), Path("x/boots")
    assert _titles(a, b) == ("shoes", "boots")
    assert _titles(a, Path("y/shoes")) == ("A", "B")

"""Folders as people have them, by the command: small, empty, uneven, partial and single classes."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from builders.cli import say
from builders.images import write_images
from petiole.engine.record import read_record


@pytest.fixture
def fit(tmp_path: Path):
    """Fits class means on a folder; what it said, as JSON."""

    def run(data: Path, *more: object):
        out = tmp_path / "run"
        words = ("--backbone", "petiole/tiny-vit", "--cache-dir", tmp_path / "cache", "--quiet")
        method = () if "--method" in more else ("--method", "class-means")
        return say("fit", data, *method, *words, "--out", out, *more)

    return run


def test_small_classes_and_an_empty_one(tmp_path: Path, fit) -> None:
    photos = write_images(tmp_path / "photos", 3, 0)
    (photos / "empty").mkdir()
    (photos / "ash" / "read.me").write_text("x")
    refused = fit(photos)
    assert refused.code
    assert "empty: the class folder holds no images" in refused.err
    assert "--skip-bad" in refused.err
    done = fit(photos, "--skip-bad")
    assert not done.code, done.err
    notes = " ".join(read_record(tmp_path / "run").request.data.notes)
    assert "1 class folders" in notes
    assert "hold no images: empty" in notes
    assert "3 of 3 classes have fewer than 10 images to train on" in notes
    assert "ash 1, birch 1, cedar 1" in notes
    assert "ash/read.me" in notes


def test_a_test_set_of_a_part_of_the_classes_and_of_others(tmp_path: Path, fit) -> None:
    photos = write_images(tmp_path / "photos", 4, 0)
    other = write_images(tmp_path / "other", 2, 1, classes=("birch", "cedar", "doe"))
    done = fit(photos, "--test", other, "--shots", 4)
    assert not done.code, done.err
    record = read_record(tmp_path / "run")
    assert record.main["n"] == record.request.data.samples["test"] == 4
    assert record.request.data.classes == ["ash", "birch", "cedar"]
    notes = " ".join(record.request.data.notes)
    assert "2 images of other are of 1 other classes and not scored: doe 2." in notes
    assert "1 of 3 classes have no images in other" in notes
    assert ": ash." in notes
    scored = say("eval", tmp_path / "run", other, "--json").json
    assert scored["samples"] == 4
    assert len(scored["classes"]) == 3
    # check and diff score the same images and say the same of the rest.
    (tmp_path / "contract.toml").write_text(
        '[accuracy]\nmin = 0.0\n[[recall]]\nclass = "birch"\nmin = 0.0\n'
    )
    run, contract = tmp_path / "run", tmp_path / "contract.toml"
    checked = say("check", run, contract, "--data", other, "--json").json
    assert [line["images"] for line in checked["lines"]] == [4, 2]
    assert checked["lines"][0]["value"] == scored["scores"]["test"]["accuracy"]
    compared = say("diff", run, run, other, "--out", tmp_path / "diff", "--json").json
    assert compared["images"] == 4
    assert compared["notes"] == checked["notes"] == scored["notes"]
    contract.write_text('[[recall]]\nclass = "ash"\nmin = 0.5\n')
    missing = say("check", run, contract, "--data", other)
    assert missing.code
    assert "class ash, of which other has no image" in missing.err.replace("\n", " ")
    assert scored["notes"] == list(record.request.data.notes[:2])
    assert scored["scores"]["test"]["accuracy"] == record.main["accuracy"]
    apart = write_images(tmp_path / "apart", 2, 1, classes=("x", "y"))
    refused = say("eval", tmp_path / "run", apart)
    assert refused.code
    assert "none of the classes that are known: ash, birch, cedar" in refused.err


def test_uneven_classes_put_macro_accuracy_first(tmp_path: Path, fit) -> None:
    photos = write_images(tmp_path / "photos", 4, 0)
    for i in range(12):
        Image.effect_noise((24, 24), 10 + i).convert("RGB").save(photos / "ash" / f"more{i}.png")
    more = ("--method", "ridge", "--set", "class_weight=balanced", "--all-images")
    done = fit(photos, *more)
    assert not done.code, done.err
    assert "% macro accuracy over uneven classes on 12 held-back images" in done.out
    assert next(iter(read_record(tmp_path / "run").main)) == "macro_accuracy"
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "in the mean of the classes, which are uneven (2 to 8 test images)" in page
    assert page.index("mean accuracy of the classes") < page.index("over images</")


def test_one_class_gets_a_plain_word(tmp_path: Path, fit) -> None:
    done = fit(write_images(tmp_path / "photos", 4, 0, classes=("ash",)), "--shots", 2)
    assert not done.code, done.err
    assert "There is one class only, ash: nothing to tell apart" in " ".join(done.out.split())
    assert "100" not in done.out.partition("trained")[0]
    assert "There is one class only, ash" in (tmp_path / "run" / "report.html").read_text("utf-8")
    told = say("eval", tmp_path / "run", tmp_path / "photos")
    assert "one class only" in told.out


def test_default_names_tell_data_apart_and_a_collision_is_found_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import petiole
    from petiole.commands import announce
    from petiole.errors import RunError
    from petiole.tasks.classification.workspace import ClassificationWorkspace

    monkeypatch.chdir(tmp_path)
    places = [write_images(tmp_path / name / "photos", 4, seed) for seed, name in enumerate("ab")]
    terms = {"method": "class-means", "backbone": "petiole/tiny-vit", "shots": 2, "no_cache": True}
    runs = [petiole.fit(place, **terms, quiet=True) for place in places]
    names = [run.folder.name for run in runs]
    assert names[0] != names[1]
    for name in names:
        assert name.startswith("photos-class-means-split0-seed0-")
        assert len(name.rpartition("-")[2]) == 8
    # Nothing is computed: neither is a batch timed, nor a feature made.
    monkeypatch.setattr(announce, "announce", lambda *_: pytest.fail("announced"))
    with pytest.raises(RunError, match="already holds a run"):
        petiole.fit(places[0], **terms)
    monkeypatch.setattr(ClassificationWorkspace, "shift", property(lambda _: pytest.fail("opened")))
    with pytest.raises(RunError, match="already holds a run"):
        petiole.fit(places[0], **terms, out=runs[0].folder)

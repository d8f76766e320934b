"""CoOp's directories: their lists, label orders, draws and cached draws, and that nothing is written."""

from __future__ import annotations

import json
import pickle
import random
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petiole.data.readers import coop
from petiole.data.sources import open_shift
from petiole.errors import DataError


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


NAMES = ["face", "leopard", "motorbike", "accordion", "airplane", "anchor"]
FOLDERS = ["Faces", "Leopards", "Motorbikes", "accordion", "airplanes", "anchor"]


@pytest.fixture
def caltech(tmp_path: Path) -> Path:
    """Six classes as in CoOp's Caltech101, whose order is that of the folders, capitals first."""
    root, seed = tmp_path / "caltech-101", 0
    parts: dict[str, list[tuple[str, int, str]]] = {"train": [], "val": [], "test": []}
    for label, (folder, name) in enumerate(zip(FOLDERS, NAMES, strict=True)):
        for part, count in (("train", 5), ("val", 2), ("test", 3)):
            for i in range(count):
                path = f"{folder}/{part}_{i}.png"
                picture(root / "101_ObjectCategories" / path, seed := seed + 1)
                parts[part].append((path, label, name))
    random.Random(3).shuffle(parts["train"])
    (root / "split_zhou_Caltech101.json").write_text(json.dumps(parts, indent=4))
    return root


def tree(root: Path) -> list[tuple[str, int]]:
    return sorted((str(p), p.stat().st_mtime_ns) for p in root.rglob("*"))


def test_a_directory_is_read_as_it_is_and_not_written_to(caltech: Path) -> None:
    before = tree(caltech)
    shift = open_shift(caltech)
    shift.draw(2, 0)
    assert list(shift.classes) == NAMES
    assert set(shift.train.counts().values()) == {5}
    assert set(shift.test.counts().values()) == {3}
    assert list(shift.half("base").classes) == NAMES[:3]
    assert list(shift.half("novel").classes) == NAMES[3:]
    assert tree(caltech) == before


def test_pythons_draws_are_those_that_the_family_used() -> None:
    """Golden draws of Python's generator, with which Dassl samples few shots."""
    rng = random.Random(1)
    assert rng.sample(range(50), 16) == [8, 36, 4, 16, 7, 31, 28, 30, 41, 24, 13, 6, 44, 1, 40, 27]
    assert rng.sample(range(30), 4) == [19, 24, 0, 22]


def test_shots_are_dassls_whatever_half_is_used(caltech: Path) -> None:
    listed = json.loads((caltech / "split_zhou_Caltech101.json").read_text())["train"]
    order = list(dict.fromkeys(label for _, label, _ in listed))
    assert order != sorted(order), "the list must not be in the order of the labels"
    random.seed(2)  # the program's one seeding
    expected: dict[int, set[str]] = {}
    for label in order:
        mine = [path for path, other, _ in listed if other == label]
        expected[label] = set(random.sample(mine, 2))
    shift = open_shift(caltech)
    for part, labels in (("all", range(6)), ("base", range(3)), ("novel", range(3, 6))):
        drawn = shift.half(part).draw(2, seed=1)  # type: ignore[arg-type]
        found = {"/".join(p.parts[-2:]) for p in drawn.paths}
        assert found == set().union(*(expected[label] for label in labels))


def test_a_class_with_too_few_images_gives_all(caltech: Path) -> None:
    assert set(open_shift(caltech).draw(16, 0).counts().values()) == {5}


@pytest.fixture
def datum(monkeypatch: pytest.MonkeyPatch) -> type:
    """Dassl's class under Dassl's name, as a user's pickle states it."""

    class Datum:
        def __init__(self, path: str, label: int, name: str) -> None:
            self._impath, self._label, self._domain, self._classname = path, label, 0, name

    Datum.__module__, Datum.__qualname__ = "dassl.data.datasets.base_dataset", "Datum"
    for name in ("dassl", "dassl.data", "dassl.data.datasets", Datum.__module__):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules[Datum.__module__].Datum = Datum  # type: ignore[attr-defined]
    return Datum


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_cached_draw_wins_wherever_it_was_made(
    caltech: Path, datum: type, protocol: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [f"{folder}/train_{i}.png" for folder in FOLDERS for i in (4, 0)]
    rows = [datum(f"/elsewhere/data/caltech-101/101_ObjectCategories/{p}", 0, "") for p in chosen]
    (caltech / "split_fewshot").mkdir()
    content = pickle.dumps({"train": rows, "val": []}, protocol=protocol)
    (caltech / "split_fewshot" / "shot_2-seed_1.pkl").write_bytes(content)
    for name in [name for name in sys.modules if name.startswith("dassl")]:
        monkeypatch.delitem(sys.modules, name)
    drawn = open_shift(caltech).draw(2, 0)
    assert {"/".join(p.parts[-2:]) for p in drawn.paths} == set(chosen)
    assert "dassl" not in sys.modules


def test_a_pickle_that_runs_anything_is_refused(caltech: Path) -> None:
    class Evil:
        def __reduce__(self) -> object:
            return print, ("run",)

    (caltech / "split_fewshot").mkdir()
    file = caltech / "split_fewshot" / "shot_1-seed_1.pkl"
    file.write_bytes(pickle.dumps({"train": [Evil()]}))
    with pytest.raises(DataError, match=r"shot_1-seed_1\.pkl: refused"):
        open_shift(caltech).draw(1, 0)


def test_missing_images_are_listed(caltech: Path) -> None:
    (caltech / "101_ObjectCategories" / "anchor" / "test_1.png").unlink()
    with pytest.raises(DataError, match=r"1 of 18 listed images are missing(.|\n)*anchor/test_1"):
        open_shift(caltech)


def test_aircraft_has_lists_and_no_split_file(tmp_path: Path) -> None:
    root = tmp_path / "fgvc_aircraft"
    names = ["707-320", "F-16A/B"]
    for i, part in enumerate(("train", "val", "test")):
        for j in range(4):
            picture(root / "images" / f"{i}{j}.jpg", 10 * i + j)
        rows = [f"{i}{j} {names[j % 2]}" for j in range(4)]
        (root / f"images_variant_{part}.txt").write_text("\n".join(rows) + "\n")
    (root / "variants.txt").write_text("\n".join(names) + "\n")
    shift = open_shift(root)
    assert list(shift.classes) == names
    assert (len(shift.train), len(shift.test)) == (4, 4)


def test_imagenet_and_a_variant_with_some_of_its_classes(tmp_path: Path) -> None:
    names = {"n01": "crane", "n02": "hen", "n03": "crane"}
    text = "".join(f"{wnid} {name}\n" for wnid, name in names.items())
    whole, variant, second = (
        tmp_path / "imagenet",
        tmp_path / "imagenet-adversarial",
        tmp_path / "v2",
    )
    for root in (whole, variant, second):
        root.mkdir()
        (root / "classnames.txt").write_text(text)
    for i, wnid in enumerate(names):
        for j in range(2):
            picture(whole / "images" / "train" / wnid / f"{j}.jpg", 10 * i + j)
            picture(whole / "images" / "val" / wnid / f"{j}.jpg", 100 + 10 * i + j)
            picture(second / "format-val" / str(i) / f"{j}.jpg", 200 + 10 * i + j)
    for wnid in ("n03", "n02"):
        picture(variant / "imagenet-a" / wnid / "0.jpg", int(wnid[1:]))
    (variant / "imagenet-a" / "README.txt").write_text("not a class")
    assert list(open_shift(whole).classes) == ["crane", "hen", "crane_"]
    assert list(open_shift(variant).test.classes) == ["hen", "crane"]
    assert list(open_shift(second).test.classes) == ["crane", "hen", "crane_"]


def test_a_damaged_split_is_named(caltech: Path) -> None:
    (caltech / "split_zhou_Caltech101.json").write_text('{"train": [["a.jpg", 0]]}')
    with pytest.raises(DataError, match=r"split_zhou_Caltech101\.json: is no split file"):
        coop.read(caltech)

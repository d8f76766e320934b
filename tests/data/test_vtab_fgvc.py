"""VTAB-1k and FGVC by name, in miniature, each in the layout that its users share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from builders.public_sets import save
from petiole.data.readers.public import fgvc, find, names, registry, vtab, write_table
from petiole.data.readers.public.registry import files_of
from petiole.data.sources import open_shift
from petiole.errors import DataError


def shrunk(name: str, classes: int, images: int, patch: pytest.MonkeyPatch) -> None:
    patch.setitem(registry._KNOWN, name, replace(find(name), classes=classes, images=images))


def write_vtab(root: Path, task: str, classes: int = 12) -> None:
    folder = root / "vtab-1k" / task
    for part, lists, count in (("train", "train800val200.txt", 2), ("test", "test.txt", 1)):
        lines = []
        for i in range(classes * count):
            save(folder / "images" / part / f"{i:06d}.png")
            lines.append(f"images/{part}/{i:06d}.png {i % classes}\n")
        (folder / lists).write_text("".join(lines))


def write_json(root: Path, name: str) -> None:
    _, folder, start, *_ = fgvc.SETS[name]
    for part, count in (("train", 2), ("val", 1), ("test", 2)):
        rows = {f"{part}/{c}-{i}.png": c for c in (1, 2, 10) for i in range(count)}
        for path in rows:
            save(root / folder / start / path)
        (root / folder / f"{part}.json").write_text(json.dumps(rows))


def test_their_counts_are_the_published_ones() -> None:
    stated = {name: (one.classes, one.images) for name, one in names().items()}
    assert sum(name.startswith("vtab-") for name in stated) == len(vtab.TASKS) == 19
    assert stated["vtab-cifar"] == (100, 11_000)
    assert stated["vtab-kitti"] == (4, 1_711)
    assert stated["cub"] == (200, 5_994 + 5_794)
    assert stated["stanford-cars"] == (196, 8_144 + 8_041)


def test_a_task_of_vtab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_vtab(tmp_path, "clevr_count")
    shrunk("vtab-clevr-count", 12, 36, monkeypatch)
    shift = open_shift(tmp_path / "vtab-clevr-count")
    assert shift.classes == tuple(f"{i:02d}" for i in range(12))
    assert (len(shift.train), len(shift.test)) == (24, 12)
    lists = tmp_path / "vtab-1k" / "clevr_count" / "test.txt"
    lists.write_text("images/test/000000.png cat\n")
    with pytest.raises(DataError, match=r"test\.txt: not readable.*no path and number of a class"):
        open_shift(tmp_path / "vtab-clevr-count")
    with pytest.raises(DataError, match="vtab-dtd is not there"):
        files_of("vtab-dtd", tmp_path, cache=tmp_path)


@pytest.mark.parametrize("name", sorted(fgvc.SETS))
def test_a_fine_grained_set_by_its_json_lists(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_json(tmp_path, name)
    shrunk(name, 3, 15, monkeypatch)
    shift = open_shift(write_table(name, tmp_path, tmp_path / "list.csv", cache=tmp_path))
    assert shift.classes == ("001", "002", "010")
    assert shift.train.counts() == {"001": 3, "002": 3, "010": 3}
    assert shift.test.counts() == {"001": 2, "002": 2, "010": 2}


def test_cub_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "CUB_200_2011"
    files = [f"{c:03d}.bird/{i}.png" for c in (1, 2) for i in range(4)]
    for file in files:
        save(root / "images" / file)
    columns = {
        "images.txt": files,
        "image_class_labels.txt": [int(f[:3]) for f in files],
        "train_test_split.txt": [i % 2 for i in range(8)],
    }
    for name, column in columns.items():
        (root / name).write_text("".join(f"{i} {v}\n" for i, v in enumerate(column, start=1)))
    shrunk("cub", 2, 8, monkeypatch)
    assert open_shift(tmp_path / "cub").train.counts() == {"001": 2, "002": 2}
    (root / "images.txt").unlink()
    with pytest.raises(DataError, match=r"CUB_200_2011: has no lists\. Put train\.json"):
        open_shift(tmp_path / "cub")

"""NLVR of 2017, DAQUAR and a folder of captioned photographs, hand-made and as published."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.data.readers.daquar import open_daquar
from petiole.data.readers.registry import open_task
from petiole.data.text_dataset import hold_out
from petiole.data.text_sample import TextSample
from petiole.errors import DataError

Write = Callable[[str, Any], Path]


def drawing(key: str, label: str = "true") -> dict[str, str]:
    return {"identifier": key, "sentence": "There is a box.", "label": label}


def test_nlvr_names_the_picture_and_groups_by_set(write: Write, tmp_path: Path) -> None:
    write("train.json", [drawing("9-0"), drawing("9-1", "false")])
    write("dev.json", [drawing("8-0")])
    write("test.json", [drawing("7-3")])
    data = open_task("nlvr", tmp_path)
    images = ("train/images/train-9-1-0.png",)
    assert data["train"][1] == TextSample(
        "9-1", "There is a box.", images, {"false": 1.0}, ("false",), "9"
    )
    assert data["val"][0].images == ("dev/images/dev-8-0-0.png",)
    assert data["test"][0].key == "7-3"
    assert data.notes == ()


def test_nlvr_without_training_file_splits_dev_by_set(write: Write, tmp_path: Path) -> None:
    write("dev.json", [drawing(f"{s}-{i}") for s in range(200) for i in range(4)])
    data = open_task("nlvr", tmp_path)
    train, val = ({s.group for s in data[part]} for part in ("train", "val"))
    assert not train & val
    assert len(train | val) == 200
    assert 20 < len(val) < 60
    assert "no train.json" in data.notes[0]


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), unique=True), st.floats(0, 1))
def test_holding_out_tears_no_image_and_ignores_order(
    pairs: list[tuple[int, int]], share: float
) -> None:
    samples = [TextSample(f"{i}-{j}", images=(f"{i}.png",)) for i, j in pairs]
    kept, held = hold_out(samples, share)
    assert not {s.images for s in kept} & {s.images for s in held}
    assert sorted(s.key for s in kept + held) == sorted(s.key for s in samples)
    assert {s.key for s in hold_out(samples[::-1], share)[1]} == {s.key for s in held}


def daquar(root: Path, table: str, train: str = "image1", test: str = "image2") -> Path:
    (root / "data.csv").write_text(table)
    (root / "train_images_list.txt").write_text(train)
    (root / "test_images_list.txt").write_text(test)
    return root


def test_daquar_is_split_by_image_whatever_its_other_files_say(tmp_path: Path) -> None:
    table = 'question,answer,image_id\nwho, me,image2\nwhat,"book, cup",image1\nwho,you,image2\n'
    (tmp_path / "data_train.csv").write_text(table)
    data = open_task("answers", daquar(tmp_path, table))
    assert data["train"] == (
        TextSample("3", "what", ("images/image1.jpg",), {"book, cup": 1.0}, ("book, cup",)),
    )
    assert [(s.key, s.references) for s in data["test"]] == [("2", ("me",)), ("4", ("you",))]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"test": "image1"}, r"image1 is in both image lists"),
        ({"test": ""}, r"data\.csv, line 3: 'image2' is in no image list"),
        ({"table": "question,answer\n"}, r"column 'image_id' is missing"),
        ({"table": "question,answer,image_id\nwho,,image1\n"}, r"line 2: a cell is empty"),
        ({"table": "question,answer,image_id\nwho\n"}, r"line 2: a cell is empty"),
    ],
)
def test_daquar_that_cannot_be_used(tmp_path: Path, change: dict[str, str], message: str) -> None:
    table = "question,answer,image_id\nwho,me,image1\nwho,me,image2\n"
    with pytest.raises(DataError, match=message):
        open_daquar(daquar(tmp_path, **({"table": table} | change)))


def test_daquar_without_its_files_names_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train_images_list\.txt: no such file"):
        open_daquar(tmp_path)
    (daquar(tmp_path, "") / "data.csv").unlink()
    with pytest.raises(DataError, match=r"data\.csv: no such file\. Its columns are question"):
        open_daquar(tmp_path)


def test_captioned_photographs(write: Write, tmp_path: Path) -> None:
    row = {"file": "val2017/1.jpg", "captions": ["A cat.", "A pet."], "objects": ["cat"]}
    write("val2017.json", [row])
    [sample] = open_task("caption", tmp_path)["val"]
    assert (sample.images, sample.references) == (("val2017/1.jpg",), ("A cat.", "A pet."))
    write("val2017.json", [row | {"captions": ["A cat.", ""]}])
    with pytest.raises(DataError, match=r"val2017/1\.jpg: a caption is empty"):
        open_task("caption", tmp_path)


@pytest.mark.parametrize(
    ("folder", "task", "counts"),
    [
        ("nlvr", "nlvr", {"dev": 989, "test": 990}),
        ("daquar160", "answers", {"all": 12468}),
        ("coco_mini256", "caption", {"train": 80 * 5, "val": 79}),
    ],
)
def test_the_published_files_are_read_whole_and_every_image_is_there(
    shared: Path, folder: str, task: str, counts: dict[str, int]
) -> None:
    data = open_task(task, shared / folder)
    sizes = {part: len(samples) for part, samples in data.parts.items()}
    sizes |= {"dev": sizes["train"] + sizes.get("val", 0), "all": sum(sizes.values())}
    assert {part: sizes[part] for part in counts} == counts
    assert data.missing() == ()
    assert all(s.targets and s.references for part in data.parts.values() for s in part)
    images = {part: {i for s in samples for i in s.images} for part, samples in data.parts.items()}
    assert len(set().union(*images.values())) == sum(map(len, images.values()))


def test_nlvr_is_as_balanced_as_published(shared: Path) -> None:
    data = open_task("nlvr", shared / "nlvr")
    truth = [s.references == ("true",) for s in data["test"]]
    assert sum(truth) / len(truth) == pytest.approx(0.562, abs=5e-4)

"""What data refuse or take just at their bounds, and the sentences that say so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petiole.data import memory
from petiole.data.checks.images import left_out
from petiole.data.checks.leaks import _equal_ids
from petiole.data.corruptions import _pixelate
from petiole.data.dataset import MOST_NAME, Dataset
from petiole.data.features.shards import _Cursor
from petiole.data.inputs import as_dataset
from petiole.data.memory import to_image
from petiole.data.readers import masks
from petiole.data.readers.classes import _drawn
from petiole.data.readers.json_rows import JsonRow
from petiole.data.readers.jsonl import _one_of
from petiole.data.readers.table import read_records
from petiole.data.splits import holdout
from petiole.data.typiclust import typiclust
from petiole.data.unlabelled import unlabelled
from petiole.errors import DataError


class Listed:
    """A map-style data set."""

    def __init__(self, *items: Any) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


GREY = np.full((2, 3, 3), 128, np.uint8)


def test_one_bad_image_is_told_alone_and_several_are_counted() -> None:
    one, two = {Path("a"): "a is broken."}, {Path("a"): "a is broken.", Path("b"): "b too."}
    with pytest.raises(DataError, match=r"^a is broken\.$"):
        left_out(one, 5)
    with pytest.raises(DataError, match=r"(?s)^2 of 5 images cannot be used:\n.*a is broken\..*b too\."):  # fmt: skip
        left_out(two, 5)
    assert len(left_out(one, 5, skip_bad=True)) == 1


def test_a_class_name_has_a_most_of_characters() -> None:
    assert Dataset("x", ("a" * MOST_NAME,), ()).classes == ("a" * MOST_NAME,)
    with pytest.raises(DataError, match=r"a class name has 1,001 characters and begins with 'aaa"):
        Dataset("x", ("a" * (MOST_NAME + 1),), ())


def test_map_style_data_sets_have_items_and_labels_for_all_or_none() -> None:
    with pytest.raises(DataError, match=r"^The data set Listed is empty\.$"):
        as_dataset(Listed())
    for items in (((GREY, "a"), GREY), ((GREY, "a"), (GREY, "b"), GREY)):
        with pytest.raises(DataError, match="The data set Listed has labels for some items only"):
            as_dataset(Listed(*items))


def test_a_row_is_shown_as_it_was_written() -> None:
    row = JsonRow("f.jsonl, line 3", {"answer": "é", "image": "x", "images": ["y"]}, 3)
    assert str(row.wrong("answer", "is odd")) == (
        "f.jsonl, line 3: field 'answer' is odd; it is \"é\". Correct it there."
    )
    with pytest.raises(DataError, match=r"^f\.jsonl, line 3: has image and images\. Keep one of them\.$"):  # fmt: skip
        _one_of(row, ("image", "images"))
    assert _one_of(row, ("answer", "other")) == "answer"
    assert _one_of(row, ("other",)) is None


@pytest.mark.parametrize("most", [5, 6])
def test_pixels_are_counted_as_height_by_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(memory, "MAX_PIXELS", most)
    monkeypatch.setattr(masks, "MAX_PIXELS", most)
    Image.new("L", (3, 2)).save(tmp_path / "mask.png")
    if most == 6:
        assert (
            to_image(GREY[..., :1], "it").size
            == masks._opened(tmp_path / "mask.png").size
            == (3, 2)
        )
        return
    with pytest.raises(DataError, match="an image of shape"):
        to_image(GREY[..., :1], "it")
    with pytest.raises(DataError, match="3 x 2 pixels are too many"):
        masks._opened(tmp_path / "mask.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_that_come_first_are_seen(channels: int) -> None:
    with pytest.raises(DataError, match=r"Its channels are on another axis: x\.transpose\(1, 2, 0\)\.$"):  # fmt: skip
        to_image(np.zeros((channels, 4, 5), np.uint8), "it")


def test_the_smallest_image_is_one_pixel_when_it_is_coarse() -> None:
    thin = Image.fromarray(np.array([[0], [0], [255]], np.uint8))
    coarse = np.asarray(_pixelate(thin, 4))
    assert coarse.shape == (3, 1)
    assert len(np.unique(coarse)) == 1


def test_a_cursor_reaches_its_own_row() -> None:
    cursor = SimpleNamespace(path=Path("s"), _first=4)
    reached = [_Cursor.reaches(cursor, Path("s"), row) for row in (3, 4, 5)]  # type: ignore[arg-type]
    assert reached == [False, True, True]
    assert not _Cursor.reaches(cursor, Path("t"), 4)  # type: ignore[arg-type]


def test_rows_of_parquet_are_counted_from_1(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"path": ["a", "b"], "label": ["x", "y"]}), tmp_path / "t.parquet")
    _, rows = read_records(tmp_path / "t.parquet")
    assert [number for number, _ in rows] == [1, 2]


def test_folds_hold_back_every_image_once() -> None:
    data = as_dataset([(np.full((2, 2, 3), i, np.uint8), "ab"[i % 2]) for i in range(16)])
    held = [holdout(data, 0.25, 3, fold)[1].ids for fold in range(5)]
    assert sorted(i for ids in held[:4] for i in ids) == sorted(data.ids)
    assert held[4] == held[0], "they begin anew"
    assert {*held[0], *held[1]} == set(holdout(data, 0.5, 3)[1].ids), "those that come next"


def test_clusters_are_of_directions() -> None:
    vectors = np.random.default_rng(0).normal(size=(30, 4))
    labelled = np.arange(30) < 3
    short = typiclust(1e-3 * vectors, labelled, 4)
    assert [one.row for one in short] == [one.row for one in typiclust(vectors, labelled, 4)]
    lengths = np.linspace(0.001, 1, 30)[:, None]
    assert [one.row for one in typiclust(lengths * vectors, labelled, 4)] == [one.row for one in short]  # fmt: skip


def images_of_classes(count: int, classes: Sequence[str] = ("a", "b")) -> Dataset:
    given = [(np.full((2, 2, 3), 100 * i + j, np.uint8), name) for i, name in enumerate(classes) for j in range(count)]  # fmt: skip
    return as_dataset(given)


def test_shares_of_a_folder_without_parts_are_of_the_whole() -> None:
    drawn = _drawn(images_of_classes(8), val=0.25, test=0.5, seed=0)
    assert {part: len(data) for part, data in drawn.items()} == {"train": 4, "val": 4, "test": 8}
    assert not set(drawn["train"].ids) & set(drawn["val"].ids)


@pytest.mark.parametrize("shares", [(0, 0.5), (0.5, 0), (0.5, 0.5), (float("nan"), 0.5)])
def test_shares_that_leave_a_part_empty(shares: tuple[float, float]) -> None:
    with pytest.raises(DataError, match=r"leave a part empty\. Both must be above 0"):
        _drawn(images_of_classes(8), *shares, seed=0)


def test_equal_images_are_nothing_apart() -> None:
    data = images_of_classes(2)
    same, apart = _equal_ids(data, data)(slice(0, 4), slice(1, 4))
    assert same.tolist() == np.eye(4, dtype=bool)[:, 1:].tolist()
    assert apart.shape == (4, 3)
    assert not apart.any()


def test_a_list_of_one_folder_is_that_folder(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    assert [one.path for one in unlabelled([tmp_path], "new").samples] == [tmp_path / "x.png"]

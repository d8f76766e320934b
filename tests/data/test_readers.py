"""Readers register, are asked in order, and come from other packages too."""

import importlib.metadata
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from petiole.data.checks.images import ImageFile, build
from petiole.data.dataset import Dataset
from petiole.data.readers import base
from petiole.data.readers.base import (
    ImageParts,
    ImageReader,
    TextReader,
    reader_of,
    readers,
    register,
)
from petiole.data.readers.registry import is_video, open_questions, open_task
from petiole.data.sources import open_data, open_shift
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError, DataError

MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def own_registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers goes with it."""
    readers(ImageReader)
    monkeypatch.setattr(base, "_READERS", dict(base._READERS))
    yield
    base._load.cache_clear()


def open_contact_sheet(path: Path, skip_bad: bool = False) -> Dataset:
    """A folder with labels in the names: red-0.png."""
    files = sorted(path.glob("*.png"))
    entries = [ImageFile(file, file.stem.split("-")[0]) for file in files]
    return build(path.name, entries, None, skip_bad=skip_bad)


SHEET = ImageReader(
    name="sheet",
    layout="<class>-<number>.png and sheet.txt",
    recognises=lambda path: (path / "sheet.txt").is_file(),
    open=open_contact_sheet,
)


@pytest.fixture
def sheet(tmp_path: Path) -> Path:
    (tmp_path / "sheet.txt").touch()
    for i, name in enumerate(["red-0", "red-1", "blue-0", "blue-1"]):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_every_layout_is_a_reader() -> None:
    images = [reader.name for reader in readers(ImageReader)]
    assert images == [
        *("published", "saved data set", "Parquet of images", "table", "WebDataset"),
        *("coop", "pair", "split", "folder"),
    ]
    texts = {reader.name: reader.task for reader in readers(TextReader)}
    assert next(iter(texts)) == "JSON Lines"
    assert list(texts)[-1] == "class folders"
    assert {task for task in texts.values() if task} == {
        *("vqa", "gqa", "nlvr", "caption", "tvqa", "how2qa", "tvc", "yc2c", "question")
    }
    assert {name for name, task in texts.items() if not task} == {
        *("JSON Lines", "VQA-RAD", "daquar", "coco-folder", "nlvr")
    }
    assert is_video("tvc")
    assert not is_video("vqa")


def test_a_reader_of_ones_own_opens_data_and_splits(sheet: Path) -> None:
    with pytest.raises(DataError, match="4 images lie directly in it"):
        open_data(sheet)
    register(SHEET)
    assert open_data(sheet).counts() == {"blue": 2, "red": 2}
    shift = open_shift(sheet)
    assert (len(shift.train), len(shift.test)) == (2, 2)


def test_a_reader_may_say_who_tests_and_draw_shots(sheet: Path) -> None:
    def parts(path: Path, has_test: bool = False) -> ImageParts:
        data = open_contact_sheet(path)
        half = data.select([0, 2]), data.select([1, 3])
        return ImageParts(half[0], None if has_test else half[1], sampler=lambda d, *_: d)

    register(replace(SHEET, parts=parts))
    shift = open_shift(sheet)
    assert shift.draw(1, 0) == shift.train
    assert len(open_shift(sheet, test=sheet).test) == 4


def test_a_text_reader_is_found_by_its_files_and_by_its_task(tmp_path: Path) -> None:
    def open_riddles(root: Path, order: str = "") -> TextDataset:
        sample = TextSample("1", f"riddle {order}", (), {"egg": 1.0}, ("egg",))
        return TextDataset("riddle", root, {"train": (sample,)})

    own = TextReader(
        name="riddles",
        layout="riddles.txt",
        recognises=lambda root: (root / "riddles.txt").is_file(),
        open=open_riddles,
    )
    register(own)
    register(replace(own, name="shared riddles", task="riddle", recognises=lambda _: False))
    assert open_task("riddle", tmp_path, "safe")["train"][0].text == "riddle safe"
    with pytest.raises(DataError, match=r"riddles: riddles\.txt"):
        open_questions(tmp_path)
    (tmp_path / "riddles.txt").touch()
    assert open_questions(tmp_path).task == "riddle"
    assert open_task("vqa", tmp_path).task == "vqa"


def test_several_tasks_in_one_folder_need_a_name(tmp_path: Path) -> None:
    row = {"question_id": 1, "sent": "what?", "img_id": "a"}
    for file in ("vqa/karpathy_train.json", "GQA/train.json"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).write_text(json.dumps([row]))
    with pytest.raises(DataError, match=r"holds the tasks gqa, vqa\. Say which one: gqa="):
        open_questions(tmp_path)
    (tmp_path / "vqa/karpathy_train.json").unlink()
    assert open_questions(tmp_path).task == "gqa"


def test_a_name_belongs_to_one_reader() -> None:
    register(SHEET)
    register(SHEET)
    with pytest.raises(ConfigError, match="Two readers are called 'sheet'"):
        register(replace(SHEET, rank=3))


class Point:
    """An entry point."""

    def __init__(self, value: object) -> None:
        self.name, self.value, self._loaded = "sheet", "sheets:READER", value

    def load(self) -> object:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def test_readers_of_other_packages(monkeypatch: pytest.MonkeyPatch, sheet: Path) -> None:
    points: list[Point] = [Point(SHEET)]

    def found(group: str) -> list[Point]:
        assert group == "petiole.readers"
        return points

    assert importlib.metadata.entry_points(group="petiole.readers") is not None
    monkeypatch.setattr(base, "entry_points", found)
    base._load.cache_clear()
    assert reader_of(sheet, ImageReader) is SHEET
    points[:] = [Point(ImportError("no module named sheets"))]
    base._load.cache_clear()
    with pytest.raises(
        ConfigError, match=r"The plug-in sheet \(sheets:READER\) of petiole\.readers"
    ):
        readers(ImageReader)


def test_a_directory_of_coop_is_one_dataset_too(make_folder: MakeFolder) -> None:
    root = make_folder("jpg")
    listed = [
        [str(f.relative_to(root)), "ab".index(f.parent.name), f.parent.name]
        for f in root.rglob("*.png")
    ]
    split = {"train": listed[:6], "val": [], "test": listed[6:]}
    (root / "split_zhou_Mine.json").write_text(json.dumps(split))
    assert len(open_data(root)) == 8

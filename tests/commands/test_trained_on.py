"""Images that an adapter was trained on are told from others when it is scored."""

from __future__ import annotations

from pathlib import Path

import pytest

from builders.images import write_images
from petiole.commands.trained_on import training_notes
from petiole.data.sources import open_folder
from petiole.data.splits import image_ids, write_split
from petiole.errors import DataError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of which there is a split file and an adapter's folder."""
    (tmp_path / "run" / "adapter").mkdir(parents=True)
    (tmp_path / "run" / "adapter" / "adapter.json").write_text("{}")
    return tmp_path / "run"


def test_images_that_were_trained_on_are_counted(run: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "real", 4, seed=0, classes=("a", "b"))
    images = open_folder(tmp_path / "real")
    split = {"train": images.select(range(3)), "test": images.select(range(3, 8))}
    file = write_split(run / "split.csv", split)
    assert image_ids(file, "train") == set(images.ids[:3])
    assert image_ids(file, "val") == set()
    for adapter in (run, run / "adapter"):
        (note,) = training_notes(adapter, images.ids)
        assert note.startswith(f"3 of these 8 images are among those that {adapter} was trained on")
        assert training_notes(adapter, images.ids[3:]) == []
    for image in images.paths:
        image.unlink()
    assert training_notes(run, images.ids[2:4])[0].startswith("1 of these 2 images")


def test_what_is_not_known_is_said_or_left_out(run: Path) -> None:
    assert training_notes(run, ["a"]) == []
    (run / "split.csv").write_text("# petiole split 2\n")
    with pytest.raises(DataError, match="not a readable split file"):
        image_ids(run / "split.csv", "train")
    (note,) = training_notes(run, ["a"])
    assert note.startswith(f"Which images {run} was trained on is not known. {run / 'split.csv'}:")

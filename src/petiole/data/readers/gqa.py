"""GQA balanced in the VL-T5 files: ``GQA/{train,valid,testdev}.json`` (vladapter.md 4.3, 5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from petiole.data.readers.json_rows import read_list
from petiole.data.text_dataset import TextDataset, gather
from petiole.data.text_sample import TextSample


def open_gqa(root: Path) -> TextDataset:
    """Open GQA below the reference's ``datasets/`` folder.

    As the paper has it, train is train + valid, and testdev is what is reported: it is the test part,
    and there is no val part.

    Raises:
        DataError: no file of any part, or a row that cannot be used.
    """
    folder = root / "GQA"
    files = {
        "train": [folder / "train.json", folder / "valid.json"],
        "test": [folder / "testdev.json"],
    }
    return gather("gqa", root, files, _read)


def _read(path: Path, _: str) -> Iterator[TextSample]:
    for row in read_list(path):
        label = row.scores("label") if "label" in row else {}
        key, image = row.name("question_id"), row.name("img_id")
        yield TextSample(key, row.text("sent"), (image,), label, tuple(label))

"""GQA balanced in the VL-T5 files: ``GQA/{train,valid,testdev}.json`` (vladapter.md 4.3, 5)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from petiole.data.vl.parts import VLData, gather
from petiole.data.vl.rows import read_list
from petiole.data.vl.sample import Sample


def open_gqa(root: Path) -> VLData:
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


def _read(path: Path, _: str) -> Iterator[Sample]:
    for row in read_list(path):
        label = row.scores("label") if "label" in row else {}
        key, image = row.name("question_id"), row.name("img_id")
        yield Sample(key, row.text("sent"), (image,), label, tuple(label))

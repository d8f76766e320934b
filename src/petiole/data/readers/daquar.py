"""DAQUAR (Malinowski and Fritz, NeurIPS 2014): questions about indoor photographs, split by photograph.

Only the image lists are used: a random split of the questions would put nearly every test photograph
into training as well.
"""

from __future__ import annotations

import csv
from pathlib import Path

from petiole.data.readers.base import text_reader
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import DataError, boundary

COLUMNS = ("question", "answer", "image_id")


@text_reader("daquar", "train_images_list.txt", layout="data.csv, {train,test}_images_list.txt")
def open_daquar(root: Path) -> TextDataset:
    """Open ``data.csv`` by ``{train,test}_images_list.txt``; photographs are in ``images/``.

    Answers of several words ("book, scissor") stay one answer. Keys are line numbers of the table.

    Raises:
        DataError: a file or column is missing, or a photograph is in both lists or in none.
    """
    lists = {part: set(_lines(root / f"{part}_images_list.txt")) for part in ("train", "test")}
    if both := sorted(lists["train"] & lists["test"]):
        raise DataError(f"{root}: {both[0]} is in both image lists. Take it out of one.")
    parts: dict[str, list[TextSample]] = {part: [] for part in lists}
    for key, row in _table(root / "data.csv"):
        image = row["image_id"]
        part = next((part for part, names in lists.items() if image in names), None)
        if part is None:
            raise DataError(
                f"{root / 'data.csv'}, line {key}: {image!r} is in no image list. Add it to one."
            )
        answer = row["answer"].strip()
        sample = TextSample(
            key, row["question"].strip(), (f"images/{image}.jpg",), {answer: 1.0}, (answer,)
        )
        parts[part].append(sample)
    return TextDataset("answers", root, {part: tuple(samples) for part, samples in parts.items()})


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path}: no such file. It lists one photograph a line, like image1.")
    with boundary(path, "Copy it again, as UTF-8."):
        return path.read_text(encoding="utf-8").split()


def _table(path: Path) -> list[tuple[str, dict[str, str]]]:
    if not path.is_file():
        raise DataError(f"{path}: no such file. Its columns are {', '.join(COLUMNS)}.")
    with (
        boundary(path, "Export it again as CSV, UTF-8.", what="is no CSV table"),
        path.open(newline="", encoding="utf-8-sig") as file,
    ):
        reader = csv.DictReader(file)
        if missing := [c for c in COLUMNS if c not in (reader.fieldnames or ())]:
            raise DataError(f"{path}: column {missing[0]!r} is missing. Add it.")
        rows = [(str(reader.line_num), row) for row in reader]
    if short := [line for line, row in rows if not all(row[c] for c in COLUMNS)]:
        raise DataError(f"{path}, line {short[0]}: a cell is empty. Fill it or delete the line.")
    return rows

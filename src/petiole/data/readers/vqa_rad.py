"""VQA-RAD: clinicians' questions about radiographs, as published.

    VQA_RAD Dataset Public.json    a list of 2,248 questions
    VQA_RAD Image Folder/          315 images, of which one is never asked about

Test are the rows whose ``phrase_type`` begins with ``test`` (test_freeform, test_para): 451, the number of
the paper (Lau et al., Scientific Data 2018). The other 1,797 train. The usual 1,793 come from the data set's
card on the Hugging Face Hub, which drops from train three rows that repeat an image with question and answer,
and one that is in test as well; so it is done here, before any cleaning, as there. Both counts are quoted
from that card and from public loaders, not counted on the files by us. The code behind published numbers is
often not said to drop the four, and some authors draw splits of their own, by image: then numbers do not
compare. Note that the usual split is one of questions: most test images are asked about in train, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from petiole.data.readers.base import text_reader
from petiole.data.readers.json_rows import JsonRow, read_list
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import DataError

ANNOTATIONS = "VQA_RAD Dataset Public.json"
FOLDER = "VQA_RAD Image Folder"

PHRASES = {
    "freeform": "train",
    "para": "train",
    "test_freeform": "test",
    "test_para": "test",
}
"""The part of each ``phrase_type``."""


@text_reader("VQA-RAD", ANNOTATIONS)
def open_vqa_rad(root: Path) -> TextDataset:
    """Open VQA-RAD as questions with one answer.

    Questions and answers are in lower case with single spaces, as the Hub's copy has them ("Yes" and "yes"
    are one answer to learn). Keys are ``qid``. There is no val part.

    Raises:
        DataError: the file is missing, a row cannot be used, or a part is empty.
    """
    parts: dict[str, list[tuple[TextSample, tuple[Any, ...]]]] = {"train": [], "test": []}
    for row in read_list(root / ANNOTATIONS):
        content = tuple(row.values.get(field) for field in ("image_name", "question", "answer"))
        parts[row.value("phrase_type", PHRASES)].append((_sample(row), content))
    if empty := [part for part, rows in parts.items() if not rows]:
        raise DataError(
            f"{root / ANNOTATIONS}: no row of {empty[0]}. The published file has phrase_type "
            f"{', '.join(PHRASES)}; copy it anew."
        )
    test = tuple(sample for sample, _ in parts["test"])
    seen = {content for _, content in parts["test"]}
    train = []
    for sample, content in parts["train"]:
        if content not in seen:
            train.append(sample)
        seen.add(content)
    return TextDataset(
        "question", root, {"train": tuple(train), "test": test}, _notes(parts, train)
    )


def _sample(row: JsonRow) -> TextSample:
    answer = row.values.get("answer")
    number = isinstance(answer, float)  # JSON's 1.5 is an answer as its text
    right = _clean(str(answer) if number else row.name("answer"))
    image = f"{FOLDER}/{row.name('image_name')}"
    text = _clean(row.name("question"))
    return TextSample(row.name("qid"), text, (image,), {right: 1.0}, (right,))


def _clean(text: str) -> str:
    return " ".join(text.lower().split()).replace(" ?", "?")


def _notes(
    parts: dict[str, list[tuple[TextSample, tuple[Any, ...]]]], train: list[TextSample]
) -> tuple[str, ...]:
    learnt = {s.images for s in train}
    tested = {s.images for s, _ in parts["test"]}
    notes = [f"{len(tested & learnt)} of {len(tested)} test images are asked about in train, too."]
    if left_out := len(parts["train"]) - len(train):
        notes.append(
            f"{left_out} training questions left out: the same image, question and answer again."
        )
    return tuple(notes)

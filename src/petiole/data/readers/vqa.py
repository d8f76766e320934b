"""VQA v2 and GQA balanced, in the files of VL-T5 (Cho et al., ICML 2021), which VL-Adapter reads too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from petiole.data.readers.base import files_reader, text_reader
from petiole.data.readers.json_rows import JsonRow, read_list
from petiole.data.text_dataset import PARTS, TextDataset, gather
from petiole.data.text_sample import TextSample

FILES = {part: f"vqa/karpathy_{part}.json" for part in PARTS}
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
"""Karpathy's val and test are both cut from val2014."""


@text_reader("vqa", *FILES.values(), task="vqa", features=["COCO"])
def open_vqa(root: Path) -> TextDataset:
    """Open VQA below the reference's ``datasets/`` folder.

    Targets are the soft scores in ``label``; a question without any has none (weight 0 in training).
    References, which a prediction is scored against, are the ten human answers: for val and test those of
    `ANNOTATIONS`, where that file has the question, else the item's own.

    Raises:
        DataError: no file of any part, or a row that cannot be used.
    """
    humans: dict[str, tuple[str, ...]] = {}

    def read(path: Path, part: str) -> Iterator[TextSample]:
        file = path.parent / ANNOTATIONS
        if part != "train" and not humans and file.is_file():  # once for val and test: it is large
            rows = read_list(file, "annotations")
            humans.update((row.name("question_id"), _answers(row)) for row in rows)
        return (_sample(row, humans) for row in read_list(path))

    return gather("vqa", root, {part: [root / FILES[part]] for part in PARTS}, read)


@files_reader(
    "gqa",
    {"train": ["GQA/train.json", "GQA/valid.json"], "test": ["GQA/testdev.json"]},
    scored="gqa",
    task="gqa",
    features=["VG", "GQA"],
)
def open_gqa(path: Path, _: str) -> Iterator[TextSample]:
    """Open GQA below the reference's ``datasets/`` folder.

    Train is train + valid, and testdev is what is reported: it is the test part (VL-Adapter, Sung et al.,
    CVPR 2022), and there is no val part.
    """
    for row in read_list(path):
        label = row.scores("label") if "label" in row else {}
        key, image = row.name("question_id"), row.name("img_id")
        yield TextSample(key, row.text("sent"), (image,), label, tuple(label))


def soft_targets(answers: tuple[str, ...]) -> dict[str, float]:
    """Weigh each answer by how many people gave it.

        score = 1/10 sum_{i=1..10} min(1, c_{-i} / 3),   c_{-i} = people other than i who gave it

    for ten answers: VQA's rule, 0.3 / 0.6 / 0.9 / 1.0 for 1 / 2 / 3 / 4 and more people. The rule is made
    for ten; any other number n of answers is weighed by its share, c / n.

    Returns:
        answer -> score, in the order of first mention; empty for no answers.
    """
    n = len(answers)
    counts = {answer: answers.count(answer) for answer in answers}
    if n != 10:
        return {answer: c / n for answer, c in counts.items()}
    return {answer: min(10, 3 * c) / 10 for answer, c in counts.items()}


def _answers(row: JsonRow) -> tuple[str, ...]:
    return tuple(answer.text("answer") for answer in row.rows("answers"))


def _sample(row: JsonRow, humans: Mapping[str, tuple[str, ...]]) -> TextSample:
    key = row.name("question_id")
    own = _answers(row) if "answers" in row else ()
    return TextSample(
        key,
        row.text("sent"),
        (row.name("img_id"),),
        row.scores("label") if "label" in row else {},
        humans.get(key, own),
    )

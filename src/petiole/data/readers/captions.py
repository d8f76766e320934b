"""Captions of COCO: Karpathy's file, and a small folder of photographs with captions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from petiole.data.readers.base import files_reader, text_reader
from petiole.data.readers.json_rows import read_list
from petiole.data.text_dataset import PARTS, TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import DataError

KARPATHY = "COCO/dataset_coco.json"
_SPLITS = {"train": "train", "restval": "train", "val": "val", "test": "test"}


@text_reader("coco-captions", KARPATHY, task="caption", features=["COCO"])
def open_coco(root: Path) -> TextDataset:
    """Open `KARPATHY` below the reference's ``datasets/`` folder; restval is train.

    The split is that of Karpathy and Fei-Fei (CVPR 2015). Images are named by file name without suffix, as
    their features are in VL-T5 (Cho et al., ICML 2021).

    Raises:
        DataError: the file is missing, or a row cannot be used.
    """
    parts: dict[str, list[TextSample]] = {part: [] for part in PARTS}
    for row in read_list(root / KARPATHY, "images"):
        part = row.value("split", _SPLITS)
        name = Path(row.text("filename")).stem
        captions = [sentence.text("raw") for sentence in row.rows("sentences")]
        parts[part] += captioned(name, (name,), captions, part)
    return TextDataset("caption", root, {part: tuple(s) for part, s in parts.items() if s})


@files_reader(
    "coco-folder",
    {"train": ["train2017.json"], "val": ["val2017.json"]},
    scored="caption",
)
def open_coco_folder(path: Path, part: str) -> Iterator[TextSample]:
    """Open ``{train,val}2017.json`` with ``file`` and ``captions`` beside the photographs."""
    for row in read_list(path):
        file = row.text("file")
        yield from captioned(file, (file,), row.texts("captions"), part)


def captioned(
    key: str, images: tuple[str, ...], captions: Sequence[str], part: str, text: str = ""
) -> list[TextSample]:
    """Return one training sample a caption, or one evaluation sample an image.

    All of them have all captions as references; in evaluation all captions are targets of weight 1.

    Args:
        key: of the image; a training sample's has ``-0``, ``-1``, ... appended.
        images: names.
        captions: none for an image that is to be described.
        part: "train" or another.
        text: what the encoder reads beside the image.

    Raises:
        DataError: a caption is empty.
    """
    if not all(captions):
        raise DataError(f"Image {key}: a caption is empty. Write it or take it out.")
    references = tuple(captions)
    if part != "train" or not captions:
        return [TextSample(key, text, images, dict.fromkeys(references, 1.0), references)]
    return [
        TextSample(f"{key}-{i}", text, images, {caption: 1.0}, references)
        for i, caption in enumerate(references)
    ]

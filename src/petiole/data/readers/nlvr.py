"""Is a sentence true of two photographs (NLVR2), or of one drawing (NLVR, 2017)?

A group is one sentence with all pictures it is asked about: the unit of consistency.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from petiole.data.readers.base import files_reader, text_reader
from petiole.data.readers.json_rows import JsonRow, read_list
from petiole.data.text_dataset import TextDataset, gather, hold_out
from petiole.data.text_sample import TextSample

TRUTH = {0: "false", 1: "true", "false": "false", "true": "true", "False": "false", "True": "true"}
"""What a label stands for; JSON's own true and false are 1 and 0."""

HELD_OUT = 0.2
"""Share of NLVR's dev sets that stay validation where the training file is missing."""


@files_reader(
    "nlvr2",
    {"train": ["nlvr/train.json"], "val": ["nlvr/valid.json"], "test": ["nlvr/test.json"]},
    scored="nlvr",
    task="nlvr",
    features=["nlvr"],
)
def open_nlvr2(path: Path, _: str) -> Iterator[TextSample]:
    """Open NLVR2 (Suhr et al., ACL 2019) in the files of VL-T5 (Cho et al., ICML 2021).

    Identifiers are ``split-set-pair-sentence``; the group is all but the pair.
    """
    for row in read_list(path):
        key = row.name("identifier")
        pieces = key.split("-")
        if len(pieces) != 4:
            raise row.wrong("identifier", "must be split-set-pair-sentence")
        group = "-".join((*pieces[:2], pieces[3]))
        yield _judged(key, row, row.text("sent"), (row.name("img0"), row.name("img1")), group)


@text_reader("nlvr", "dev.json")
def open_nlvr(root: Path) -> TextDataset:
    """Open Cornell NLVR (Suhr et al., ACL 2017): ``{train,dev,test}.json`` and pictures in ``<split>/images/``.

    Identifiers are ``set-picture``; all pictures of a set have one sentence, which is the group. Where
    train.json is missing (it is larger than what some mirrors keep), dev is split by set: 80 % train,
    the rest val.

    Raises:
        DataError: no file of any part, or a row that cannot be used.
    """
    names = {"train": "train", "val": "dev", "test": "test"}
    files = {part: [root / f"{name}.json"] for part, name in names.items()}
    data = gather("nlvr", root, files, _read_drawings)
    if "train" in data.parts or "val" not in data.parts:
        return data
    train, val = hold_out(data["val"], HELD_OUT)
    note = f"{root} has no train.json: {len(train)} of dev's sentences train, {len(val)} validate."
    return replace(data, parts={"train": train, **data.parts, "val": val}, notes=(note,))


def _read_drawings(path: Path, _: str) -> Iterator[TextSample]:
    split = path.stem
    for row in read_list(path):
        key = row.name("identifier")
        image = (
            f"{split}/images/{split}-{key}-0.png"  # the published order of boxes; 1..5 permute it
        )
        yield _judged(key, row, row.text("sentence"), (image,), key.split("-")[0])


def _judged(key: str, row: JsonRow, text: str, images: tuple[str, ...], group: str) -> TextSample:
    answers = (row.value("label", TRUTH),) if "label" in row else ()
    return TextSample(key, text, images, dict.fromkeys(answers, 1.0), answers, group)

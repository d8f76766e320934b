"""One's own data: a folder with ``train.jsonl``, ``val.jsonl``, ``test.jsonl``, any of them.

One line is one JSON object:

    {"image": "a.jpg", "question": "What colour is it?", "answer": "red"}
    {"images": ["a.png", "b.png"], "question": "...", "answers": ["2", "2", "3", ...]}
    {"image": "a.jpg", "captions": ["A red ring.", "A ring."]}
    {"video": "clips/7", "question": "...", "answer": "a2"}
    {"question": "...", "answer": "..."}

Images are looked for in ``images/``, then in the folder itself; a name that is neither is left as it
is, for it may name stored features. A video is a folder of frames, or such a name. Further fields:
``id`` (else the line number) and ``group`` (scored together). Ten ``answers`` become soft targets by
VQA's rule (`petiole.data.readers.vqa.soft_targets`). In full, ``targets`` (answer -> weight) and
``references`` say what the decoder learns and what it is scored against. Only lines of train must say
what is right. ``task.json`` may hold ``{"task": "vqa"}``. Other fields are ignored.

About the image beside what is asked, for losses and metrics that use it:

    {"image": "a.jpg", "question": "What is shown?", "answer": "rust",
     "caption": "a photo of rust.", "label": "rust", "facts": ["there is an orange spot"]}

``caption`` is a text for losses between image and text (not ``captions``, which are learnt and scored),
``label`` its class, ``facts`` a list of single statements that are true of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from petiole.data.readers.base import text_reader
from petiole.data.readers.captions import captioned
from petiole.data.readers.json_rows import JsonRow, read_lines, read_object
from petiole.data.readers.vqa import soft_targets
from petiole.data.text_dataset import PARTS, TextDataset, gather
from petiole.data.text_sample import TextSample
from petiole.errors import DataError
from petiole.files import write_text

ANSWERS = ("answer", "answers", "captions", "targets")
"""The fields that say what is right; a line has at most one."""

_PICTURES = ("image", "images", "video")


@text_reader(
    "JSON Lines",
    *(f"{part}.jsonl" for part in PARTS),
    layout="train.jsonl, val.jsonl, test.jsonl with task.json",
    rank=10,
)
def open_plain(root: Path, task: str | None = None, default: str = "") -> TextDataset:
    """Open a folder of JSON Lines.

    Args:
        root: the folder.
        task: how it is asked and scored; None for what task.json says, or where there is none ``default``.
        default: see there.

    Raises:
        DataError: no part, no task, or a line that cannot be used, with file, line and field.
    """
    if task is None and default and not (root / "task.json").is_file():
        task = default
    if task is None:
        if not (root / "task.json").is_file():
            raise DataError(
                f'{root}: says no task. Name one, or write {{"task": "vqa"}} to task.json there.'
            )
        task = read_object(root / "task.json").text("task")

    def read(path: Path, part: str) -> Iterator[TextSample]:
        for row in read_lines(path):
            yield from _samples(row, root, part)

    return gather(task, root, {part: [root / f"{part}.jsonl"] for part in PARTS}, read)


def write_jsonl(
    path: Path, samples: Iterable[TextSample], *, video: bool = False, captions: bool = False
) -> None:
    """Write one part such that reading it gives equal samples; whole or not at all.

    Args:
        path: ``<folder>/<part>.jsonl``.
        samples: of the part; names of images start at the folder.
        video: the images are videos.
        captions: the references are all captions of one image, which reading takes apart for training.
    """
    lines = (json.dumps(_line(s, video, captions), ensure_ascii=False) for s in samples)
    write_text(path, "".join(f"{line}\n" for line in lines))


def _samples(row: JsonRow, root: Path, part: str) -> list[TextSample]:
    key = row.name("id") if "id" in row else str(row.number)
    field = _one_of(row, ANSWERS)
    images = tuple(_placed(root, name) for name in _names(row))
    text = row.text("question") if "question" in row else ""
    if not text and not images:
        raise DataError(f"{row.where}: has neither an image nor a question. Add one.")
    if field is None and part == "train":
        raise DataError(
            f"{row.where}: says nothing to learn. Add one of the fields {', '.join(ANSWERS)}; "
            f"it has {', '.join(row.values)}."
        )
    if field == "captions":
        samples = captioned(key, images, _filled(row, "captions"), part, text)
    else:
        targets, references = _right(row, field)
        group = row.name("group") if "group" in row else ""
        samples = [TextSample(key, text, images, targets, references, group)]
    return [_described(sample, row) for sample in samples]


def _described(sample: TextSample, row: JsonRow) -> TextSample:
    """The sample with what the line says about its image."""
    return replace(
        sample,
        caption=row.text("caption") if "caption" in row else "",
        label=row.name("label") if "label" in row else "",
        facts=_filled(row, "facts") if row.values.get("facts") else (),
    )


def _right(row: JsonRow, field: str | None) -> tuple[dict[str, float], tuple[str, ...]]:
    """What may be learnt, and what is scored against."""
    if field == "answer":
        answer = row.name("answer")  # a number may be written without quotes
        return {answer: 1.0}, (answer,)
    if field == "answers":
        answers = _filled(row, "answers")
        return soft_targets(answers), answers
    targets = row.scores("targets") if field else {}
    return targets, row.texts("references") if "references" in row else tuple(targets)


def _filled(row: JsonRow, field: str) -> tuple[str, ...]:
    texts = row.texts(field)
    if not texts or not all(texts):
        raise row.wrong(field, "must hold at least one text, and no empty one")
    return texts


def _names(row: JsonRow) -> tuple[str, ...]:
    field = _one_of(row, _PICTURES)
    if field is None:
        return ()
    return row.texts("images") if field == "images" else (row.name(field),)


def _one_of(row: JsonRow, fields: tuple[str, ...]) -> str | None:
    present = [field for field in fields if field in row]
    if len(present) > 1:
        raise DataError(f"{row.where}: has {' and '.join(present)}. Keep one of them.")
    return present[0] if present else None


def _placed(root: Path, name: str) -> str:
    inside = os.path.join("images", name)  # an absolute name stays what it is
    return inside if os.path.exists(root / inside) else name


def _line(sample: TextSample, video: bool, captions: bool) -> dict[str, object]:
    line: dict[str, object] = {"id": sample.key}
    if len(sample.images) > 1:
        line["images"] = list(sample.images)
    elif sample.images:
        line["video" if video else "image"] = sample.images[0]
    if sample.text:
        line["question"] = sample.text
    if sample.group:
        line["group"] = sample.group
    about = {"caption": sample.caption, "label": sample.label, "facts": list(sample.facts)}
    answers = {"captions": list(sample.references)} if captions else _answer_fields(sample)
    return line | answers | {field: value for field, value in about.items() if value}


def _answer_fields(sample: TextSample) -> dict[str, object]:
    """The shortest fields that are read as these targets and references."""
    targets, references = dict(sample.targets), sample.references
    if len(references) == 1 and targets == {references[0]: 1.0}:
        return {"answer": references[0]}
    if references and targets == soft_targets(references):
        return {"answers": list(references)}
    return {"targets": targets, "references": list(references)}

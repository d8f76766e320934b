"""The video tasks of VALUE: questions with choices (TVQA, How2QA), captions (TVC, YC2C).

The text, as the reference writes it (vladapter.md 1.4), then the task's own suffix:

    [Subs] all subtitle lines [Q] question [TS] (start-end) [Choices] a0: .... a1: ....

It is cut on the right at 600 tokens, so that long subtitles can push out the question. The order
``safe`` has the same pieces with the subtitles last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

from petiole.data.readers.captions import captioned
from petiole.data.readers.json_rows import JsonRow, read_lines
from petiole.data.text_dataset import PARTS, TextDataset, gather
from petiole.data.text_sample import TextSample
from petiole.errors import DataError, unknown

Order = Literal["reference", "safe"]

ORDERS: Mapping[str, tuple[str, ...]] = {
    "reference": ("Subs", "Q", "TS", "Choices"),
    "safe": ("Q", "Choices", "TS", "Subs"),
}
"""Pieces of the text in order."""


def open_tvqa(root: Path, order: Order = "reference") -> TextDataset:
    """Open TVQA below the reference's ``datasets/`` folder: five choices, answers ``a0`` .. ``a4``.

    Raises:
        DataError: a file is missing, or a row cannot be used; so do the other three.
        ConfigError: an unknown order; so do the other three.
    """
    return _choices("tvqa", root, "tv", 5, order)


def open_how2qa(root: Path, order: Order = "reference") -> TextDataset:
    """Open How2QA: as TVQA, with four choices."""
    return _choices("how2qa", root, "how2", 4, order)


def open_tvc(root: Path, order: Order = "reference") -> TextDataset:
    """Open TVC: descriptions of a moment, whose seconds are in the text.

    One evaluation sample a clip with all its descriptions, as the benchmark scores it (the reference's
    local score takes each description alone).
    """
    return _descriptions("tvc", root, "tv", order, timed=True)


def open_yc2c(root: Path, order: Order = "reference") -> TextDataset:
    """Open YC2C: as TVC, without the seconds."""
    return _descriptions("yc2c", root, "yc2", order, timed=False)


def video_text(pieces: Mapping[str, str], order: Order) -> str:
    """Join the pieces ``Subs``, ``Q``, ``TS``, ``Choices`` that there are, each after its tag.

    Raises:
        ConfigError: an unknown order.
    """
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    return " ".join(f"[{tag}] {pieces[tag]}" for tag in ORDERS[order] if tag in pieces)


def _choices(task: str, root: Path, source: str, count: int, order: Order) -> TextDataset:
    subtitles = _subtitles(root, source)

    def read(path: Path, _: str) -> Iterator[TextSample]:
        names = [f"a{i}" for i in range(count)]
        for row in read_lines(path):
            video = row.name("vid_name")
            pieces = {
                "Subs": _said(row, subtitles, video),
                "Q": row.text("q"),
                "TS": f"({row.text('ts')})",
                "Choices": " ".join(f"{name}: {row.text(name).strip('. ')}." for name in names),
            }
            right = (
                (row.value("answer_idx", dict(enumerate(names))),) if "answer_idx" in row else ()
            )
            text = video_text(pieces, order)
            yield TextSample(row.name("qid"), text, (video,), dict.fromkeys(right, 1.0), right)

    return gather(task, root, _files(root, task), read)


def _descriptions(task: str, root: Path, source: str, order: Order, *, timed: bool) -> TextDataset:
    subtitles = _subtitles(root, source)

    def read(path: Path, part: str) -> Iterator[TextSample]:
        for row in read_lines(path):
            video = row.name("vid_name")
            pieces = {"Subs": _said(row, subtitles, video)}
            if timed:
                pieces["TS"] = f"({_span(row)})"
            described = row.rows("descs") if "descs" in row else []
            captions = [d.text("desc") for d in described]
            text = video_text(pieces, order)
            yield from captioned(row.name("clip_id"), (video,), captions, part, text)

    return gather(task, root, _files(root, task), read)


def _span(row: JsonRow) -> list[float]:
    """Start and end; printed as the reference prints its list."""
    span = row.values.get("ts")
    if not isinstance(span, list) or [isinstance(s, int | float) for s in span] != [True, True]:
        raise row.wrong("ts", "must be [start, end] in seconds")
    return span


def _files(root: Path, task: str) -> dict[str, list[Path]]:
    """The annotation file of each part: ``tvqa_val.jsonl``, ``how2qa_test_public_release.jsonl``, ..."""
    folder = root / "video" / "ann" / task
    return {part: [_file(folder, f"{task}_{part}")] for part in PARTS}


def _file(folder: Path, start: str) -> Path:
    """The first file of that start; the public test where there is a private one too."""
    return min(folder.glob(f"{start}*.jsonl"), key=_public, default=folder / f"{start}.jsonl")


def _public(path: Path) -> tuple[bool, str]:
    return "private" in path.name, path.name


def _subtitles(root: Path, source: str) -> dict[str, str]:
    """Video -> its lines, joined by spaces."""
    path = root / "video" / "ann" / f"{source}_subtitles.jsonl"
    return {
        row.name("vid_name"): " ".join(line.text("text") for line in row.rows("sub"))
        for row in read_lines(path)
    }


def _said(row: JsonRow, subtitles: Mapping[str, str], video: str) -> str:
    if video not in subtitles:
        raise DataError(
            f"{row.where}: video {video!r} has no subtitles. Add it to the subtitles file, "
            'with an empty list "sub" if nothing is said.'
        )
    return subtitles[video]

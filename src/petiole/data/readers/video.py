"""The video tasks of VALUE (Li et al., NeurIPS 2021): questions with choices (TVQA, How2QA), captions (TVC, YC2C).

The text, as VL-Adapter's code writes it (Sung et al., CVPR 2022), then the task's own suffix:

    [Subs] all subtitle lines [Q] question [TS] (start-end) [Choices] a0: .... a1: ....

It is cut on the right at 600 tokens, so that long subtitles can push out the question. The order
``safe`` has the same pieces with the subtitles last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from petiole.data.readers.base import text_reader
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


def video_text(pieces: Mapping[str, str], order: Order) -> str:
    """Join the pieces ``Subs``, ``Q``, ``TS``, ``Choices`` that there are, each after its tag.

    Raises:
        ConfigError: an unknown order.
    """
    if order not in ORDERS:
        raise unknown("order", order, ORDERS)
    return " ".join(f"[{tag}] {pieces[tag]}" for tag in ORDERS[order] if tag in pieces)


def _choices(root: Path, order: Order, *, task: str, source: str, count: int) -> TextDataset:
    """Questions with answers ``a0``, ``a1``, ...: five in TVQA, four in How2QA."""
    subtitles = _subtitles(root, source)

    def read(path: Path, _: str) -> Iterator[TextSample]:
        names = [f"a{i}" for i in range(count)]
        for row in read_lines(path):
            video = row.name("vid_name")
            pieces = {
                "Subs": _spoken(row, subtitles, video),
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


def _descriptions(root: Path, order: Order, *, task: str, source: str, timed: bool) -> TextDataset:
    """Captions of a moment, whose seconds are in the text where ``timed``: TVC; or of a clip: YC2C.

    One evaluation sample a clip with all its descriptions, as the benchmark scores it (VL-Adapter's local
    score takes each description alone).
    """
    subtitles = _subtitles(root, source)

    def read(path: Path, part: str) -> Iterator[TextSample]:
        for row in read_lines(path):
            video = row.name("vid_name")
            pieces = {"Subs": _spoken(row, subtitles, video)}
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


def _spoken(row: JsonRow, subtitles: Mapping[str, str], video: str) -> str:
    if video not in subtitles:
        raise DataError(
            f"{row.where}: video {video!r} has no subtitles. Add it to the subtitles file, "
            'with an empty list "sub" if nothing is said.'
        )
    return subtitles[video]


def _register(task: str, read: Callable[..., TextDataset], source: str, **options: object) -> None:
    """Register a task by a function of (root, order)."""
    layout = f"video/ann/{task}"

    @text_reader(
        task,
        layout=f"{layout}/{task}_<part>*.jsonl",
        recognises=lambda root: any((root / layout).glob(f"{task}_*.jsonl")),
        task=task,
        features=[source],
        video=True,
    )
    def open_video(root: Path, order: Order = "reference") -> TextDataset:
        return read(root, order, task=task, source=source, **options)


_register("tvqa", _choices, "tv", count=5)
_register("how2qa", _choices, "how2", count=4)
_register("tvc", _descriptions, "tv", timed=True)
_register("yc2c", _descriptions, "yc2", timed=False)

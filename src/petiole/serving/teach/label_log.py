"""The labels of a folder as a log that only grows: closing loses nothing, and two pages write one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from petiole.engine.record import now
from petiole.errors import DataError
from petiole.files import Damaged, append_line, read_lines, sealed

FILE = "labels.jsonl"
MOST_CLASSES = 200
Label = str | Sequence[str] | None


class LabelLog:
    """Labels by image id, out of a file of sealed lines.

    A line gives some images one label or one each, or takes theirs away (``label`` null), or undoes the last line that still holds.

    Args:
        folder: of the file; one process at a time.

    Raises:
        DataError: another process has it, or a line was changed.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / FILE
        self._lock = FileLock(folder / ".lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise DataError(
                f"Another process teaches in {folder}. End it, or choose another folder."
            ) from error
        try:
            rows, _ = read_lines(self.file)
        except Damaged as error:
            raise DataError(
                f"{self.file} is damaged: {error}. Restore it, or delete the line."
            ) from error
        self.version = 0
        self._held: list[dict[str, str | None]] = []
        for row in rows:
            self._take(row["label"], row["ids"], undo=row["undo"])

    @property
    def labels(self) -> dict[str, str]:
        """Label by image id."""
        found: dict[str, str | None] = {}
        for step in self._held:
            found |= step
        return {one: label for one, label in found.items() if label is not None}

    @property
    def classes(self) -> list[str]:
        """Labels that were ever given, in that order, so that a class keeps its number and colour."""
        given = (label for step in self._held for label in step.values())
        return list(dict.fromkeys(label for label in given if label is not None))

    def give(self, ids: Sequence[str], label: Label) -> None:
        """Give images a label, or none, or one each: all in one step.

        Raises:
            DataError: no images, a label without a character, not as many labels as images, or too many different ones.
        """
        if not ids:
            raise DataError("Choose an image first.")
        if isinstance(label, str):
            label = _cleaned(label)
        elif label is not None:
            label = [_cleaned(one) for one in label]
            if len(label) != len(ids):
                raise DataError(
                    f"{len(ids)} images and {len(label)} labels: give one label, or one each."
                )
        if len({*self.classes, *_each(label, ids).values()} - {None}) > MOST_CLASSES:
            raise DataError(f"There may be {MOST_CLASSES} classes; use those that are there.")
        self._append(label, ids, undo=False)

    def undo(self) -> None:
        """Take the last step back.

        Raises:
            DataError: there is none.
        """
        if not self._held:
            raise DataError("There is nothing to undo.")
        self._append(None, (), undo=True)

    def _append(self, label: Label, ids: Sequence[str], *, undo: bool) -> None:
        append_line(
            self.file, sealed({"when": now(), "label": label, "ids": list(ids), "undo": undo})
        )
        self._take(label, ids, undo=undo)

    def _take(self, label: Label, ids: Sequence[str], *, undo: bool) -> None:
        self.version += 1
        if not undo:
            self._held.append(_each(label, ids))
        elif self._held:
            self._held.pop()


def _each(label: Label, ids: Sequence[str]) -> dict[str, str | None]:
    if label is None or isinstance(label, str):
        return dict.fromkeys(ids, label)
    return dict(zip(ids, label, strict=True))


def _cleaned(label: str) -> str:
    label = " ".join(label.split())
    if not 0 < len(label) <= 100:
        raise DataError("A label has 1 to 100 characters.")
    return label

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


class LabelLog:
    """Labels by image id, out of a file of sealed lines.

    A line gives some images one label, or takes it away (``label`` null), or undoes the last line that still holds.

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
        self._held: list[tuple[str | None, tuple[str, ...]]] = []
        for row in rows:
            self._take(row["label"], tuple(row["ids"]), undo=row["undo"])

    @property
    def labels(self) -> dict[str, str]:
        """Label by image id."""
        found: dict[str, str] = {}
        for label, ids in self._held:
            for one in ids:
                if label is None:
                    found.pop(one, None)
                else:
                    found[one] = label
        return found

    @property
    def classes(self) -> list[str]:
        """Labels that were ever given, in that order, so that a class keeps its number and colour."""
        return list(dict.fromkeys(label for label, _ in self._held if label is not None))

    def give(self, ids: Sequence[str], label: str | None) -> None:
        """Give images a label, or none.

        Raises:
            DataError: no images, a label without a character, or too many different ones.
        """
        if label is not None:
            label = " ".join(label.split())
            if not 0 < len(label) <= 100:
                raise DataError("A label has 1 to 100 characters.")
            if len({*self.classes, label}) > MOST_CLASSES:
                raise DataError(f"There are {MOST_CLASSES} classes already; use one of them.")
        if not ids:
            raise DataError("Choose an image first.")
        self._append(label, tuple(ids), undo=False)

    def undo(self) -> None:
        """Take the last step back.

        Raises:
            DataError: there is none.
        """
        if not self._held:
            raise DataError("There is nothing to undo.")
        self._append(None, (), undo=True)

    def _append(self, label: str | None, ids: tuple[str, ...], *, undo: bool) -> None:
        append_line(
            self.file, sealed({"when": now(), "label": label, "ids": list(ids), "undo": undo})
        )
        self._take(label, ids, undo=undo)

    def _take(self, label: str | None, ids: tuple[str, ...], *, undo: bool) -> None:
        self.version += 1
        if not undo:
            self._held.append((label, ids))
        elif self._held:
            self._held.pop()

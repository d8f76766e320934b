"""Questions of a domain, from whichever of three layouts lies in a folder."""

from __future__ import annotations

from pathlib import Path

from petiole.data.dataset import listed
from petiole.data.readers.classes import TASK, has_classes, open_classes
from petiole.data.readers.jsonl import open_plain
from petiole.data.readers.vqa_rad import ANNOTATIONS, FOLDER, open_vqa_rad
from petiole.data.text_dataset import PARTS, TextDataset
from petiole.errors import DataError

__all__ = ["TASK", "open_questions"]


def open_questions(root: Path, *, skip_bad: bool = False) -> TextDataset:
    """Open JSON Lines (`petiole.data.readers.jsonl`), else VQA-RAD, else class folders asked as questions.

    Args:
        root: the folder.
        skip_bad: of class folders, leave unreadable and contradicting images out instead of refusing.

    Raises:
        DataError: no such folder, none of the layouts (what was looked for and what is there is named), or
            one that cannot be used; JSON Lines without ``task.json`` say no task.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of data. Check the path.")
    lines = [f"{part}.jsonl" for part in PARTS]
    if any((root / name).is_file() for name in lines):
        return open_plain(root)
    if (root / ANNOTATIONS).is_file():
        return open_vqa_rad(root)
    if has_classes(root):
        return open_classes(root, skip_bad=skip_bad)
    found = sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
    raise DataError(
        f"{root}: holds no questions about images. Looked for {', '.join(lines)} (with task.json); for "
        f"{ANNOTATIONS!r} beside {FOLDER!r} (VQA-RAD); and for images in class folders, <class>/ or "
        f"train/<class>/. It holds {listed(found)}. Put one of them there."
    )

"""Which random views keep the labels of a data set: what its folder states.

A crop of a photo of one thing mostly shows the thing; a crop of a scene, a chart or a digit may not. A folder says so in
``views.json``:  {"augmentation": "none"},  with any name of ``petiole.data.preprocessing.AUGMENTATIONS``.
"""

from __future__ import annotations

import json
from pathlib import Path

from petiole.data.preprocessing import AUGMENTATIONS, augmentation
from petiole.errors import DataError, boundary, unknown
from petiole.files import write_json

VIEWS = "views.json"


def stated_augmentation(images: object) -> str:
    """Name of the augmentation that keeps the labels of a folder; empty where nothing is stated.

    Args:
        images: a path, or anything else, which states nothing.

    Raises:
        DataError: the file is no JSON of this form, or names no augmentation.
    """
    file = images / VIEWS if isinstance(images, Path) else None
    if file is None or not file.is_file():
        return ""
    remedy = f'Write {{"augmentation": "none"}}, with one of {", ".join(AUGMENTATIONS)}, or delete the file.'
    with boundary(file, remedy, what="does not say which views keep the labels"):
        name = json.loads(file.read_text(encoding="utf-8"))["augmentation"]
        if name not in AUGMENTATIONS:
            raise DataError(f"{file}: {unknown('augmentation', name, AUGMENTATIONS)}")
    return str(name)


def state_augmentation(folder: Path, name: str) -> None:
    """Write it into a folder of images."""
    write_json(folder / VIEWS, {"augmentation": augmentation(name) and name})

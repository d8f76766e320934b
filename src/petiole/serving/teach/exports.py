"""Labels in the forms of other programs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from petiole.printable import cell

Labelled = Sequence[tuple[Path, str]]


def as_csv(rows: Labelled) -> str:
    """Path and label, which ``petiole fit`` reads."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["path", "label"])
    table.writerows([cell(path), cell(label)] for path, label in rows)
    return text.getvalue()


def as_label_studio(rows: Labelled) -> str:
    """Tasks with annotations, for Label Studio's import; the choice is named ``choice``, the image ``image``."""
    tasks = [
        {
            "data": {"image": str(path)},
            "annotations": [
                {
                    "result": [
                        {
                            "from_name": "choice",
                            "to_name": "image",
                            "type": "choices",
                            "value": {"choices": [label]},
                        }
                    ]
                }
            ],
        }
        for path, label in rows
    ]
    return json.dumps(tasks, indent=1, ensure_ascii=False)


def as_fiftyone(rows: Labelled) -> str:
    """The labels.json of a FiftyOneImageClassificationDataset, by absolute path."""
    classes = sorted({label for _, label in rows})
    labels = {str(path.resolve()): classes.index(label) for path, label in rows}
    return json.dumps({"classes": classes, "labels": labels}, indent=1, ensure_ascii=False)


EXPORTS: dict[str, tuple[str, Callable[[Labelled], str]]] = {
    "csv": ("labels.csv", as_csv),
    "label-studio": ("label-studio.json", as_label_studio),
    "fiftyone": ("labels.json", as_fiftyone),
}
"""Form -> file name, and what writes it."""

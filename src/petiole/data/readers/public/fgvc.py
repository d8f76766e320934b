"""The five fine-grained sets of visual prompt tuning (FGVC), by its lists: an image and its class a line of JSON.

    <folder>/train.json, val.json, test.json          {"001.Black_footed_Albatross/a.jpg": 1, ...}
    <folder>/images/...                               below the folder that each set's paths start from

Training and validation lists are merged, as where the sets were published. CUB-200-2011 and NABirds are also read as
published, by ``images.txt``, ``image_class_labels.txt`` and ``train_test_split.txt``.

Source: Jia et al., "Visual Prompt Tuning" (ECCV 2022), whose lists are public.
"""

from __future__ import annotations

import json
from pathlib import Path

from petiole.data.checks.images import ImageFile
from petiole.data.readers.public.registry import (
    Parts,
    Place,
    known,
    lines_of,
    present,
    readable,
)
from petiole.errors import DataError

_LISTS = ("train.json", "val.json", "test.json")
_PUBLISHED = ("images.txt", "image_class_labels.txt", "train_test_split.txt")

# Name: further names, folder, where its paths start, classes, images, address.
SETS = {
    "cub": (("cub200", "cub-200-2011"), "CUB_200_2011", "images", 200, 11_788, "https://www.vision.caltech.edu/datasets/cub_200_2011"),
    "nabirds": ((), "nabirds", "images", 555, 48_562, "https://dl.allaboutbirds.org/nabirds"),
    "vpt-flowers": ((), "OxfordFlower", "", 102, 8_189, "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"),
    "stanford-dogs": (("dogs",), "Stanford-dogs", "Images", 120, 20_580, "http://vision.stanford.edu/aditya86/ImageNetDogs"),
    "stanford-cars": (("cars",), "Stanford-cars", "", 196, 16_185, "https://github.com/KMnP/vpt"),
}  # fmt: skip
"""The five sets."""


def _register(name: str) -> None:
    aliases, folder, start, classes, images, url = SETS[name]

    @known(name, *aliases, classes=classes, images=images, url=url, needs=[folder])
    def read(place: Place) -> Parts:
        place.need()
        root = place.root / folder
        if all((root / one).is_file() for one in _LISTS):
            train, val, test = (_listed(root / one, root / start) for one in _LISTS)
            return {"train": [*train, *val], "test": test}
        if all((root / one).is_file() for one in _PUBLISHED):
            return _as_published(root)
        raise DataError(
            f"{root}: has no lists. Put {', '.join(_LISTS)} there (from https://github.com/KMnP/vpt)"
            + (f", or {', '.join(_PUBLISHED)} as published." if name in ("cub", "nabirds") else ".")
        )


def _listed(file: Path, start: Path) -> list[ImageFile]:
    with readable(file):
        rows = json.loads(file.read_text("utf-8")).items()
        pairs = [(start / path, f"{int(label):03d}") for path, label in rows]
    return present(pairs)


def _as_published(root: Path) -> Parts:
    def column(name: str) -> dict[str, str]:
        rows = [line.split(maxsplit=1) for line in lines_of(root / name)]
        with readable(root / name):
            if bad := [row for row in rows if len(row) < 2]:
                raise ValueError(f"{' '.join(bad[0])!r} has one column")
        return {row[0]: row[1] for row in rows}

    places, labels, trains = (column(name) for name in _PUBLISHED)
    with readable(root / _PUBLISHED[0]):
        if not places.keys() == labels.keys() == trains.keys():
            raise ValueError("the three lists name different images")
    parts: dict[str, list[tuple[Path, str]]] = {"train": [], "test": []}
    for key, path in places.items():
        part = "train" if trains[key] == "1" else "test"
        parts[part].append((root / "images" / path, f"{int(labels[key]):03d}"))
    return {part: present(pairs) for part, pairs in parts.items()}


for _name in SETS:
    _register(_name)

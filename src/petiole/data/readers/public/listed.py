"""Data sets of image files beside lists of their labels: Pets, Food-101, Flowers-102, Aircraft."""

from __future__ import annotations

import json

from scipy.io import loadmat
from torchvision.datasets import FGVCAircraft, Flowers102, Food101, OxfordIIITPet  # type: ignore[import-untyped]

from petiole.data.checks.images import ImageFile
from petiole.data.readers.public.registry import (
    Parts,
    Place,
    known,
    lines_of,
    present,
    readable,
    verified,
)

_PETS = "oxford-iiit-pet"
_FOOD = "food-101"
_FLOWERS = "flowers-102"
_AIRCRAFT = "fgvc-aircraft-2013b/data"


@known(
    "oxford-iiit-pets",
    "pets",
    classes=37,
    images=7_349,
    url="https://www.robots.ox.ac.uk/~vgg/data/pets",
    needs=[f"{_PETS}/{f}" for f in ("annotations/trainval.txt", "annotations/test.txt", "images")],
    fetch=lambda root: OxfordIIITPet(str(root), download=True),
)
def pets(place: Place) -> Parts:
    """Breeds of cats and dogs; an image is called <Breed>_<number>."""
    folder = place.root / _PETS

    def part(name: str) -> list[ImageFile]:
        ids = [line.split()[0] for line in lines_of(folder / "annotations" / f"{name}.txt")]
        return present((folder / "images" / f"{i}.jpg", i.rsplit("_", 1)[0]) for i in ids)

    place.need()
    return {"train": part("trainval"), "test": part("test")}


@known(
    "food101",
    classes=101,
    images=101_000,
    url="http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
    needs=[f"{_FOOD}/{f}" for f in ("meta/train.json", "meta/test.json", "images")],
    fetch=lambda root: Food101(str(root), download=True),
)
def food101(place: Place) -> Parts:
    """Dishes; the training labels were never cleaned."""
    folder = place.root / _FOOD

    def part(name: str) -> list[ImageFile]:
        file = folder / "meta" / f"{name}.json"
        with readable(file):
            listed = json.loads(file.read_text(encoding="utf-8"))
            named = [
                (folder / "images" / f"{image}.jpg", label)
                for label, images in listed.items()
                for image in images
            ]
        return present(named)

    place.need()
    return {"train": part("train"), "test": part("test")}


@known(
    "flowers102",
    "flowers",
    classes=102,
    images=8_189,
    url="https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
    needs=[f"{_FLOWERS}/{f}" for f in ("imagelabels.mat", "setid.mat", "jpg")],
    fetch=lambda root: Flowers102(str(root), download=True),
)
def flowers102(place: Place) -> Parts:
    """Flowers; the published training and validation parts are merged, ten images a class each."""
    folder, files = place.root / _FLOWERS, Flowers102._file_dict
    place.need()
    with readable(folder):
        read = {
            key: loadmat(verified(folder / files[key][0], files[key][1]), squeeze_me=True)
            for key in ("label", "setid")
        }
    labels, ids = read["label"]["labels"], read["setid"]

    def part(*names: str) -> list[ImageFile]:
        return present(
            (folder / "jpg" / f"image_{i:05d}.jpg", Flowers102.classes[labels[i - 1] - 1])
            for name in names
            for i in ids[name].tolist()
        )

    return {"train": part("trnid", "valid"), "test": part("tstid")}


@known(
    "fgvc-aircraft",
    "aircraft",
    classes=100,
    images=10_000,
    url="https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft",
    needs=[
        f"{_AIRCRAFT}/{f}"
        for f in ("images_variant_trainval.txt", "images_variant_test.txt", "images")
    ],
    fetch=lambda root: FGVCAircraft(str(root), download=True),
)
def aircraft(place: Place) -> Parts:
    """Variants of aircraft; training and validation parts are merged."""
    folder = place.root / _AIRCRAFT

    def part(name: str) -> list[ImageFile]:
        rows = [line.partition(" ") for line in lines_of(folder / f"images_variant_{name}.txt")]
        return present((folder / "images" / f"{image}.jpg", label) for image, _, label in rows)

    place.need()
    return {"train": part("trainval"), "test": part("test")}

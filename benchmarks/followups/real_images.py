"""Lay real images out for the follow-ups: captions that join two towers, and classes of Caltech-101.

    python benchmarks/followups/real_images.py DATA OUT

DATA has ``imagenet_samples160`` (nXXXXXXXX_name.jpg) and ``caltech101_128`` (train/ and test/ with a folder for each class). OUT gets

    captions.csv               path,label: "a photo of a NAME." for every sample photograph
    forty/train, forty/test    two of every five classes, all of their images
    few/train, few/test        one of every five, 8 training and 10 test images of each, for what is costly
    few/validation             the next 5 of their training images, on which the strength of an attack is chosen
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping
from pathlib import Path

EVERY = 5
FEW = {"train": slice(8), "validation": slice(8, 13), "test": slice(10)}
WHOLE = {"train": slice(None), "test": slice(None)}


def linked(source: Path, out: Path, classes: list[str], parts: Mapping[str, slice]) -> None:
    """Links to some of the images of each class, part by part."""
    for part, chosen in parts.items():
        held = source / ("test" if part == "test" else "train")
        for label in classes:
            (out / part / label).mkdir(parents=True, exist_ok=True)
            for image in sorted((held / label).iterdir())[chosen]:
                (out / part / label / image.name).symlink_to(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with (given.out / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(("path", "label"))
        for image in sorted((given.data / "imagenet_samples160").absolute().glob("n*.jpg")):
            name = image.stem.partition("_")[2].replace("_", " ")
            rows.writerow((image, f"a photo of a {name}."))
    source = (given.data / "caltech101_128").absolute()
    classes = sorted(f.name for f in (source / "train").iterdir() if f.name != "Faces_easy")
    first, second = classes[::EVERY], classes[2::EVERY]
    linked(source, given.out / "forty", sorted(first + second), WHOLE)
    linked(source, given.out / "few", first, FEW)


if __name__ == "__main__":
    main()

"""Lay real images out for the follow-ups: captions that join two towers, and classes of Caltech-101.

    python benchmarks/followups/real_images.py DATA OUT

DATA has ``imagenet_samples160`` (nXXXXXXXX_name.jpg) and ``caltech101_128`` (train/ and test/ with a folder for each class). OUT gets

    captions.csv               path,label: "a photo of a NAME." for every sample photograph
    forty/train, forty/test    two of every five classes, all of their images
    few/train, few/test        one of every five, 8 training and 10 test images of each, for what is costly
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

EVERY = 5
FEW = {"train": 8, "test": 10}


def linked(source: Path, out: Path, classes: list[str], most: dict[str, int] | None = None) -> None:
    """Links to the first images of each class, to all without ``most``."""
    for part in ("train", "test"):
        for label in classes:
            (out / part / label).mkdir(parents=True, exist_ok=True)
            images = sorted((source / part / label).iterdir())
            for image in images[: most[part] if most else None]:
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
    linked(source, given.out / "forty", sorted(first + second))
    linked(source, given.out / "few", first, FEW)


if __name__ == "__main__":
    main()

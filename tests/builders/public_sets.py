"""The known data sets of torchvision's layouts in miniature, each in its exact published layout.

``WRITERS[name](root)`` writes one and returns the class of every image by part; ``shrunk`` tells the
registry that this is how many images the published set has.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import CIFAR10, CIFAR100, KMNIST, MNIST, SVHN, FashionMNIST, Flowers102

from petiole.data.readers.public import find, registry

Labels = dict[str, list[str]]
"""Class of every image, by part, sorted."""

_numbers = count()
WNIDS = ("n01443537", "n01629819", "n09999999")


def pixels(side: int = 8) -> NDArray[np.uint8]:
    """An image that no other call gives."""
    rng = np.random.default_rng(next(_numbers))
    return rng.integers(0, 256, (side, side, 3), dtype=np.uint8)


def save(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels()).save(path, quality=95)


def cifar(root: Path, kind: type[CIFAR10], names: list[str], key: str) -> Labels:
    """Batches as the Python 3 of today writes an old pickle; each holds every class twice."""
    folder = root / kind.base_folder
    folder.mkdir(parents=True)
    for name, _ in (*kind.train_list, *kind.test_list):
        labels = list(range(len(names))) * 2
        data = np.stack([pixels(32).transpose(2, 0, 1).ravel() for _ in labels])
        batch = {"data": data, key: labels, "batch_label": name, "filenames": ["a.png"] * 4}
        (folder / name).write_bytes(pickle.dumps(batch, 2))
    meta = {kind.meta["key"]: names, "num_vis": 3072}
    (folder / kind.meta["filename"]).write_bytes(pickle.dumps(meta, 2))
    return {
        "train": sorted(names * 2 * len(kind.train_list)),
        "test": sorted(names * 2 * len(kind.test_list)),
    }


def svhn(root: Path) -> Labels:
    """Digits 1 to 10, of which 10 means 0; the images are on the last axis."""
    root.mkdir(parents=True, exist_ok=True)
    for part, repeats in (("train", 2), ("test", 1)):
        y = np.array(list(range(1, 11)) * repeats, dtype=np.uint8)[:, None]
        x = np.stack([pixels(32) for _ in y], axis=3)
        savemat(root / f"{part}_32x32.mat", {"X": x, "y": y})
    digits = [str(d) for d in range(10)]
    return {"train": sorted(digits * 2), "test": digits}


def idx(root: Path, kind: type[MNIST], names: list[str]) -> Labels:
    """Four gzipped files; sizes are big-endian."""
    folder, found = root / kind.__name__ / "raw", {}
    folder.mkdir(parents=True)
    for part, stem, repeats in (("train", "train", 2), ("test", "t10k", 1)):
        y = np.array(list(range(10)) * repeats, np.uint8)
        x = np.stack([pixels(6)[:5, :, 0] for _ in y])  # no square
        for kept, array in (("images", x), ("labels", y)):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            file = folder / f"{stem}-{kept}-idx{array.ndim}-ubyte.gz"
            file.write_bytes(gzip.compress(head + array.tobytes()))
        found[part] = sorted(names * repeats)
    return found


def pets(root: Path) -> Labels:
    folder = root / "oxford-iiit-pet"
    (folder / "annotations").mkdir(parents=True)
    found: Labels = {}
    for part, ids in (("trainval", (1, 2)), ("test", (100,))):
        lines = [
            f"{breed}_{i} {k} 1 1"
            for k, breed in enumerate(("Abyssinian", "great_pyrenees"), 1)
            for i in ids
        ]
        (folder / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n")
        for line in lines:
            save(folder / "images" / f"{line.split()[0]}.jpg")
        name = "train" if part == "trainval" else part
        found[name] = sorted(["Abyssinian", "great_pyrenees"] * len(ids))
    return found


def food(root: Path) -> Labels:
    folder, found = root / "food-101", {}
    (folder / "meta").mkdir(parents=True)
    for part, ids in (("train", (1, 2, 3)), ("test", (4,))):
        listed = {c: [f"{c}/{i}" for i in ids] for c in ("apple_pie", "waffles")}
        (folder / "meta" / f"{part}.json").write_text(json.dumps(listed))
        for images in listed.values():
            for image in images:
                save(folder / "images" / f"{image}.jpg")
        found[part] = sorted([*listed] * len(ids))
    return found


def flowers(root: Path) -> Labels:
    """Nine images of three classes, one-based everywhere; parts are not in order."""
    folder = root / "flowers-102"
    folder.mkdir(parents=True)
    labels = np.array([[1, 2, 3] * 3], dtype=np.uint8)
    savemat(folder / "imagelabels.mat", {"labels": labels})
    ids = {"trnid": [[7, 8, 9]], "valid": [[4, 5, 6]], "tstid": [[1, 3, 2]]}
    savemat(folder / "setid.mat", {k: np.array(v, dtype=np.uint16) for k, v in ids.items()})
    for i in range(1, 10):
        save(folder / "jpg" / f"image_{i:05d}.jpg")
    names = Flowers102.classes[:3]
    return {"train": sorted(names * 2), "test": sorted(names)}


def aircraft(root: Path) -> Labels:
    """Names of variants have blanks and slashes."""
    folder = root / "fgvc-aircraft-2013b" / "data"
    folder.mkdir(parents=True)
    found, names = {}, ["Boeing 737-200", "F/A-18"]
    for part, first in (("trainval", 1), ("test", 5)):
        rows = [(f"{first + i:07d}", name) for i, name in enumerate(names * 2)]
        text = "".join(f"{image} {name}\n" for image, name in rows)
        (folder / f"images_variant_{part}.txt").write_text(text)
        for image, _ in rows:
            save(folder / "images" / f"{image}.jpg")
        found["train" if part == "trainval" else part] = sorted(names * 2)
    return found


def tiny_imagenet(root: Path) -> Labels:
    folder = root / "tiny-imagenet-200"
    for wnid in WNIDS:
        for i in range(3):
            save(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text("x_0.JPEG\t0\t0\t62\t62\n")
    (folder / "wnids.txt").write_text("\n".join(WNIDS) + "\n")
    save(folder / "test" / "images" / "test_0.JPEG")  # published without labels
    rows = [f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62" for i, wnid in enumerate(WNIDS * 2)]
    for row in rows:
        save(folder / "val" / "images" / row.split("\t")[0])
    (folder / "val" / "val_annotations.txt").write_text("\n".join(rows) + "\n")
    return {"train": sorted(WNIDS * 3), "test": sorted(WNIDS * 2)}


def imagenet_r(root: Path) -> Labels:
    """No split: a fifth of the ten images of a class is held back."""
    folder = root / "imagenet-r"
    for wnid in WNIDS:
        for i in range(10):
            save(folder / wnid / f"art_{i}.jpg")
    (folder / "README.txt").write_text("ImageNet-R(endition)\n")
    return {"train": sorted(WNIDS * 8), "test": sorted(WNIDS * 2)}


WRITERS: dict[str, Callable[[Path], Labels]] = {
    "cifar10": lambda root: cifar(root, CIFAR10, ["airplane", "cat"], "labels"),
    "cifar100": lambda root: cifar(root, CIFAR100, ["aquarium_fish", "worm"], "fine_labels"),
    "svhn": svhn,
    "mnist": lambda root: idx(root, MNIST, [str(digit) for digit in range(10)]),
    "fashion-mnist": lambda root: idx(
        root, FashionMNIST, ["T-shirt-top", *FashionMNIST.classes[1:]]
    ),
    "kmnist": lambda root: idx(root, KMNIST, KMNIST.classes),
    "oxford-iiit-pets": pets,
    "food101": food,
    "flowers102": flowers,
    "fgvc-aircraft": aircraft,
    "tiny-imagenet": tiny_imagenet,
    "imagenet-r": imagenet_r,
}


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def shrunk(name: str, root: Path, labels: Labels, patch: pytest.MonkeyPatch) -> None:
    """Let what lies below ``root`` be the published set: its counts and its checksums."""
    every = [label for part in labels.values() for label in part]
    one = replace(find(name), classes=len(set(every)), images=len(every))
    patch.setitem(registry._KNOWN, name, one)
    if name in ("cifar10", "cifar100"):
        kind = CIFAR10 if name == "cifar10" else CIFAR100
        folder = root / kind.base_folder
        for part in ("train_list", "test_list"):
            sums = [[file, md5(folder / file)] for file, _ in getattr(kind, part)]
            patch.setattr(kind, part, sums)
        patch.setitem(kind.meta, "md5", md5(folder / kind.meta["filename"]))
    if name == "svhn":
        for part in ("train", "test"):
            url, file, _ = SVHN.split_list[part]
            patch.setitem(SVHN.split_list, part, [url, file, md5(root / file)])
    if name == "flowers102":
        for key in ("label", "setid"):
            file, _ = Flowers102._file_dict[key]
            patch.setitem(Flowers102._file_dict, key, (file, md5(root / "flowers-102" / file)))

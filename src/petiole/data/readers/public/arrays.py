"""Data sets whose pixels lie in a few big files: CIFAR-10, CIFAR-100, SVHN.

They are unpacked once to image files in class folders, ``<cache>/suite/<name>/<part>/<class>/``. The
format is PPM: a line of header and the bare pixels, so that a file's bytes, and with them the image's
identity and every split, are the same on all machines; a PNG's depend on the version of zlib. The
folder appears only when it is complete.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from scipy.io import loadmat
from torchvision.datasets import CIFAR10, CIFAR100, SVHN  # type: ignore[import-untyped]
from torchvision.datasets.utils import download_and_extract_archive, download_url  # type: ignore[import-untyped]

from petiole.data.checks.images import ImageFile
from petiole.data.readers.folder import class_folders, visible_files
from petiole.data.readers.pickles import read_pickle
from petiole.data.readers.public.registry import Parts, Place, known, readable, verified
from petiole.printable import SafeConsole

Labelled = Iterator[tuple[NDArray[np.uint8], str]]
"""Images (H, W, 3) with their class names."""

PARTS = ("train", "test")


def _cifar_files(kind: type[CIFAR10]) -> list[str]:
    files = [name for name, _ in (*kind.train_list, *kind.test_list)]
    return [f"{kind.base_folder}/{name}" for name in (*files, kind.meta["filename"])]


def _fetch_cifar(kind: type[CIFAR10], root: Path) -> None:
    # Not the constructor's download=True: that would unpickle.
    download_and_extract_archive(kind.url, str(root), filename=kind.filename, md5=kind.tgz_md5)


def _fetch_svhn(root: Path) -> None:
    for part in PARTS:
        url, name, md5 = SVHN.split_list[part]
        download_url(url, str(root), name, md5)


def _register_cifar(name: str, kind: type[CIFAR10], classes: int, labels: str) -> None:
    """Register python batches of which ``labels`` are the labels."""

    @known(
        name,
        classes=classes,
        images=60_000,
        url=kind.url,
        needs=_cifar_files(kind),
        fetch=lambda root: _fetch_cifar(kind, root),
    )
    def cifar(place: Place) -> Parts:
        return unpacked(place, lambda part: _cifar(place, kind, part, labels))


_register_cifar("cifar10", CIFAR10, 10, "labels")
_register_cifar("cifar100", CIFAR100, 100, "fine_labels")


@known(
    "svhn",
    classes=10,
    images=99_289,
    url="http://ufldl.stanford.edu/housenumbers",
    needs=[SVHN.split_list[part][1] for part in PARTS],
    fetch=_fetch_svhn,
)
def svhn(place: Place) -> Parts:
    """Cropped digits, without the extra part; the label 10 means the digit 0."""
    return unpacked(place, lambda part: _svhn(place, part))


def _cifar(place: Place, kind: type[CIFAR10], part: str, labels: str) -> Labelled:
    folder = place.root / kind.base_folder
    meta = read_pickle(verified(folder / kind.meta["filename"], kind.meta["md5"]))
    classes = meta[kind.meta["key"]]
    for name, md5 in kind.train_list if part == "train" else kind.test_list:
        batch = read_pickle(verified(folder / name, md5))
        pixels = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        for image, label in zip(pixels, batch[labels], strict=True):
            yield image, classes[label]


def _svhn(place: Place, part: str) -> Labelled:
    _, name, md5 = SVHN.split_list[part]
    with readable(place.root / name):
        content = loadmat(verified(place.root / name, md5))
    for image, label in zip(np.moveaxis(content["X"], 3, 0), content["y"].ravel(), strict=True):
        yield image, str(int(label) % 10)


def unpacked(place: Place, pixels: Callable[[str], Labelled]) -> Parts:
    """The parts as files, written first where that was not done before."""
    if not place.unpacked.is_dir():
        place.need()
        _unpack(place, pixels)
    return {
        part: [
            ImageFile(file, folder.name)
            for folder in class_folders(place.unpacked / part)
            for file in visible_files(folder)
        ]
        for part in PARTS
    }


def _unpack(place: Place, pixels: Callable[[str], Labelled]) -> None:
    """Write every image below a temporary folder, which takes its place when it is complete."""
    place.unpacked.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(prefix=".tmp-", dir=place.unpacked.parent))
    images = ((part, image, label) for part in PARTS for image, label in pixels(part))
    shown = track(
        images,
        f"Unpacking {place.known.name}",
        place.known.images,
        console=SafeConsole(stderr=True),
        transient=True,
    )
    try:
        for number, (part, image, label) in enumerate(shown):
            folder = temporary / part / label
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:06d}.ppm")
        temporary.chmod(0o755)  # mkdtemp's is closed to everyone else
        if not place.unpacked.is_dir():  # another process may have been faster
            os.replace(temporary, place.unpacked)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

"""The known data sets of torchvision's layouts by name: every published layout, and all that can be wrong with one."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat
from torchvision.datasets import CIFAR10, CIFAR100, SVHN

from builders import public_sets as fake
from petiole.data.image import read_image
from petiole.data.readers.public import arrays, find, names, registry, write_table
from petiole.data.readers.public.registry import files_of
from petiole.data.sources import open_shift
from petiole.errors import DataError

KNOWN = sorted(fake.WRITERS)

# Name, classes, images: as their authors state them.
PUBLISHED = {
    "cifar10": (10, 50_000 + 10_000),
    "cifar100": (100, 50_000 + 10_000),
    "svhn": (10, 73_257 + 26_032),
    "mnist": (10, 60_000 + 10_000),
    "fashion-mnist": (10, 60_000 + 10_000),
    "kmnist": (10, 60_000 + 10_000),
    "oxford-iiit-pets": (37, 3_680 + 3_669),
    "food101": (101, 75_750 + 25_250),
    "flowers102": (102, 1_020 + 1_020 + 6_149),
    "fgvc-aircraft": (100, 3_334 + 3_333 + 3_333),
    "tiny-imagenet": (200, 100_000 + 10_000),
    "imagenet-r": (200, 30_000),
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whoever asks for a host is noted and refused."""
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def labels_of(parts: registry.Parts) -> fake.Labels:
    return {part: sorted(entry.label for entry in entries) for part, entries in parts.items()}


def test_they_are_known_with_their_published_counts() -> None:
    stated = {name: (one.classes, one.images) for name, one in names().items()}
    assert {name: stated[name] for name in PUBLISHED} == PUBLISHED
    assert find("pets") is find("oxford-iiit-pets")
    with pytest.raises(DataError, match=r"'cifar-10'\. Did you mean cifar10"):
        find("cifar-10")


@pytest.mark.parametrize("name", KNOWN)
def test_each_is_read_from_its_published_layout(
    name: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, offline: list[object]
) -> None:
    labels = fake.WRITERS[name](root)
    fake.shrunk(name, root, labels, monkeypatch)
    table = write_table(name, root, root / "list.csv", cache=cache)
    shift = open_shift(table)
    assert shift.source is None
    for part, data in (("train", shift.train), ("test", shift.test)):
        assert sorted(data.classes[label] for label in data.labels) == labels[part]
    assert not set(shift.train.ids) & set(shift.test.ids)
    if name != "imagenet-r":  # a folder of this name is opened as a folder
        by_path = open_shift(root / name)
        assert (by_path.train.digest(), by_path.test.digest()) == (
            shift.train.digest(),
            shift.test.digest(),
        )
    assert offline == []


@pytest.mark.parametrize("name", KNOWN)
def test_fewer_images_than_published_are_refused(name: str, root: Path, cache: Path) -> None:
    labels = fake.WRITERS[name](root)
    with pytest.MonkeyPatch.context() as patch:
        fake.shrunk(name, root, labels, patch)
        images = find(name).images
        patch.setitem(registry._KNOWN, name, replace(find(name), images=images + 1))
        with pytest.raises(DataError, match=f"not the published {name}: {images} images in"):
            files_of(name, root, cache=cache)


@pytest.mark.parametrize("name", KNOWN)
def test_a_missing_set_is_named_with_its_origin_and_nobody_is_asked(
    name: str, root: Path, cache: Path, offline: list[object]
) -> None:
    with pytest.raises(DataError) as caught:
        files_of(name, root, cache=cache)
    text = str(caught.value)
    assert f"the data set {name} is not there" in text
    assert find(name).url in text
    assert ("add --download" in text) == (find(name).fetch is not None)
    assert all(need in text for need in find(name).needs)
    assert offline == []
    assert not root.exists()
    assert not cache.exists()


@pytest.mark.parametrize("name", [n for n in KNOWN if len(find(n).needs) > 1])
def test_every_missing_piece_is_named_alone(name: str, root: Path, cache: Path) -> None:
    fake.WRITERS[name](root)
    for need in find(name).needs:
        moved = (root / need).rename(root / "elsewhere")
        with pytest.raises(DataError, match=rf"{name} is not complete\. Missing:\n  {need}\n"):
            files_of(name, root, cache=cache)
        moved.rename(root / need)


VERIFIED = {
    "cifar10": ["cifar-10-batches-py/data_batch_3", "cifar-10-batches-py/batches.meta"],
    "cifar100": ["cifar-100-python/test", "cifar-100-python/meta"],
    "svhn": ["train_32x32.mat", "test_32x32.mat"],
    "flowers102": ["flowers-102/imagelabels.mat", "flowers-102/setid.mat"],
}


@pytest.mark.parametrize(("name", "file"), [(n, f) for n, fs in VERIFIED.items() for f in fs])
def test_another_checksum_is_refused_and_leaves_nothing(
    name: str, file: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = fake.WRITERS[name](root)
    fake.shrunk(name, root, labels, monkeypatch)
    content = bytearray((root / file).read_bytes())
    content[len(content) // 2] ^= 1
    (root / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}: not the published file \(MD5"):
        files_of(name, root, cache=cache)
    assert not list(cache.rglob("*.ppm"))


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("oxford-iiit-pets", "oxford-iiit-pet/images/great_pyrenees_100.jpg"),
        ("food101", "food-101/images/waffles/2.jpg"),
        ("flowers102", "flowers-102/jpg/image_00003.jpg"),
        ("fgvc-aircraft", "fgvc-aircraft-2013b/data/images/0000006.jpg"),
        ("tiny-imagenet", "tiny-imagenet-200/val/images/val_4.JPEG"),
    ],
)
def test_listed_images_that_are_missing_are_named(
    name: str, image: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.shrunk(name, root, fake.WRITERS[name](root), monkeypatch)
    (root / image).unlink()
    with pytest.raises(DataError, match=rf"1 of \d+ listed images are missing:\n.*{image}"):
        files_of(name, root, cache=cache)


@pytest.mark.parametrize(
    ("name", "file", "content"),
    [
        ("oxford-iiit-pets", "oxford-iiit-pet/annotations/test.txt", b"\xff\xfe"),
        ("food101", "food-101/meta/train.json", b'{"apple_pie": ["apple_pie/1"'),
        ("fgvc-aircraft", "fgvc-aircraft-2013b/data/images_variant_test.txt", b"\xff"),
        ("tiny-imagenet", "tiny-imagenet-200/val/val_annotations.txt", b"val_0.JPEG\n"),
        ("tiny-imagenet", "tiny-imagenet-200/wnids.txt", b"\xff"),
    ],
)
def test_damaged_lists_are_named(
    name: str, file: str, content: bytes, root: Path, cache: Path
) -> None:
    fake.WRITERS[name](root)
    (root / file).write_bytes(content)
    with pytest.raises(DataError, match=rf"{file}: not readable"):
        files_of(name, root, cache=cache)


# --- pixels in big files ---------------------------------------------------------------------


def test_pixels_and_labels_of_cifar_are_those_of_torchvision(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, kind in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        fake.shrunk(name, root, fake.WRITERS[name](root), monkeypatch)
        parts = files_of(name, root, cache=cache)
        for part in ("train", "test"):
            theirs = kind(str(root), train=part == "train")
            files = sorted(parts[part], key=lambda entry: entry.path.name)
            assert len(files) == len(theirs)
            for entry, (image, label) in zip(files, theirs, strict=True):
                assert np.array_equal(read_image(entry.path), image)
                assert entry.label == theirs.classes[label]


def test_pixels_and_labels_of_svhn_are_those_of_torchvision(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.shrunk("svhn", root, fake.svhn(root), monkeypatch)
    parts = files_of("svhn", root, cache=cache)
    for part in ("train", "test"):
        theirs = SVHN(str(root), split=part)
        files = sorted(parts[part], key=lambda entry: entry.path.name)
        for entry, (image, label) in zip(files, theirs, strict=True):
            assert np.array_equal(read_image(entry.path), image)
            assert entry.label == str(label)
    assert 10 in loadmat(root / "test_32x32.mat")["y"]  # what torchvision, too, reads as 0


def test_an_unpacked_file_is_a_header_and_the_pixels(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.shrunk("svhn", root, fake.svhn(root), monkeypatch)
    first = min(files_of("svhn", root, cache=cache)["train"], key=lambda entry: entry.path.name)
    image = loadmat(root / "train_32x32.mat")["X"][..., 0]
    assert first.path.read_bytes() == b"P6\n32 32\n255\n" + image.tobytes()


def test_unpacking_happens_once_and_is_whole_or_absent(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = fake.svhn(root)
    fake.shrunk("svhn", root, labels, monkeypatch)
    saved, save = [], Image.Image.save

    def interrupted(image: Image.Image, path: Path) -> None:
        if len(saved) == 7:
            raise KeyboardInterrupt
        saved.append(path)
        save(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            files_of("svhn", root, cache=cache)
    assert list((cache / "suite").iterdir()) == []
    assert labels_of(files_of("svhn", root, cache=cache)) == labels
    shutil.rmtree(root)  # the archives are not needed any more
    monkeypatch.setattr(arrays, "_svhn", None)
    assert labels_of(files_of("svhn", root, cache=cache)) == labels


def test_a_truncated_unpacking_is_not_the_published_set(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.shrunk("svhn", root, fake.svhn(root), monkeypatch)
    files_of("svhn", root, cache=cache)["test"][0].path.unlink()
    with pytest.raises(DataError, match=r"suite/svhn: .* 29 images in 10 classes instead of 30"):
        files_of("svhn", root, cache=cache)


# --- folders ---------------------------------------------------------------------------------


def test_tiny_imagenet_may_be_sorted_into_classes(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = fake.tiny_imagenet(root)
    fake.shrunk("tiny-imagenet", root, labels, monkeypatch)
    val = root / "tiny-imagenet-200" / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        image, wnid = line.split("\t")[:2]
        (val / wnid).mkdir(exist_ok=True)
        (val / "images" / image).rename(val / wnid / image)
    (val / "images").rmdir()
    assert labels_of(files_of("tiny-imagenet", root, cache=cache)) == labels


def test_tiny_imagenet_of_other_classes_is_refused(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.shrunk("tiny-imagenet", root, fake.tiny_imagenet(root), monkeypatch)
    train = root / "tiny-imagenet-200" / "train"
    (train / fake.WNIDS[0]).rename(train / "n00000001")
    with pytest.raises(DataError, match=r"train images and wnids\.txt .*e\.g\. n00000001"):
        files_of("tiny-imagenet", root, cache=cache)


def test_imagenet_r_keeps_a_split_that_lies_on_disk(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = fake.imagenet_r(root)
    fake.shrunk("imagenet-r", root, labels, monkeypatch)
    folder = root / "imagenet-r"
    for wnid in fake.WNIDS:
        for part, numbers in (("train", range(5)), ("test", range(5, 10))):
            (folder / part / wnid).mkdir(parents=True)
            for i in numbers:
                (folder / wnid / f"art_{i}.jpg").rename(folder / part / wnid / f"art_{i}.jpg")
        (folder / wnid).rmdir()
    half = sorted(fake.WNIDS * 5)
    parts = files_of("imagenet-r", root, cache=cache)
    assert labels_of(parts) == {"train": half, "test": half}


def test_the_split_of_imagenet_r_hangs_on_content_alone(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake.shrunk("imagenet-r", root, fake.imagenet_r(root), monkeypatch)
    first = {e.path.read_bytes() for e in files_of("imagenet-r", root, cache=cache)["test"]}
    for i, path in enumerate(sorted(root.rglob("*.jpg"), reverse=True)):
        path.rename(path.with_name(f"{i:03d}.jpg"))
    moved = shutil.move(root, tmp_path / "moved")
    again = {e.path.read_bytes() for e in files_of("imagenet-r", moved, cache=cache)["test"]}
    assert again == first


# --- fetching --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [n for n in KNOWN if find(n).fetch])
def test_download_fetches_what_is_missing_and_nothing_else(
    name: str, root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    labels = fake.WRITERS[name](tmp_path / "origin")
    fake.shrunk(name, tmp_path / "origin", labels, monkeypatch)
    fetched: list[Path] = []

    def fetch(place: Path) -> None:
        fetched.append(place)
        shutil.copytree(tmp_path / "origin", place, dirs_exist_ok=True)

    monkeypatch.setitem(registry._KNOWN, name, replace(find(name), fetch=fetch))
    for _ in range(2):
        assert labels_of(files_of(name, root, cache=cache, download=True)) == labels
    assert fetched == [root]


@pytest.mark.parametrize("name", [n for n in KNOWN if find(n).fetch])
def test_a_fetch_that_fails_says_where_to_get_it(
    name: str, root: Path, cache: Path, offline: list[object]
) -> None:
    with pytest.raises(DataError, match=rf"(?s)^{name} could not be fetched .*by hand from http"):
        files_of(name, root, cache=cache, download=True)
    assert offline, "it did ask"


def test_what_has_no_downloader_says_so_when_asked(
    root: Path, cache: Path, offline: list[object]
) -> None:
    with pytest.raises(DataError, match=r"(?s)imagenet-r is not there.*it has no downloader"):
        files_of("imagenet-r", root, cache=cache, download=True)
    assert offline == []

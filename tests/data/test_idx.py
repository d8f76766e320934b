"""MNIST and its kin: pixels and labels as torchvision reads them, and files that are none."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import FashionMNIST

from builders import public_sets as fake
from petiole.data.image import read_image
from petiole.data.readers.public.idx import read_idx
from petiole.data.readers.public.registry import files_of
from petiole.errors import DataError


def test_pixels_and_labels_of_an_idx_file_are_those_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.shrunk("fashion-mnist", tmp_path, fake.WRITERS["fashion-mnist"](tmp_path), monkeypatch)
    parts = files_of("fashion-mnist", tmp_path, cache=tmp_path / "cache")
    for file in (
        tmp_path / "FashionMNIST" / "raw"
    ).iterdir():  # which torchvision unpacks as it fetches
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
    for part in ("train", "test"):
        theirs = FashionMNIST(str(tmp_path), train=part == "train")
        files = sorted(parts[part], key=lambda entry: entry.path.name)
        for entry, (image, label) in zip(files, theirs, strict=True):
            assert np.array_equal(read_image(entry.path), image.convert("RGB"))
            assert entry.label == theirs.classes[label].replace("/", "-")


@pytest.mark.parametrize(
    ("kind", "axes", "size", "count", "said"),
    [
        (13, 1, 1, 1, "no IDX file of bytes with 1 axes"),
        (8, 3, 1, 1, "no IDX file of bytes with 1 axes"),
        (8, 1, 2, 1, "not the 2 bytes that it states"),
        (8, 1, 1, 2, "not the 1 bytes that it states"),
        (8, 1, 2**32 - 1, 1, "states 4,294,967,295 bytes"),
    ],
)
def test_an_idx_file_that_is_none_is_named(
    tmp_path: Path, kind: int, axes: int, size: int, count: int, said: str
) -> None:
    file = tmp_path / "labels.gz"
    file.write_bytes(gzip.compress(bytes((0, 0, kind, axes, *size.to_bytes(4), *bytes(count)))))
    with pytest.raises(DataError, match=rf"labels\.gz: not readable .*{said}"):
        read_idx(file, axes=1)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    file = tmp_path / "labels.gz"
    whole = gzip.compress(bytes((0, 0, 8, 1, 0, 0, 1, 0, *range(256))))
    for content, said in ((whole[:100], "end-of-stream"), (whole[1:], "Not a gzipped file")):
        file.write_bytes(content)
        with pytest.raises(DataError, match=rf"labels\.gz: not readable .*{said}"):
            read_idx(file, axes=1)


def test_labels_beyond_the_classes_are_no_labels(tmp_path: Path) -> None:
    fake.WRITERS["mnist"](tmp_path)
    labels = bytes((0, 0, 8, 1, 0, 0, 0, 20, *([10] * 20)))
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte\.gz: not readable"):
        files_of("mnist", tmp_path, cache=tmp_path / "cache")

"""Tables, lists, features and images that are broken on purpose: one error of ours, with the path, and bounded memory."""

import threading
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from PIL import Image

from builders.images import write_images
from petiole.data import image as image_module
from petiole.data.dataset import Dataset
from petiole.data.decode_budget import room_for
from petiole.data.features.hdf5 import GridFiles
from petiole.data.features.npz import FrameFiles
from petiole.data.image import MAX_BYTES, read_image, upright_rgb
from petiole.data.memory import to_image
from petiole.data.readers.json_rows import read_list
from petiole.data.readers.table import read_rows
from petiole.data.sources import open_data
from petiole.data.splits import read_split
from petiole.errors import DataError


@pytest.mark.parametrize(
    ("name", "content", "read"),
    [
        ("a.json", b"[" * 200_000, read_list),
        ("a.json", b"\xff\xfe", read_list),
        ("a.csv", b"path,label\na\0.png,x\n", read_rows),
        ("a.csv", b"path,label\n" + b'"' + b"x" * 200_000, read_rows),
        ("a.parquet", b"PAR1" + b"\0" * 40 + b"PAR1", read_rows),
        ("a.csv", b"# petiole split 1\n# classes: [", read_split),
        ("a.csv", b'# petiole split 1\n# classes: 3\n# root: "."\n# meta: {}\npart\n', read_split),
        ("a.csv", b"# petiole split 1\n# classes: " + b"[" * 200_000, read_split),
    ],
    ids=["nested", "bytes", "zero byte", "field", "parquet", "truncated", "classes", "deep split"],
)
def test_every_reader_names_its_file(
    tmp_path: Path, name: str, content: bytes, read: Callable[[Path], object]
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(DataError, match=str(file)):
        read(file)


def test_a_zero_byte_in_a_path_is_an_error_of_ours() -> None:
    with pytest.raises(DataError, match=r"'a\\x00.png': no path of a file"):
        read_image(Path("a\0.png"))


def test_a_name_that_is_not_utf8_is_refused_at_the_door(tmp_path: Path) -> None:
    first = next(write_images(tmp_path / "x", 2, 0, classes=("a", "b"), side=8).rglob("*.png"))
    first.rename(first.with_name("a\udcff.png"))
    with pytest.raises(DataError, match=r"a\\udcff\.png': the name is not valid UTF-8"):
        open_data(tmp_path / "x")


def test_half_a_surrogate_pair_is_no_text(tmp_path: Path) -> None:
    """JSON can state it, and no file could hold it."""
    file = tmp_path / "train.jsonl"
    file.write_text('{"path": "a.png", "label": "\\ud83d\\ude00"}\n')
    assert read_rows(file)[0].entry.label == "\N{GRINNING FACE}"
    file.write_text('{"path": "a.png", "label": "\\ud83d"}\n')
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: .*surrogates not allowed"):
        read_rows(file)
    with pytest.raises(DataError, match=r"class name '\\ud83d' holds half a surrogate pair"):
        Dataset("d", ("a", "\ud83d"), ())


def test_a_text_is_no_class_name() -> None:
    assert Dataset("d", ("a" * 1000,), ()).classes == ("a" * 1000,)
    with pytest.raises(DataError, match=r"1,001 characters and begins with 'aaaa.*another column"):
        Dataset("d", ("b", "a" * 1001), ())


def test_a_large_sparse_file_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "a.jpg", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match=r"0\.5 GB; more than 0\.5 are refused"):
        read_image(tmp_path / "a.jpg")


def grid(folder: Path) -> h5py.File:
    return h5py.File(folder / "x.h5", "w")


def test_an_array_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    with grid(tmp_path) as file:
        file.create_dataset("x/features", (10**6, 9_000), "f4", chunks=(1, 9_000))
    with pytest.raises(DataError, match=r"claims 36\.0 GB"):
        GridFiles(tmp_path)("x")


@pytest.mark.parametrize("place", ["x", "x/features"])
def test_links_out_of_a_file_are_refused(tmp_path: Path, place: str) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["x/features"] = np.ones((49, 4), dtype=np.float32)
    with grid(tmp_path) as file:
        file[place] = h5py.ExternalLink(str(tmp_path / "other.h5"), place)
    with pytest.raises(DataError, match="link to another file"):
        GridFiles(tmp_path)("x")


def test_an_archive_that_unpacks_to_gigabytes_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("petiole.data.features.npz.MOST_BYTES", 1_000)
    np.savez_compressed(tmp_path / "x.npz", features=np.zeros((100, 100), np.float32))
    with pytest.raises(DataError, match="at most"):
        FrameFiles(tmp_path)("x")


def test_a_view_of_one_number_takes_no_memory() -> None:
    with pytest.raises(DataError, match="million pixels are refused"):
        to_image(torch.zeros(1).expand(3, 20_000, 20_000), "it")
    values = torch.rand(3, 7, 5)
    wanted = (values.permute(1, 2, 0).double() * 255).round().byte().numpy()
    assert np.array_equal(np.asarray(to_image(values, "it")), wanted)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "I;16"])
def test_strips_equal_the_whole(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0).integers(0, 256, (37, 11, 4), dtype=np.uint8)
    if mode == "I;16":
        made = Image.fromarray(random[..., 0].astype(np.uint16) * 255)
    else:
        made = Image.fromarray(random, "RGBA").convert(mode)
        made.info |= {"transparency": 3} if mode == "P" else {}
    whole = upright_rgb(made)
    monkeypatch.setattr(image_module, "_STRIP", 50)
    assert np.array_equal(np.asarray(upright_rgb(made)), np.asarray(whole))


def test_large_images_wait_for_each_other() -> None:
    inside, first, second = [], threading.Event(), threading.Event()

    def other() -> None:
        with room_for(60, 100):
            inside.append("other")
        second.set()

    thread = threading.Thread(target=other)
    with room_for(60, 100):
        thread.start()
        with room_for(30, 100):  # small ones do not wait
            inside.append("small")
        first.wait(0.05)
        inside.append("first")
    assert second.wait(5)
    thread.join()
    assert inside == ["small", "first", "other"]
    with room_for(500, 100):  # one alone always fits
        pass

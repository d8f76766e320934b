"""Every form in which people hold images and labels gives the same dataset, or an error that names the item."""

import hashlib
import io
import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset
from torch.utils.data import Dataset as TorchDataset

from petiole.data.checks.leaks import find_leaks
from petiole.data.dataset import Dataset
from petiole.data.image import load, pixel_id, read_image
from petiole.data.inputs import as_dataset, as_images
from petiole.data.splits import draw_shots, read_split, write_split
from petiole.errors import DataError


def noise(seed: int, size: tuple[int, int] = (8, 8)) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


ARRAYS = [noise(i) for i in range(4)]
LABELS = ["cat", "dog", "cat", "dog"]
NUMBERS = [0, 1, 0, 1]


class Pairs(TorchDataset[Any]):
    """A map-style data set; ``classes`` as torchvision's have them."""

    def __init__(self, items: list[Any], classes: list[str] | None = None) -> None:
        self.items = items
        if classes:
            self.classes = classes

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class HuggingFace:
    """The face of a Hugging Face data set: rows by number, columns by name, features of a type."""

    class Image:
        """Named as its feature of images."""

    class Names:
        """Named classes, as ClassLabel has them."""

        def __init__(self, names: list[str]) -> None:
            self.names = names

    def __init__(self, features: dict[str, Any], columns: dict[str, Any]) -> None:
        self.features, self.columns, self.column_names = features, columns, list(columns)

    @classmethod
    def of(cls, images: list[Any], labels: list[int], names: list[str]) -> "HuggingFace":
        return cls(
            {"picture": cls.Image(), "kind": cls.Names(names)}, {"picture": images, "kind": labels}
        )

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key: int | str) -> Any:
        if isinstance(key, str):
            return self.columns[key]
        return {name: column[key] for name, column in self.columns.items()}


def png(array: NDArray[np.uint8]) -> bytes:
    content = io.BytesIO()
    Image.fromarray(array).save(content, "PNG")
    return content.getvalue()


def tensor(array: NDArray[np.uint8]) -> torch.Tensor:
    """As torchvision's ToTensor makes it."""
    return torch.from_numpy(array).permute(2, 0, 1).float() / 255


FORMS: dict[str, Callable[[], Any]] = {
    "pairs of PIL": lambda: [(Image.fromarray(a), c) for a, c in zip(ARRAYS, LABELS, strict=True)],
    "pairs of arrays": lambda: list(zip(ARRAYS, LABELS, strict=True)),
    "float arrays": lambda: [(a / 255, c) for a, c in zip(ARRAYS, LABELS, strict=True)],
    "pairs of tensors": lambda: [(tensor(a), c) for a, c in zip(ARRAYS, LABELS, strict=True)],
    "uint8 tensors": lambda: [
        (torch.from_numpy(a).permute(2, 0, 1), c) for a, c in zip(ARRAYS, LABELS, strict=True)
    ],
    "arrays and labels": lambda: (np.stack(ARRAYS), np.array(LABELS)),
    "tensors and labels": lambda: (torch.stack([tensor(a) for a in ARRAYS]), LABELS),
    "dict": lambda: {"dog": ARRAYS[1::2], "cat": ARRAYS[::2]},
    "dict of batches": lambda: {"cat": np.stack(ARRAYS[::2]), "dog": np.stack(ARRAYS[1::2])},
    "torch": lambda: Pairs(list(zip(ARRAYS, NUMBERS, strict=True)), ["cat", "dog"]),
    "torch of tensors": lambda: Pairs(
        [(tensor(a), torch.tensor(n)) for a, n in zip(ARRAYS, NUMBERS, strict=True)], ["cat", "dog"]
    ),
    "Hugging Face": lambda: HuggingFace.of(ARRAYS, NUMBERS, ["cat", "dog"]),
    "a generator": lambda: ((a, c) for a, c in zip(ARRAYS, LABELS, strict=True)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_in_memory_is_the_same_dataset(form: str) -> None:
    data = as_dataset(FORMS[form]())
    expected = as_dataset(FORMS["pairs of PIL"]())
    assert data.classes == ("cat", "dog")
    assert data.digest() == expected.digest()
    by_id = {pixel_id(Image.fromarray(a)): a for a in ARRAYS}
    for sample in data.samples:
        np.testing.assert_array_equal(np.asarray(load(sample)), by_id[sample.id])
    again = pickle.loads(pickle.dumps(data)) if form != "a generator" else data
    np.testing.assert_array_equal(np.asarray(load(again.samples[0])), by_id[data.ids[0]])


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_images_in_order(form: str) -> None:
    arrays = [ARRAYS[1], ARRAYS[3], ARRAYS[0], ARRAYS[2]] if form == "dict" else ARRAYS
    arrays = [ARRAYS[0], ARRAYS[2], ARRAYS[1], ARRAYS[3]] if form == "dict of batches" else arrays
    images = as_images(FORMS[form]())
    assert len(images) == len(arrays)
    for ref, array in zip(images, arrays, strict=True):
        np.testing.assert_array_equal(np.asarray(load(ref)), array)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = []
    for i, (array, label) in enumerate(zip(ARRAYS, LABELS, strict=True)):
        path = tmp_path / "set" / label / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(array))
        paths.append(path)
    return paths


def test_files_and_their_bytes_are_the_same_images(files: list[Path], tmp_path: Path) -> None:
    folder = as_dataset(tmp_path / "set")
    lines = [{"image": str(p), "label": c} for p, c in zip(files, LABELS, strict=True)]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows = "".join(f"{p},{c}\n" for p, c in zip(files, LABELS, strict=True))
    (tmp_path / "list.csv").write_text("path,label\n" + rows)
    strings = [str(path) for path in files]
    for form in (
        str(tmp_path / "set"),
        tmp_path / "list.jsonl",
        tmp_path / "list.csv",
        list(zip(files, LABELS, strict=True)),
        (strings, LABELS),
        (np.array(strings), np.array(LABELS)),
        [(path.read_bytes(), label) for path, label in zip(files, LABELS, strict=True)],
        {"cat": tmp_path / "set" / "cat", "dog": str(tmp_path / "set" / "dog")},
    ):
        assert as_dataset(form).digest() == folder.digest()
    assert as_dataset(strings, labels=LABELS).digest() == folder.digest()
    assert as_dataset(folder) is folder


def test_one_image_is_one_image(files: list[Path], tmp_path: Path) -> None:
    pixels = np.asarray(read_image(files[0]))
    for one in (
        *(str(files[0]), files[0], files[0].read_bytes(), Image.open(files[0])),
        *(ARRAYS[0], tensor(ARRAYS[0]), bytearray(files[0].read_bytes())),
    ):
        (ref,) = as_images(one)
        np.testing.assert_array_equal(np.asarray(load(ref)), pixels)
    assert [ref.path for ref in as_images(tmp_path / "set")] == sorted(files)
    (tmp_path / "list.csv").write_text(f"path\n{files[1]}\n")
    assert [ref.path for ref in as_images(tmp_path / "list.csv")] == [files[1]]


def test_a_saved_phone_picture_is_upright_in_memory_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(9, (4, 6))).save(tmp_path / "a.png", exif=exif)
    (ref,) = as_images(Image.open(tmp_path / "a.png"))
    assert load(ref).tobytes() == read_image(tmp_path / "a.png").tobytes()
    assert load(ref).size == (4, 6)


def test_grey_and_half_precision() -> None:
    grey = noise(3, (5, 4))[..., :1]
    for value in (grey, torch.from_numpy(grey).permute(2, 0, 1)):
        (ref,) = as_images(value)
        np.testing.assert_array_equal(np.asarray(load(ref)), np.repeat(grey, 3, axis=2))
    (ref,) = as_images(torch.ones(3, 2, 2, dtype=torch.bfloat16, requires_grad=True))
    assert np.asarray(load(ref)).min() == 255


# --- classes -----------------------------------------------------------------------------------


def test_numbers_without_names_are_in_the_order_of_numbers() -> None:
    data = as_dataset([(noise(i), i) for i in range(11)])
    assert data.classes == tuple(map(str, range(11)))
    assert data.samples[10].label == 10


def test_names_for_numbers_and_the_order_of_names() -> None:
    numbered = list(zip(ARRAYS, NUMBERS, strict=True))
    assert as_dataset(numbered, classes=["dog", "cat"]).classes == ("dog", "cat")
    data = as_dataset(list(zip(ARRAYS, LABELS, strict=True)), classes=["dog", "cat"])
    assert data.labels.tolist() == [0, 0, 1, 1]


def test_a_subset_keeps_names_and_drops_absent_classes() -> None:
    whole = Pairs(list(zip(ARRAYS, [0, 2, 0, 2], strict=True)), ["ant", "bee", "cow"])
    data = as_dataset(Subset(whole, [0, 1, 2]))
    assert data.classes == ("ant", "cow")
    assert data.notes == ("1 classes have no image and are left out: bee.",)


def test_a_bad_image_is_left_out_on_request() -> None:
    data = [*zip(ARRAYS, LABELS, strict=True), (noise(8)[..., :2], "cat")]
    with pytest.raises(DataError, match=r"item 4 of the list: array of shape"):
        as_dataset(data)
    assert len(as_dataset(data, skip_bad=True)) == 4


# --- what images in memory go through ------------------------------------------------------------


def test_shots_leaks_and_split_files(tmp_path: Path) -> None:
    data = as_dataset(FORMS["pairs of arrays"]())
    assert draw_shots(data, 1, 0).ids == draw_shots(as_dataset(FORMS["torch"]()), 1, 0).ids
    report = find_leaks(data, data.select([0]))
    assert report.counts()["sha256"] == 1
    assert "memory/list/00000" in report.summary()
    split = write_split(tmp_path / "split.csv", {"train": data})
    with pytest.raises(DataError, match=r"it was in memory when the split was drawn"):
        read_split(split)


def test_a_real_hugging_face_data_set() -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    )
    content = {"image": [Image.fromarray(a) for a in ARRAYS], "label": NUMBERS}
    real = datasets.Dataset.from_dict(content, features=features)
    expected = as_dataset(FORMS["pairs of PIL"]()).digest()
    assert as_dataset(real).digest() == expected
    assert as_dataset(real.with_format("torch")).digest() == expected
    assert as_dataset(real.with_format("numpy")).digest() == expected
    undecoded = real.cast_column("image", datasets.Image(decode=False))
    assert [np.asarray(load(i)).tobytes() for i in as_images(undecoded)] == [
        a.tobytes() for a in ARRAYS
    ]
    with pytest.raises(DataError, match=r"has the parts train\. Give one of them: data\['train'\]"):
        as_dataset(datasets.DatasetDict(train=real))
    with pytest.raises(DataError, match="streams"):
        as_dataset(real.to_iterable_dataset())


# --- errors ----------------------------------------------------------------------------------------


class Random(Pairs):
    """Crops at random."""

    def __getitem__(self, index: int) -> Any:
        return np.random.default_rng().integers(0, 256, (8, 8, 3), dtype=np.uint8), 0


class Broken(Pairs):
    """Its third image is damaged."""

    def __getitem__(self, index: int) -> Any:
        if index == 2:
            raise OSError("broken data stream")
        return super().__getitem__(index)


class Stream(IterableDataset[Any]):
    """Without numbers."""

    def __iter__(self) -> Iterator[Any]:
        return iter(zip(ARRAYS, LABELS, strict=True))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "empty list": (list, r"The list of images is empty\. Give at least one\."),
    "empty dict": (dict, r"The dict of images is empty"),
    "empty class": (lambda: {"cat": []}, r"Class 'cat': The list of images is empty"),
    "empty array": (
        lambda: (np.zeros((0, 4, 4, 3), np.uint8), []),
        r"The array of images is empty",
    ),
    "no labels": (lambda: list(ARRAYS), r"item 0 of the list has no label\. Give \(image, label\)"),
    "some labels": (
        lambda: [(ARRAYS[0], "cat"), ARRAYS[1]],
        r"item 1 of the list has no label, and item 0 is otherwise\. Give all as",
    ),
    "mixed images": (
        lambda: [(ARRAYS[0], "cat"), (tensor(ARRAYS[1]), "dog")],
        r"item 1 of the list: a tensor, but item 0 is an array\. Give all images in one form",
    ),
    "mixed labels": (
        lambda: [(ARRAYS[0], "cat"), (ARRAYS[1], 1)],
        r"item 1 of the list: label 1, but item 0 has 'cat'\. Give all as names or all as numbers",
    ),
    "float labels": (
        lambda: [(ARRAYS[0], 0.5)],
        r"item 0 of the list: label 0\.5 is neither a name nor a whole number",
    ),
    "too few labels": (lambda: (np.stack(ARRAYS), [0, 1]), r"4 images but 2 labels"),
    "out of range": (
        lambda: Pairs([(ARRAYS[0], 0), (ARRAYS[1], 2)], ["cat", "dog"]),
        r"item 1 of the data set Pairs: label 2, but there are 2 classes, 0 to 1 \(cat, dog\)",
    ),
    "same names": (
        lambda: Pairs([(ARRAYS[0], 0)], ["cat", "cat"]),
        r"The data set Pairs: the class name 'cat' occurs twice",
    ),
    "same keys": (lambda: {1: ARRAYS[:1], "1": ARRAYS[1:]}, r"the class name '1' occurs twice"),
    "normalised": (
        lambda: [(tensor(ARRAYS[0]) * 4 - 2, "cat")],
        r"item 0 of the list: float pixels from -\S+ to \S+; they must lie in \[0, 1\]\. If they are normal",
    ),
    "not divided": (
        lambda: [(ARRAYS[0].astype(np.float32), "cat")],
        r"must lie in \[0, 1\]\. Divide by 255",
    ),
    "beyond bytes": (
        lambda: [(np.full((2, 2, 3), 255.5, np.float32), "cat")],
        r"from 256 to 256; they must lie in \[0, 1\]\. If they are normal",
    ),
    "NaN": (
        lambda: [(np.full((2, 2, 3), np.nan), "cat")],
        r"item 0 of the list: its pixels hold NaN",
    ),
    "integers": (lambda: [(ARRAYS[0].astype(np.int64), "cat")], r"pixels of int64; uint8"),
    "channels first": (
        lambda: [(ARRAYS[0].transpose(2, 0, 1), "cat")],
        r"array of shape \(3, 8, 8\); an image has \(H, W, 3\)\. .*x\.transpose\(1, 2, 0\)",
    ),
    "channels last": (
        lambda: [(torch.from_numpy(ARRAYS[0]), "cat")],
        r"tensor of shape \(8, 8, 3\); an image has \(3, H, W\)\. .*x\.permute\(2, 0, 1\)",
    ),
    "alpha": (
        lambda: [(np.zeros((4, 4, 4), np.uint8), "cat")],
        r"transparency away: x\[\.\.\., :3\]",
    ),
    "flat": (lambda: [(np.zeros((4, 4), np.uint8), "cat")], r"channel axis: x\[\.\.\., None\]"),
    "batches": (
        lambda: [(np.stack(ARRAYS), "cat")],
        r"item 0 of the list: .*holds several images: give them alone",
    ),
    "no image": (lambda: [(object(), "cat")], r"item 0 of the list: object <.* is no image"),
    "address": (
        lambda: [("https://example.org/a.jpg", "cat")],
        r"item 0 of the list: https://example\.org/a\.jpg is an address; download the file",
    ),
    "one address": (lambda: "http://a.b/c.png", r"^http://a\.b/c\.png is an address; download"),
    "random": (
        lambda: Random([0] * 3),
        r"item 0 of the data set Random has other pixels each time it is read",
    ),
    "broken": (
        lambda: Broken(list(zip(ARRAYS, NUMBERS, strict=True))),
        r"item 2 of the data set Broken: cannot be read \(OSError: broken data stream\)",
    ),
    "stream": (Stream, r"Stream streams"),
    "loader": (
        lambda: DataLoader(TensorDataset(torch.zeros(2, 3, 4, 4))),
        r"Give its data set: loader\.dataset",
    ),
    "a number": (lambda: 3, r"int: holds no images that are known here"),
    "no image column": (
        lambda: HuggingFace({"pixels": None}, {"pixels": [1]}),
        r"no column of images; it has pixels\. Name one of them image",
    ),
    "two label columns": (
        lambda: HuggingFace(
            {"image": None, "fine": HuggingFace.Names(["a"]), "coarse": HuggingFace.Names(["b"])},
            {"image": ARRAYS[:1], "fine": [0], "coarse": [0]},
        ),
        r'label columns fine, coarse\. Choose one: data\.rename_column\("fine", "label"\)',
    ),
    "two labels for one image": (
        lambda: [(ARRAYS[0], "cat"), (ARRAYS[0].copy(), "dog")],
        r"The same image has two labels, 1 time\(s\):\n  memory/list/000000 \(cat\) = memory",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_errors_name_the_item_and_a_remedy(case: str) -> None:
    give, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        as_dataset(give())


def test_a_class_that_is_none() -> None:
    pairs = list(zip(ARRAYS, LABELS, strict=True))
    with pytest.raises(DataError, match=r"item 1 of the list: Unknown class 'dog'"):
        as_dataset(pairs, classes=["cat", "dot"])
    with pytest.raises(DataError, match=r"no images of class eel"):
        as_dataset(pairs, classes=["cat", "dog", "eel"])


def test_one_image_has_no_label(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"0\.png: one image has no label"):
        as_dataset(files[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images below it"):
        as_images(tmp_path / "empty")
    (ref,) = as_images("nowhere.jpg")
    with pytest.raises(DataError, match=r"nowhere\.jpg: no such file"):
        load(ref)
    assert isinstance(as_dataset(tmp_path / "set"), Dataset)
    assert hashlib.sha256(files[0].read_bytes()).hexdigest() in as_dataset(tmp_path / "set").ids

"""Images and labels out of whatever holds them: one function for labelled images, one for images alone.

    a path                            folder, table or public set, by the reader that recognises it; an image
    [(image, label), ...]             images as paths, bytes, PIL images, arrays or tensors
    (images, labels)                  or labels= beside images
    {class: [image, ...]}
    arrays (N, H, W, 3), tensors (N, 3, H, W)
    a torch Dataset                   of (image, label)
    a Hugging Face datasets.Dataset   with an image and a label column

Images in memory have their pixels as identity (`petiole.data.image.pixel_id`), so that splits, caches and
leak checks treat them as they treat files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data import Dataset as TorchDataset

from petiole.data.checks.images import ImageFile, build, match_classes
from petiole.data.dataset import MEMORY, Dataset, Domain, listed
from petiole.data.image import SUFFIXES, ImageRef
from petiole.data.labels import are_labels, are_numbers, class_names, is_label, list_of, unique
from petiole.data.memory import MemoryImage, kind_of, path_of
from petiole.data.readers.base import reader_of
from petiole.data.readers.folder import visible_files
from petiole.data.readers.packed import PackedReader
from petiole.data.readers.table import is_table, read_rows
from petiole.data.sources import open_data
from petiole.errors import DataError

Fetch = Callable[[], object]
FORMS = (
    "a path, (image, label) pairs, {class: [images]}, arrays with labels=, a torch Dataset or a Hugging Face "
    "Dataset"
)


def as_dataset(
    data: object,
    *,
    labels: Sequence[object] | NDArray[Any] | Tensor | None = None,
    classes: Sequence[str] | None = None,
    domain: Domain = "target",
    name: str = "",
    skip_bad: bool = False,
    common: bool = False,
) -> Dataset:
    """Return labelled images as a dataset.

    Args:
        data: one of the forms above; a `Dataset` is returned as it is, in the order of ``classes`` if they are given.
        labels: one an image, where ``data`` has none: names, or numbers of classes.
        classes: names by number, and the order of the result's labels. Without it names come from the data
            (``.classes``, ClassLabel); else numbers become their own names, and names are sorted.
        domain: given to every sample.
        name: of the dataset, for people.
        skip_bad: leave unreadable and contradicting images out instead of refusing.
        common: take the images of those of ``classes`` that there are; notes name all others.

    Raises:
        DataError: no labels, labels that fit no class, images that cannot be used; the item is named.
    """
    if common and classes is not None:
        given = data
        if not isinstance(data, Dataset) and (labels is not None or path_of(data) is None):
            given = _labelled(data, labels)
            if given.names is None and are_numbers(given.labels or ()):
                given = replace(given, names=tuple(classes))
        found = as_dataset(given, domain=domain, name=name, skip_bad=skip_bad)
        return found.aligned(classes)
    if isinstance(data, Dataset):
        if classes is None:
            return data
        match_classes(data.name, data.classes, classes)
        return data.of_classes(classes)
    if labels is None and (path := path_of(data)) is not None:
        if path.is_file() and not is_table(path) and path.suffix.lower() in SUFFIXES:
            raise DataError(f"{path}: one image has no label. Give {FORMS}.")
        return open_data(path, domain=domain, classes=classes, skip_bad=skip_bad)
    items = _labelled(data, labels)
    named, order, notes = class_names(items.labels or (), classes, items.names, items.name)
    entries = [
        replace(image, label=label, domain=domain)
        for image, label in zip(items.images, named, strict=True)
    ]
    return build(name or items.name, entries, order, skip_bad=skip_bad, notes=notes)


def _labelled(data: object, labels: Any) -> _Items:
    """Images with one label each.

    Raises:
        DataError: there are none, or of another number.
    """
    items = data if isinstance(data, _Items) else _expand(data)
    if labels is not None:
        items = replace(items, labels=list_of(labels))
    if items.labels is None:
        raise DataError(
            f"{items.where(0)} has no label. Give (image, label) pairs, labels= or {{class: [images]}}."
        )
    if len(items.labels) != len(items.images):
        raise DataError(
            f"{len(items.images)} images but {len(items.labels)} labels. Give one label an image."
        )
    return items


def as_images(data: object) -> tuple[ImageRef, ...]:
    """Return images without labels, in order; `petiole.data.image.load` gives their pixels.

    Args:
        data: one of the forms above, or one image: a path, bytes, a PIL image, an array, a tensor. Labels
            that it has are passed over. Of a folder all images below it, by name.

    Raises:
        DataError: no images, or something that is none.
    """
    if isinstance(data, Dataset):
        return data.samples
    path = path_of(data)
    if path is None:
        return tuple(_expand(data).images)
    if packed := reader_of(path, PackedReader):
        opened: Dataset = packed(path)
        return opened.samples
    if is_table(path):
        return tuple(row.entry for row in read_rows(path, labelled=False))
    if not path.is_dir():
        return (ImageFile(path),)
    images = tuple(ImageFile(f) for f in visible_files(path) if f.suffix.lower() in SUFFIXES)
    if not images:
        raise DataError(f"{path}: no images below it ({' '.join(sorted(SUFFIXES))}).")
    return images


@dataclass(frozen=True)
class _Items:
    """Images that were given one by one.

    Attributes:
        name: of their form, for errors: "list".
        images: in order.
        labels: one an image, as they were given; None for none.
        names: of the classes by number, where the data says them.
    """

    name: str
    images: list[ImageFile]
    labels: list[object] | None = None
    names: tuple[str, ...] | None = None

    def where(self, index: int) -> str:
        return f"item {index} of the {self.name}"


def _expand(data: object) -> _Items:
    """Any form; of a path its images alone."""
    if kind_of(data) == "path":
        return _Items("list", [ImageFile(image.path) for image in as_images(data)])
    if isinstance(data, DataLoader):
        raise DataError("A DataLoader gives shuffled batches. Give its data set: loader.dataset.")
    if hasattr(data, "features") and hasattr(data, "column_names"):
        return _hugging_face(data)
    if kind_of(data) in ("bytes", "PIL image"):
        return _from_values("input", [data])
    if isinstance(data, np.ndarray) and data.dtype.kind in "UO":
        return _expand(data.tolist())
    if isinstance(data, np.ndarray | Tensor):
        kind = kind_of(data)
        return _from_values(kind, [data] if data.ndim < 4 else list(data))
    if isinstance(data, Mapping):
        return _by_class(data)
    if isinstance(data, TorchDataset) or _is_map_style(data):
        return _torch(data)
    if isinstance(data, tuple) and len(data) == 2 and are_labels(data[1]):
        return replace(_expand(data[0]), labels=list_of(data[1]))
    if isinstance(data, tuple) and len(data) == 2 and is_label(data[1]) and kind_of(data[0]):
        data = [data]
    if not isinstance(data, Iterable):
        raise DataError(
            f"{type(data).__name__}: holds no images that are known here. Give {FORMS}."
        )
    return _pairs(list(data))


def _pairs(values: list[Any]) -> _Items:
    """Items of a list: all (image, label), or all images."""
    if not values:
        raise DataError("The list of images is empty. Give at least one.")
    paired = [isinstance(v, tuple | list) and len(v) == 2 and is_label(v[1]) for v in values]
    if not any(paired):
        return _from_values("list", values)
    if not all(paired):
        odd = paired.index(not paired[0])
        state = "has a label" if paired[odd] else "has no label"
        raise DataError(
            f"item {odd} of the list {state}, and item 0 is otherwise. Give all as (image, label)."
        )
    return replace(_from_values("list", [v[0] for v in values]), labels=[v[1] for v in values])


def _from_values(name: str, values: Sequence[object], start: int = 0) -> _Items:
    """Images of one kind that are at hand."""
    if not len(values):
        raise DataError(f"The {name} of images is empty. Give at least one.")
    images, first = [], kind_of(values[0])
    for index, value in enumerate(values, start=start):
        where = f"item {index} of the {name}"
        if kind_of(value) != first:
            raise DataError(
                f"{where}: {_a(value)}, but item {start} is {_a(values[0])}. Give all images in one form."
            )
        path = path_of(value, where)
        images.append(
            ImageFile(path) if path else _in_memory(name, where, index, partial(_same, value))
        )
    return _Items(name, images)


def _in_memory(name: str, where: str, index: int, fetch: Fetch) -> ImageFile:
    return ImageFile(_place(name, index), image=MemoryImage(where, fetch))


def _place(name: str, index: int) -> Path:
    """What an image in memory is called."""
    return Path(MEMORY, name.replace(" ", "-").replace("/", "-"), f"{index:06d}")


def _by_class(data: Mapping[Any, Any]) -> _Items:
    """{class: [images]}."""
    if not data:
        raise DataError("The dict of images is empty. Give {class: [images]}.")
    if any(hasattr(part, "column_names") for part in data.values()):
        parts = listed([str(part) for part in data])
        raise DataError(
            f"This data set has the parts {parts}. Give one of them: data[{next(iter(data))!r}]."
        )
    names = tuple(str(name) for name in data)
    unique(names, "The dict of images")
    found: list[ImageFile] = []
    labels: list[object] = []
    for name, images in zip(names, data.values(), strict=True):
        try:
            given = _expand(images)
        except DataError as error:
            raise DataError(f"Class {name!r}: {error}") from error
        for index, image in enumerate(given.images):
            path = image.path if image.image is None else _place(name, index)
            found.append(replace(image, path=path))
        labels += [name] * len(given.images)
    return _Items("dict", found, labels)


def _torch(data: Any) -> _Items:
    """A map-style data set, read item by item; each of (image, label), or of images alone."""
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise DataError(
            f"{type(data).__name__} streams, and splits need all images by number. Give list(data)."
        )
    if not len(data):
        raise DataError(f"The data set {type(data).__name__} is empty.")
    name = f"data set {type(data).__name__}"
    images: list[ImageFile] = []
    labels: list[object] = []
    for index in range(len(data)):
        where = f"item {index} of the {name}"
        try:
            item = data[index]
        except Exception as error:  # its reader can fail in any way
            raise DataError(
                f"{where}: cannot be read ({type(error).__name__}: {error})."
            ) from error
        pair = isinstance(item, tuple | list)
        if pair and len(item) < 2:
            raise DataError(f"{where}: {len(item)} values; (image, label) is needed.")
        entry = _in_memory(name, where, index, partial(_first_of, data, index))
        _remember(entry, item[0] if pair else item, check=not index)
        images.append(entry)
        labels += [item[1]] if pair else []
    if len(labels) not in (0, len(images)):
        raise DataError(f"The {name} has labels for some items only. Give all as (image, label).")
    return _Items(name, images, labels or None, _torch_classes(data))


def _remember(entry: ImageFile, content: object, *, check: bool) -> None:
    """Keep the id of an item that was read for its label; with ``check`` read it again and compare."""
    image = entry.image
    assert isinstance(image, MemoryImage)
    try:
        identity = image.identity(content)
    except DataError:
        return  # said by the check of all images
    if check and image.id != identity:
        raise DataError(
            f"{image.where} has other pixels each time it is read. Take random transforms out of the data "
            "set: views are drawn here."
        )
    image.__dict__["id"] = identity  # where cached_property looks


def _torch_classes(data: Any) -> tuple[str, ...] | None:
    """``classes`` of a torch data set, or of what its subset is of."""
    while not hasattr(data, "classes") and hasattr(data, "dataset"):
        data = data.dataset
    found = getattr(data, "classes", None)
    return None if found is None else tuple(str(name) for name in found)


def _hugging_face(data: Any) -> _Items:
    """A Hugging Face data set, read row by row."""
    if not hasattr(data, "__len__"):
        raise DataError(
            "This data set streams, and splits need all images by number. Load it without streaming, or "
            "give Dataset.from_list(list(data.take(n)))."
        )
    if not len(data):
        raise DataError("The data set is empty.")
    columns = dict(data.features)
    image = _column(columns, lambda f: type(f).__name__ == "Image", ("image", "img"), "image")
    if image is None:
        raise DataError(
            f"The data set has no column of images; it has {listed(list(columns))}. Name one of them image: "
            'data.rename_column("...", "image").'
        )
    name = "data set"
    entries = [
        _in_memory(name, f"row {i} of the {name}", i, partial(_cell, data, i, image))
        for i in range(len(data))
    ]
    label = _column(columns, lambda f: hasattr(f, "names"), ("label", "labels"), "label")
    if label is None:
        return _Items(name, entries)
    names = getattr(columns[label], "names", None)
    return _Items(name, entries, list(data[label]), tuple(names) if names else None)


def _column(
    columns: Mapping[str, Any], fits: Callable[[Any], bool], usual: tuple[str, ...], what: str
) -> str | None:
    """The column that is called so, or the only one of that type.

    Raises:
        DataError: several of that type and none called so.
    """
    if called := [name for name in usual if name in columns]:
        return called[0]
    fitting = [name for name, feature in columns.items() if fits(feature)]
    if len(fitting) > 1:
        raise DataError(
            f"The data set has the {what} columns {listed(fitting)}. Choose one: "
            f'data.rename_column("{fitting[0]}", "{what}").'
        )
    return fitting[0] if fitting else None


def _is_map_style(data: object) -> bool:
    """Whether it is a data set by its face alone: items by number, a length, and no list."""
    return (
        hasattr(data, "__getitem__")
        and hasattr(data, "__len__")
        and not isinstance(data, list | tuple | Mapping)
    )


def _a(value: object) -> str:
    kind = kind_of(value) or type(value).__name__
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


# Functions of a module, not lambdas: data sets travel to other processes.
def _same(value: object) -> object:
    return value


def _first_of(data: Any, index: int) -> object:
    item = data[index]
    return item[0] if isinstance(item, tuple | list) else item


def _cell(data: Any, row: int, column: str) -> object:
    return getitem(data[row], column)

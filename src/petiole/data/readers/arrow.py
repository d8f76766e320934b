"""Images inside Arrow tables: Parquet with embedded images, and what Hugging Face's ``save_to_disk`` writes.

    set.parquet, root/*.parquet, root/data/*.parquet   columns image (bytes, or {bytes, path}) and label
    root/dataset_dict.json, root/<split>/*.arrow       a saved DatasetDict
    root/dataset_info.json, root/*.arrow               a saved Dataset

Part names are taken from folders and files (train, test; validation is not used), class names from what Hugging Face
keeps in the schema. Saved sets are mapped into memory; of Parquet the encoded images are held there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from petiole.data.dataset import listed
from petiole.data.readers.packed import Packed, PackedImage, by_part, packed_reader
from petiole.errors import DataError, boundary

_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label", "class")
_PARQUET = frozenset({".parquet", ".pq"})


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            "Arrow and Parquet files need pyarrow. Run `pip install 'petiole[parquet]'`."
        ) from None
    return pyarrow


def _parquets(path: Path) -> list[Path]:
    if path.suffix.lower() in _PARQUET and path.is_file():
        return [path]
    places = (path, path / "data") if path.is_dir() else ()
    return [
        f
        for place in places
        if place.is_dir()
        for f in place.iterdir()
        if f.suffix.lower() in _PARQUET
    ]


def has_images(path: Path) -> bool:
    """Whether Parquet files lie there whose schema has a column of images; a table of paths has none."""
    files = _parquets(path)
    if not files:
        return False
    try:
        schema = _arrow().parquet.read_schema(min(files))
    except Exception:  # the reader of tables says what is wrong with it
        return False
    return "path" not in schema.names and _image_column(schema) is not None


@packed_reader(
    "Parquet of images", layout="*.parquet with image and label", recognises=has_images, rank=9
)
def read_parquet(path: Path) -> Mapping[str, Packed]:
    """Read image and label columns of every part.

    Raises:
        DataError: a file cannot be read, or has no labels.
    """
    root = path if path.is_dir() else path.parent

    def tables(files: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
        for file in files:
            with boundary(file, "Write it again.", what="not a readable Parquet file"):
                schema = _arrow().parquet.read_schema(file)
                columns = [c for c in (_image_column(schema), _label_column(schema)) if c]
                yield file, _arrow().parquet.read_table(file, columns=columns, partitioning=None)

    return {part: _packed(tables(files)) for part, files in by_part(_parquets(path), root).items()}


@packed_reader(
    "saved data set",
    layout="dataset_dict.json or dataset_info.json, and *.arrow (Hugging Face's save_to_disk)",
    recognises=lambda p: any((p / f).is_file() for f in ("dataset_dict.json", "state.json")),
    rank=8,
)
def read_saved(path: Path) -> Mapping[str, Packed]:
    """Map the tables of every split.

    Raises:
        DataError: a file cannot be read, or has neither images nor labels.
    """
    folders = [path]
    if (path / "dataset_dict.json").is_file():
        with boundary(path / "dataset_dict.json", "Save the data set again."):
            listing = json.loads((path / "dataset_dict.json").read_text("utf-8"))
            folders = [path / str(name) for name in listing["splits"]]

    def tables(files: Sequence[Path]) -> Iterator[tuple[Path, Any]]:
        for file in files:
            with boundary(file, "Save the data set again.", what="not a readable Arrow file"):
                yield file, _arrow().ipc.open_stream(_arrow().memory_map(str(file))).read_all()

    parts = by_part((f for folder in folders for f in _shards(folder)), path)
    return {part: _packed(tables(files)) for part, files in parts.items()}


def _shards(folder: Path) -> list[Path]:
    """The Arrow files of one split, as its state.json lists them."""
    with boundary(folder / "state.json", "Save the data set again."):
        state = json.loads((folder / "state.json").read_text("utf-8"))
        return [folder / Path(str(one["filename"])).name for one in state["_data_files"]]


def _packed(tables: Iterator[tuple[Path, Any]]) -> Packed:
    images: list[PackedImage] = []
    names: Sequence[str] | None = None
    for file, table in tables:
        image, label = _image_column(table.schema), _label_column(table.schema)
        if image is None or label is None:
            what = "images (bytes, or {bytes, path})" if image is None else "labels"
            raise DataError(
                f"{file}: has no column of {what}; it has {listed(table.schema.names)}. Rename one to "
                f"{'image' if image is None else 'label'}."
            )
        own = _names(table.schema, label)
        if names and own and names != own:
            raise DataError(
                f"{file}: names its classes {listed(own)}, and the files before it {listed(names)}, so a number means two classes. "
                "Write them with the same class names in the same order."
            )
        names = names or own
        pictures, labels = table.column(image), table.column(label).to_pylist()
        images += [
            PackedImage(file / f"{i:06d}", partial(_cell, pictures, i, file.parent), value)
            for i, value in enumerate(labels)
        ]
    return Packed(images, names)


def _image_column(schema: Any) -> str | None:
    types = _arrow().types

    def fits(kind: Any) -> bool:
        if types.is_struct(kind):
            return any(field.name == "bytes" for field in kind)
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    fitting = [name for name in schema.names if fits(schema.field(name).type)]
    return next((name for name in _IMAGES if name in fitting), fitting[0] if fitting else None)


def _label_column(schema: Any) -> str | None:
    return next((name for name in _LABELS if name in schema.names), None)


def _names(schema: Any, label: str) -> Sequence[str] | None:
    """Class names that Hugging Face keeps in the schema, if any."""
    try:
        features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except Exception:  # whatever it is, it is none of that library's
        return None


def _cell(column: Any, row: int, folder: Path) -> object:
    """Encoded bytes of an image, or the path that stands for them, from the table's own folder."""
    value = column[row].as_py()
    if isinstance(value, Mapping) and value.get("bytes") is None and value.get("path"):
        return folder / str(value["path"])
    return value["bytes"] if isinstance(value, Mapping) else value

"""Images in any number through a frozen network on a Ray cluster (Ray Data), into the feature cache.

    files ─▶ read, decode, transform ─▶ frozen half ─▶ shards ─▶ a line an image
             (tasks)                    (actors)       (tasks)

Rows stream: no stage runs further ahead than its share of the object store holds, so memory does not grow with the
images. A worker that is lost costs its batch, which is done again elsewhere; shards are named by their content, so one that is
written twice is the same file.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from petiole.data.checks.images import check_name
from petiole.data.checks.thumbnails import Thumbnails, hash_and_thumbnail
from petiole.data.image import decode, read_bytes
from petiole.data.preprocessing import Augmentation, view
from petiole.data.readers.base import reader_of
from petiole.data.readers.packed import PackedReader
from petiole.engine.feature_job import FeatureJob, FeatureReport
from petiole.engine.feature_store import FeatureCache, Key
from petiole.engine.progress import progress
from petiole.engine.ray_executor import Ray, begin_worker, connected
from petiole.engine.share import BATCH, SHARD
from petiole.engine.thumbnail_store import KEY as THUMBNAILS
from petiole.engine.thumbnail_store import stored_form
from petiole.errors import ConfigError, DataError, PetioleError

Rows = dict[str, list[Any]]
TEXTS, BYTES = ["name", "id", "note"], ["tensors", "thumbnail"]
"""Columns of a row; of the bytes, those that are stored already are empty."""
BLOCK = 32 * 2**20
"""Bytes that a task hands on at a time."""


def store_features(
    files: Sequence[Path], job: FeatureJob, cluster: Ray, *, quiet: bool = False
) -> FeatureReport:
    """Compute and store what the cache lacks of these images.

    Args:
        files: images, or files of many (Parquet with images, WebDataset).
        job: of them.
        cluster: where; ``run_cpus`` and ``run_gpus`` are the share of one copy of the network.
        quiet: no progress bar.

    Raises:
        ConfigError: Ray Data is not installed.
        PetioleError: a network that gives NaN, or a cache that cannot be written.
    """
    connected(cluster.address)
    found = FeatureReport()
    named = [path for path in files if _nameable(path, found)]
    with progress("features of images", len(named), quiet=quiet) as advance:
        try:
            for row in _stream(named, job, cluster):
                path = Path(row["name"])
                if row["note"]:
                    found.bad[path] = row["note"]
                else:
                    found.ids[path] = row["id"]
                found.computed += row["new"]
                advance()
        except Exception as error:
            raise _own(error) from error
    return found


def _stream(files: Sequence[Path], job: FeatureJob, cluster: Ray) -> Iterator[dict[str, Any]]:
    """A row an image, as they come."""
    try:
        import pyarrow
        import ray.data
    except ImportError as error:
        raise ConfigError(f"Ray Data needs {error.name}: pip install 'petiole[ray]'.") from error
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = BLOCK
    names = [str(path) for path in files]
    gpus = cluster.gpus_on(job.device)
    # On the CPU Ray Data makes one actor of reading and network, which saves the way between them; beside a GPU images are
    # decoded by tasks of their own, ahead of it.
    cores = 0 if gpus else cluster.run_cpus
    copies = max(1, int(cluster.total("GPU") / gpus) if gpus else cluster.places)
    begin = {"folder": os.getcwd(), "threads": max(1, int(cluster.run_cpus))}
    terms = {"batch_format": "pyarrow", "zero_copy_batch": True}
    data = ray.data.from_arrow(
        [pyarrow.table({"path": names[i : i + BATCH]}) for i in range(0, len(names), BATCH)]
    )
    data = data.map_batches(
        _decoded, batch_size=BATCH, fn_args=(job, begin), num_cpus=cores or 1, **terms
    )
    data = data.map_batches(
        _Network,
        batch_size=BATCH,
        fn_constructor_args=(job, begin),
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=copies),
        num_cpus=cores,
        num_gpus=gpus,
        **terms,
    )
    data = data.map_batches(_written, batch_size=SHARD, fn_args=(job, begin), num_cpus=0, **terms)
    yield from data.iter_rows()


def _decoded(table: Any, job: FeatureJob, begin: Mapping[str, Any]) -> Iterator[Any]:
    """Paths -> transformed images that are not stored, by as many as the network takes at a time."""
    begin_worker(**begin)
    stored = _known(job.cache, job.key)
    compared = _known(job.cache, THUMBNAILS) if job.thumbnails else None
    images = chain.from_iterable(_images(Path(path)) for path in table.column("path").to_pylist())
    while chunk := list(islice(images, BATCH)):
        rows: Rows = {column: [] for column in (*TEXTS, *BYTES)}
        for name, fetch in chunk:
            image, note, tensors, thumbnail = "", "", b"", b""
            try:
                content = fetch()
                image = hashlib.sha256(content).hexdigest()
                new = image not in stored
                uncompared = compared is not None and image not in compared
                if new or uncompared:
                    pixels = decode(content, name)
                if new:
                    seen = view(pixels, job.preprocessing, Augmentation.none(), image, 0)
                    tensors = save_tensors({"image": seen})
                if uncompared:
                    one = Thumbnails.joined([hash_and_thumbnail(pixels)])
                    thumbnail = save_tensors(stored_form(one))
            except DataError as error:
                note = str(error)
            row = (str(name), image, note, tensors, thumbnail)
            for column, value in zip(rows, row, strict=True):
                rows[column].append(value)
        yield _table(rows)


class _Network:
    """The frozen half in an actor: transformed images -> what is stored of them."""

    def __init__(self, job: FeatureJob, begin: Mapping[str, Any]) -> None:
        begin_worker(**begin)
        self.network = job.open()

    def __call__(self, table: Any) -> Any:
        tensors = table.column("tensors").to_pylist()
        todo = [row for row, one in enumerate(tensors) if one]
        if todo:
            images = torch.stack([load_tensors(tensors[row])["image"] for row in todo])
            state = self.network(images)
            for row, index in enumerate(todo):
                values = {role: value[row].cpu().clone() for role, value in state.items()}
                tensors[index] = save_tensors(values)
        import pyarrow

        at = table.column_names.index("tensors")
        return table.set_column(at, "tensors", pyarrow.array(tensors, pyarrow.large_binary()))


def _written(table: Any, job: FeatureJob, begin: Mapping[str, Any]) -> Any:
    """What is stored of images -> shards; a row of each image goes on."""
    import pyarrow

    begin_worker(**begin)
    ids = table.column("id").to_pylist()
    for column, key, join in (
        ("tensors", job.key, torch.stack),
        ("thumbnail", THUMBNAILS, torch.cat),
    ):
        rows = zip(ids, table.column(column).to_pylist(), strict=True)
        new = {image: load_tensors(one) for image, one in rows if one}
        if new:
            state = {role: join([row[role] for row in new.values()]) for role in key.cut}
            FeatureCache(job.cache).write(key, list(new), state)
    counted = pyarrow.array([bool(one) for one in table.column("tensors").to_pylist()])
    return table.drop_columns(BYTES).append_column("new", counted)


def _images(path: Path) -> Iterator[tuple[Path, Callable[[], bytes]]]:
    """The images of a file, and how to read each."""
    if not (reader := reader_of(path, PackedReader)):
        yield path, lambda: read_bytes(path)
        return
    for part in reader.read(path).values():
        for image in part.images:

            def fetch(image: Any = image) -> bytes:
                content = image.fetch()
                return content if isinstance(content, bytes) else read_bytes(Path(content))

            yield image.path, fetch


def _nameable(path: Path, found: FeatureReport) -> bool:
    try:
        check_name(path)
    except DataError as error:
        found.bad[path] = str(error)
    return path not in found.bad


@lru_cache
def _known(root: Path, key: Key) -> frozenset[str]:
    """What was stored when the worker began."""
    return FeatureCache(root).listed(key)


def _table(rows: Rows) -> Any:
    import pyarrow

    texts = {column: pyarrow.array(rows[column], pyarrow.string()) for column in TEXTS}
    return pyarrow.table(
        texts | {column: pyarrow.array(rows[column], pyarrow.large_binary()) for column in BYTES}
    )


def _own(error: BaseException) -> BaseException:
    """The error of ours that Ray wrapped, if there is one."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, PetioleError):
            return inner
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error

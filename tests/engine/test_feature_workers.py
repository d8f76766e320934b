"""What workers make of images, stage by stage, and what each stage is given: without a cluster."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from builders.ray import FakeRay
from petiole.backbones.base import State
from petiole.data.checks.thumbnails import Thumbnails
from petiole.data.dataset import Sample
from petiole.data.image import read_image
from petiole.data.preprocessing import Augmentation, Preprocessing, view
from petiole.engine import ray_features
from petiole.engine.feature_job import FeatureJob, FeatureReport
from petiole.engine.feature_store import FeatureCache, Key
from petiole.engine.ray_executor import Ray
from petiole.engine.thumbnail_store import KEY as THUMBNAILS
from petiole.engine.thumbnail_store import stored_form
from petiole.errors import BackboneError, CacheError, ConfigError, DataError

HALF = (0.5, 0.5, 0.5)
STATED = Preprocessing(size=(8, 8), crop=1.0, interpolation="bilinear", mean=HALF, std=HALF)
KEY = Key("f" * 64, STATED.digest(), ("vector",))


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "photos" / f"{n}.png" for n in range(3)]
    files[0].parent.mkdir()
    for n, file in enumerate(files):
        colours = np.random.default_rng(n).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(colours).save(file)
    return files


def mean(images: Tensor) -> State:
    return {"vector": images.mean((2, 3))}


def job(root: Path, *, thumbnails: bool = False) -> FeatureJob:
    return FeatureJob(KEY, STATED, root, "cpu", lambda: mean, thumbnails)


BEGIN = {"folder": "/there", "threads": 1}


def stages(files: list[Path], work: FeatureJob) -> list[dict[str, Any]]:
    """Reading, network and writing one after the other, as Ray Data does them."""
    pyarrow = pytest.importorskip("pyarrow")
    ray_features._known.cache_clear()
    table = pyarrow.table({"path": [str(file) for file in files]})
    [read] = ray_features._decoded(table, work, BEGIN)
    written = ray_features._written(ray_features._Network(work, BEGIN)(read), work, BEGIN)
    return written.to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("thumbnails", [False, True])
def test_images_are_read_computed_and_stored_once(
    photos: list[Path], tmp_path: Path, thumbnails: bool, set_up: list[Any]
) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    work = job(tmp_path / "cache", thumbnails=thumbnails)
    first = stages([photos[0], bad], work)
    assert [row["name"] for row in first] == [str(photos[0]), str(bad)]
    assert [row["new"] for row in first] == [True, False]
    assert [bool(row["note"]) for row in first] == [False, True]
    assert set_up == ["allocator", ("in", "/there"), ("threads", 1)] * 3
    rows = stages(photos, work)
    assert [row["new"] for row in rows] == [False, True, True]
    ids = [row["id"] for row in rows]
    assert set(rows[0]) == {"name", "id", "note", "new"}
    cache = FeatureCache(tmp_path / "cache")
    stored = cache.read(KEY, ids)
    for image, file in zip(ids, photos, strict=True):
        pixels = view(read_image(file), STATED, Augmentation.none(), image, 0)
        torch.testing.assert_close(stored[image]["vector"], pixels.mean((1, 2)))
    kept = cache.read(THUMBNAILS, ids)
    assert set(kept) == (set(ids) if thumbnails else set())
    if thumbnails:
        wanted = stored_form(Thumbnails.of([Sample(file, 0, "") for file in photos]))
        for row, image in enumerate(ids):
            assert all(torch.equal(kept[image][role], wanted[role][row]) for role in wanted)


def test_images_that_are_stored_get_thumbnails_that_lack(
    photos: list[Path], tmp_path: Path, set_up: list[Any]
) -> None:
    del set_up[:]
    ids = [row["id"] for row in stages(photos, job(tmp_path / "cache"))]
    shards = list((tmp_path / "cache" / KEY.digest).glob("*.safetensors"))
    again = stages(photos, job(tmp_path / "cache", thumbnails=True))
    assert [row["new"] for row in again] == [False] * 3
    assert list((tmp_path / "cache" / KEY.digest).glob("*.safetensors")) == shards
    assert not FeatureCache(tmp_path / "cache").missing(THUMBNAILS, ids)


class Data:
    """As much of Ray Data as the stream asks for: each stage on whole tables of so many rows."""

    asked: list[dict[str, Any]]

    def __init__(self, tables: list[Any], asked: list[dict[str, Any]]) -> None:
        self.tables, self.asked = tables, asked

    def map_batches(self, work: Any, **how: Any) -> Data:
        import pyarrow

        self.asked.append(how)
        arguments = how.get("fn_args", ())
        if isinstance(work, type):
            work = work(*how["fn_constructor_args"])
        whole = pyarrow.concat_tables(self.tables)
        found = []
        for first in range(0, len(whole), how["batch_size"]):
            made = work(whole.slice(first, how["batch_size"]), *arguments)
            found += [made] if isinstance(made, pyarrow.Table) else list(made)
        return Data(found, self.asked)

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for table in self.tables:
            yield from table.to_pylist()


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("pyarrow")
    asked: list[Any] = []
    context = SimpleNamespace()
    module = ModuleType("ray.data")
    module.DataContext = SimpleNamespace(get_current=lambda: context)  # type: ignore[attr-defined]
    module.from_arrow = lambda tables: (
        asked.append([len(t) for t in tables]),
        Data(tables, asked),
    )[1]  # type: ignore[attr-defined]
    module.ActorPoolStrategy = lambda **sizes: sizes  # type: ignore[attr-defined]
    ray = FakeRay(begun=True)
    ray.data = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", module)
    monkeypatch.setattr(Ray, "total", lambda _, what: {"CPU": 4.0, "GPU": 6.0}[what])
    joined: list[Any] = []
    monkeypatch.setattr(ray_features, "connected", joined.append)
    monkeypatch.setattr(ray_features, "BATCH", 2)
    monkeypatch.setattr(ray_features, "SHARD", 3)
    ray_features._known.cache_clear()
    yield SimpleNamespace(asked=asked, context=context, joined=joined)
    ray_features._known.cache_clear()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("device", "cluster", "cores", "gpus", "copies"),
    [
        ("cpu", {"run_cpus": 2}, (2, 2), 0, 2),
        ("cpu", {"run_cpus": 8}, (8, 8), 0, 1),
        ("cuda:0", {"run_cpus": 3}, (1, 0), 1, 6),
        ("cuda", {"run_gpus": 0.5}, (1, 0), 0.5, 12),
    ],
)
def test_what_each_stage_is_given(
    photos: list[Path], tmp_path: Path, data: Any, set_up: list[Any],
    device: str, cluster: dict[str, Any], cores: tuple[int, int], gpus: float, copies: int,
) -> None:  # fmt: skip
    work = FeatureJob(KEY, STATED, tmp_path / "cache", device, lambda: mean)
    given = Ray("host:1", **cluster)
    talks = logging.getLogger("ray.data")
    talks.setLevel(logging.INFO)
    named = tmp_path / "odd\udcff.png"
    report = ray_features.store_features([*photos, named], work, given, quiet=True)
    assert data.joined == ["host:1"]
    assert talks.level == logging.ERROR
    assert (len(report.ids), report.computed) == (3, 3)
    assert set(report.bad) == {named}
    assert not FeatureCache(tmp_path / "cache").missing(KEY, list(report.ids.values()))
    tables, decoded, network, written = data.asked
    assert tables == [2, 1]
    assert [stage["batch_size"] for stage in (decoded, network, written)] == [2, 2, 3]
    assert (decoded["num_cpus"], network["num_cpus"], written["num_cpus"]) == (*cores, 0)
    assert network["num_gpus"] == gpus
    assert network["compute"] == {"min_size": 1, "max_size": copies}
    assert {stage["zero_copy_batch"] for stage in (decoded, network, written)} == {True}
    assert data.context.enable_progress_bars is False
    begin = {"folder": os.getcwd(), "threads": given.run_cpus}
    assert [stage.get("fn_args", (0, 0))[1] for stage in (decoded, written)] == [begin, begin]
    assert ("threads", given.run_cpus) in set_up


@pytest.mark.usefixtures("here", "set_up", "data")
def test_a_second_time_nothing_is_computed_and_errors_are_ours(
    photos: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = job(tmp_path / "cache")
    bar: list[tuple[int, bool]] = []
    moved: list[int] = []

    @contextmanager
    def progress(_: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
        bar.append((total, quiet))
        yield lambda: moved.append(1)

    monkeypatch.setattr(ray_features, "progress", progress)
    ray_features.store_features(photos[:2], work, Ray(), quiet=True)
    ray_features._known.cache_clear()
    assert ray_features.store_features(photos[:2], work, Ray(), quiet=True).computed == 0
    assert bar == [(2, True)] * 2
    assert len(moved) == 4

    def fails(_: Tensor) -> State:
        raise BackboneError("the network gives NaN")

    broken = FeatureJob(KEY, STATED, tmp_path / "cache", "cpu", lambda: fails)
    with pytest.raises(BackboneError, match="gives NaN"):
        ray_features.store_features(photos, broken, Ray(), quiet=True)


def test_without_ray_data_it_is_said_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(ray_features, "connected", lambda _: None)
    for name, module in (("ray", ModuleType("ray")), ("ray.data", None)):
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(
        ConfigError, match=r"Ray Data needs ray\.data: pip install 'petiole\[ray\]'"
    ):
        ray_features.store_features(
            [tmp_path / "a.png"], job(tmp_path), Ray.__new__(Ray), quiet=True
        )


def test_the_error_of_ours_is_found_in_what_ray_wrapped() -> None:
    ours = CacheError("full")
    outer = RuntimeError("a task failed")
    outer.cause = ValueError("wrapped")  # type: ignore[attr-defined]
    outer.cause.__cause__ = ours  # type: ignore[attr-defined]
    assert ray_features._own(outer) is ours
    assert ray_features._own(ours) is ours
    other = RuntimeError("of Ray's own")
    assert ray_features._own(other) is other


def test_a_name_that_no_file_can_have_is_told(tmp_path: Path) -> None:
    report = FeatureReport()
    assert ray_features._nameable(tmp_path / "a.png", report)
    assert not ray_features._nameable(tmp_path / "a\udcff.png", report)
    assert list(report.bad) == [tmp_path / "a\udcff.png"]


def test_images_of_a_packed_file_are_read_one_by_one(
    photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(file: Path, how: type) -> Any:
        return lambda: file.read_bytes() if how is bytes else str(file)

    images = [
        SimpleNamespace(path=Path(f"packed/{n}"), fetch=fetch(file, how))
        for n, (file, how) in enumerate(zip(photos, (bytes, str, bytes), strict=True))
    ]
    parts = {"train": SimpleNamespace(images=images[:2]), "": SimpleNamespace(images=images[2:])}
    packed = SimpleNamespace(read=lambda _: parts)
    monkeypatch.setattr(ray_features, "reader_of", lambda path, _: path.suffix == ".tar" and packed)
    found = list(ray_features._images(Path("all.tar")))
    assert [name for name, _ in found] == [image.path for image in images]
    assert [read() for _, read in found] == [file.read_bytes() for file in photos]
    [(name, read)] = ray_features._images(photos[0])
    assert (name, read()) == (photos[0], photos[0].read_bytes())
    with pytest.raises(DataError):
        next(ray_features._images(Path("absent.png")))[1]()

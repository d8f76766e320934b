"""Visual tokens: every store gives what was put in, and says what is wrong; pooling against loops."""

import pickle
import re
import sys
from collections.abc import Callable
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as arrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import parquet

from petiole.data.features.base import FeatureSource, InMemory, RawFeatures
from petiole.data.features.hdf5 import GridFiles, RegionFiles
from petiole.data.features.npz import FrameFiles
from petiole.data.features.pooled import Pooled, Resized
from petiole.data.features.shards import ROWS, Shards
from petiole.errors import ConfigError, DataError


def halves(*shape: int, seed: int = 0) -> NDArray[np.float16]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float16)


# --- in memory ---------------------------------------------------------------------------------


def test_in_memory_gives_tokens_and_boxes() -> None:
    boxes = np.zeros((2, 4), np.float32)
    source: FeatureSource = InMemory({"a": halves(2, 3), "b": RawFeatures(np.ones((2, 3)), boxes)})
    assert source.width == 3
    assert source("a").tokens.dtype == np.float32
    np.testing.assert_array_equal(source("a").tokens, halves(2, 3))
    assert source("b").boxes is boxes
    with pytest.raises(
        DataError, match=r"Image 'c' has no features in 2 images in memory\. Extract"
    ):
        source("c")


@pytest.mark.parametrize("shape", [(3,), (0, 3), (1, 2, 3)])
def test_features_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=rf"a: features of shape {re.escape(str(shape))}"):
        InMemory({"a": np.zeros(shape)})


def test_features_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match=r"a: features hold NaN"):
        InMemory({"a": [[np.nan]]})


def test_the_digest_in_memory_is_of_the_content() -> None:
    a, b = halves(2, 3), halves(2, 3, seed=1)
    same = InMemory({"x": a, "y": b}).digest
    assert InMemory({"y": b, "x": a}).digest == same
    boxes = np.zeros((2, 4), np.float32)
    others = [{"x": b, "y": a}, {"x": a}, {"x": a, "y": RawFeatures(b.astype(np.float32), boxes)}]
    assert len({same, *(InMemory(visuals).digest for visuals in others)}) == 4


# --- files ---------------------------------------------------------------------------------------


def grid_file(folder: Path, name: str, features: Any, key: str = "features") -> None:
    h5py = pytest.importorskip("h5py")
    folder.mkdir(exist_ok=True)
    with h5py.File(folder / f"{name}.h5", "w") as file:
        file.create_group(name)[key] = features


def test_grid_files_are_looked_for_in_every_folder(tmp_path: Path) -> None:
    first, second = tmp_path / "VG", tmp_path / "GQA"
    grid_file(first, "1", halves(49, 8))
    grid_file(second, "n1", halves(49, 8, seed=1))
    source = GridFiles(first, second)
    assert source.width == 8
    np.testing.assert_array_equal(source("n1").tokens, halves(49, 8, seed=1).astype(np.float32))
    assert source("1").boxes is None
    with pytest.raises(DataError, match=r"Image '2' has no features in .*VG, .*GQA"):
        source("2")


def test_grid_files_that_cannot_be_used(tmp_path: Path) -> None:
    grid_file(tmp_path / "f", "1", halves(4, 2), key="other")
    source = GridFiles(tmp_path / "f")
    with pytest.raises(DataError, match=r"1\.h5, 1: cannot be read .*features"):
        source("1")
    (tmp_path / "f" / "1.h5").rename(tmp_path / "f" / "2.h5")
    with pytest.raises(DataError, match=r"'2' has no features in .*2\.h5 \(it has no group"):
        source("2")
    (tmp_path / "f" / "3.h5").write_bytes(b"no")
    with pytest.raises(DataError, match=r"3\.h5: not a readable HDF5 file"):
        source("3")
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        GridFiles(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.h5 file"):
        _ = GridFiles(tmp_path / "empty").width


def region_file(path: Path, **more: Any) -> Path:
    h5py = pytest.importorskip("h5py")
    boxes = np.array([[0, 0, 320, 480], [64, 48, 640, 240.01]], np.float32)
    values = {"features": np.ones((2, 5), np.float32), "boxes": boxes, "img_w": 640, "img_h": 480}
    with h5py.File(path, "w") as file:
        group = file.create_group("img")
        for key, value in (values | more).items():
            group[key] = value
    return path


def test_boxes_of_regions_are_shares_of_width_and_height(tmp_path: Path) -> None:
    source = RegionFiles(region_file(tmp_path / "val.h5"))
    visual = source("img")
    assert (source.width, visual.tokens.shape) == (5, (2, 5))
    assert visual.boxes is not None
    assert visual.boxes.dtype == np.float32
    np.testing.assert_allclose(visual.boxes, [[0, 0, 0.5, 1], [0.1, 0.1, 1, 0.50002]], atol=1e-5)
    with pytest.raises(DataError, match=r"'other' has no features in .*val\.h5"):
        source("other")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"img_w": 320}, r"val\.h5, img: a box lies outside the image of 320 x 480"),
        ({"boxes": np.zeros((3, 4))}, r"boxes of shape \(3, 4\) for 2 regions"),
        ({"features": np.zeros(5)}, r"features of shape \(5,\)"),
    ],
)
def test_regions_that_cannot_be_used(tmp_path: Path, more: dict[str, Any], message: str) -> None:
    source = RegionFiles(region_file(tmp_path / "val.h5", **more))
    with pytest.raises(DataError, match=message):
        source("img")


def test_a_missing_library_names_its_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.h5").touch()
    (tmp_path / "a.parquet").touch()
    for library in ("h5py", "pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(DataError, match=r"pip install 'petiole\[vl\]'"):
        GridFiles(tmp_path)("a")
    with pytest.raises(DataError, match=r"pip install 'petiole\[parquet\]'"):
        Shards(tmp_path)("a")


def test_frames_are_read_and_nothing_is_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", features=halves(7, 4))
    np.savez(tmp_path / "other.npz", frames=halves(7, 4))
    np.savez(tmp_path / "pickled.npz", features=np.array([{}], dtype=object))
    (tmp_path / "damaged.npz").write_bytes((tmp_path / "v.npz").read_bytes()[:100])
    source = FrameFiles(tmp_path)
    np.testing.assert_array_equal(source("v").tokens, halves(7, 4).astype(np.float32))
    for name in ("other", "pickled", "damaged"):
        with pytest.raises(DataError, match=rf"{name}\.npz: no array `features`"):
            source(name)
    with pytest.raises(DataError, match=r"'w' has no features in .*there is no w\.npz"):
        source("w")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \.npz file"):
        _ = FrameFiles(tmp_path / "empty").width


def shard(path: Path, names: list[str], values: NDArray[np.float16], *, fixed: bool) -> None:
    path.parent.mkdir(exist_ok=True)
    n, tokens, width = values.shape
    if fixed:
        inner = arrow.FixedSizeListArray.from_arrays(arrow.array(values.reshape(-1)), width)
        column = arrow.FixedSizeListArray.from_arrays(inner, tokens)
    else:
        kind = arrow.list_(arrow.list_(arrow.float16()))
        column = arrow.array([list(v) for v in values], kind)
    table = arrow.table({"id": names, "features": column})
    parquet.write_table(table, path, compression="zstd", row_group_size=ceil(2 * n / 3))


@pytest.fixture
def shards(tmp_path: Path) -> tuple[Shards, dict[str, NDArray[np.float16]]]:
    """Two shards with several row groups and batches each, of both kinds of list."""
    stored = {}
    for k, fixed in enumerate((True, False)):
        names = [f"{k}-{i}" for i in range(3 * ROWS)]
        values = halves(len(names), 4, 3, seed=k)
        stored |= dict(zip(names, values, strict=True))
        shard(tmp_path / "s" / f"{k}.parquet", names, values, fixed=fixed)
    return Shards(tmp_path / "s"), stored


def test_shards_give_every_image_in_any_order(
    shards: tuple[Shards, dict[str, NDArray[np.float16]]],
) -> None:
    source, stored = shards
    assert source.names == tuple(stored)
    assert source.width == 3
    shuffled = np.random.default_rng(0).permutation(list(stored)).tolist()
    for name in (*stored, *shuffled[:30], *pickle.loads(pickle.dumps(source)).names[:2]):
        np.testing.assert_array_equal(source(name).tokens, stored[name].astype(np.float32))
    with pytest.raises(DataError, match=r"Image 'x' has no features in the 2 shards of"):
        source("x")


def test_shards_in_stored_order_are_opened_once_each(
    shards: tuple[Shards, dict[str, NDArray[np.float16]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, _ = shards
    opened = []
    original = parquet.ParquetFile

    def counting(path: Path, **options: Any) -> Any:
        opened.append(path)
        return original(path, **options)

    names = source.names
    monkeypatch.setattr(parquet, "ParquetFile", counting)
    for name in names:
        source(name)
    assert opened == source.files


def test_shards_that_cannot_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    with pytest.raises(DataError, match=r"s: no \.parquet file"):
        Shards(folder)
    shard(folder / "0.parquet", ["a"], halves(1, 4, 3), fixed=True)
    shard(folder / "1.parquet", ["a"], halves(1, 4, 3), fixed=True)
    with pytest.raises(DataError, match=r"1\.parquet: image 'a' is in .*0\.parquet too"):
        Shards(folder)("a")
    parquet.write_table(arrow.table({"id": ["b"]}), folder / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet: no shard with id and features"):
        Shards(folder)("b")
    (folder / "1.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"1\.parquet: no shard with id and features"):
        Shards(folder)("b")


Store = Callable[[Path, NDArray[np.float16]], FeatureSource]


def frames(folder: Path, values: NDArray[np.float16]) -> FeatureSource:
    np.savez(folder / "a.npz", features=values)
    return FrameFiles(folder)


def grids(folder: Path, values: NDArray[np.float16]) -> FeatureSource:
    grid_file(folder, "a", values)
    return GridFiles(folder)


def parquets(folder: Path, values: NDArray[np.float16]) -> FeatureSource:
    shard(folder / "0.parquet", ["a", "b"], np.stack([values] * 2), fixed=True)
    return Shards(folder)


@pytest.mark.parametrize("store", [frames, grids, parquets])
def test_the_digest_of_files_stays_until_a_file_changes(tmp_path: Path, store: Store) -> None:
    source = store(tmp_path, halves(4, 3))
    assert type(source)(tmp_path).digest == source.digest  # type: ignore[call-arg]
    assert re.fullmatch("[0-9a-f]{64}", source.digest)
    # Other values of the same size.
    assert store(tmp_path, halves(4, 3, seed=1)).digest != source.digest


# --- pooling -------------------------------------------------------------------------------------


def naive_windows(s: int, t: int) -> list[range]:
    return [range(floor(i * s / t), ceil((i + 1) * s / t)) for i in range(t)]


def test_the_windows_of_seven_to_six_are_two_wide_with_stride_one() -> None:
    assert [(w.start, w.stop) for w in naive_windows(7, 6)] == [(i, i + 2) for i in range(6)]
    tokens = halves(49, 5).astype(np.float32)
    pooled = Pooled(InMemory({"a": tokens}), 36)("a").tokens
    grid = tokens.reshape(7, 7, 5)
    corners = [grid[i : i + 6, j : j + 6] for i in (0, 1) for j in (0, 1)]
    np.testing.assert_array_equal(pooled, np.max(corners, axis=0).reshape(36, 5))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 99))
def test_pooling_a_grid_equals_the_naive_loop(s: int, t: int, seed: int) -> None:
    tokens = halves(s * s, 2, seed=seed).astype(np.float32)
    source = Pooled(InMemory({"a": tokens}), t * t)
    if s < t:
        with pytest.raises(DataError, match=rf"'a' has {s * s} tokens, which cannot be pooled"):
            source("a")
        return
    expected = [
        [max(tokens[y * s + x, c] for y in ys for x in xs) for c in range(2)]
        for ys in naive_windows(s, t)
        for xs in naive_windows(s, t)
    ]
    np.testing.assert_array_equal(source("a").tokens, np.array(expected, np.float32))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
def test_resizing_frames_equals_the_naive_loop(length: int, to: int, seed: int) -> None:
    tokens = halves(length, 2, seed=seed).astype(np.float32)
    got = Resized(InMemory({"a": tokens}), to)("a").tokens
    if length <= to:
        expected = np.zeros((to, 2), np.float32)
        expected[:length] = tokens
    else:
        windows = naive_windows(length, to)
        expected = np.array([[max(tokens[i, c] for i in w) for c in range(2)] for w in windows])
    np.testing.assert_array_equal(got, expected)
    assert (got.dtype, got.flags.c_contiguous) == (np.float32, True)


def test_what_has_no_grid_is_not_pooled() -> None:
    boxes = np.zeros((36, 4), np.float32)
    regions = RawFeatures(np.ones((36, 2), np.float32), boxes)
    memory = InMemory({"regions": regions, "row": np.ones((50, 2))})
    assert Pooled(memory, 36)("regions").boxes is boxes
    with pytest.raises(DataError, match=r"'regions' has 36 regions, and regions have no grid"):
        Pooled(memory, 25)("regions")
    with pytest.raises(DataError, match=r"'row' has 50 tokens"):
        Pooled(memory, 36)("row")
    for to in (0, -4, 35):
        with pytest.raises(ConfigError, match=rf"cannot have {to} tokens"):
            Pooled(memory, to)
    with pytest.raises(ConfigError, match=r"cannot have 0 tokens"):
        Resized(memory, 0)


def test_pooled_sources_pass_the_width_and_have_a_digest_of_their_own() -> None:
    memory = InMemory({"a": np.ones((49, 3))})
    sources = [Pooled(memory, 36), Pooled(memory, 25), Resized(memory, 36), memory]
    assert {source.width for source in sources} == {3}
    assert len({source.digest for source in sources}) == 4
    assert Pooled(memory, 36).digest == sources[0].digest


def test_regions_in_a_file_that_is_not_there_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone\.h5: no such file of features"):
        RegionFiles(tmp_path / "gone.h5")

"""The leak check finds injected copies and leaves distinct images alone."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from petiole.data.checks import leaks
from petiole.data.checks.leaks import find_leaks
from petiole.data.checks.thumbnails import Thumbnails, perceptual_hash
from petiole.data.sources import open_folder
from petiole.engine.feature_store import FeatureCache
from petiole.engine.thumbnail_store import stored_thumbnails
from petiole.errors import DataError


@cache
def scene(seed: int, side: int = 64) -> Image.Image:
    """A smooth random colour picture: as a photo, most of its energy is at low frequencies."""
    rng = np.random.default_rng(seed)
    x = sum(
        ndimage.gaussian_filter(rng.normal(size=(side, side, 3)), (s, s, 0)) * s**1.5
        for s in (1, 4, 12)
    )
    x = (x - x.min()) / (x.max() - x.min())
    return Image.fromarray((255 * x).astype(np.uint8))


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    for side, start in (("train", 0), ("test", 100)):
        for c in "ab":
            (tmp_path / side / c).mkdir(parents=True)
            for i in range(10):
                scene(start + 1000 * ord(c) + i).save(tmp_path / side / c / f"{i}.png")
    return tmp_path / "train", tmp_path / "test"


def test_distinct_images_are_not_flagged(sides: tuple[Path, Path]) -> None:
    report = find_leaks(open_folder(sides[0]), open_folder(sides[1]))
    assert not report
    assert report.pairs == ()
    assert report.summary().startswith("No image of the training side")


COPIES = {
    "same": lambda image, path: image.save(path.with_suffix(".png")),
    "recompressed": lambda image, path: image.save(path.with_suffix(".jpg"), quality=40),
    "resized": lambda image, path: image.resize((45, 45)).save(path.with_suffix(".png")),
    "squeezed": lambda image, path: image.resize((64, 48)).save(path.with_suffix(".webp")),
    "brighter": lambda image, path: image.point(lambda v: int(v * 0.9 + 20)).save(
        path.with_suffix(".png")
    ),
}


@pytest.mark.parametrize("how", list(COPIES))
def test_injected_copy_is_found(sides: tuple[Path, Path], how: str) -> None:
    train, test = sides
    COPIES[how](Image.open(train / "a" / "3.png"), test / "b" / "copy")
    report = find_leaks(open_folder(train), open_folder(test))
    assert report
    (pair,) = report.pairs
    assert pair.train == train / "a" / "3.png"
    assert pair.test.stem == "copy"
    assert pair.how == ("sha256" if how == "same" else "phash")
    assert pair.value <= 4
    assert "a/3.png" in report.summary()
    assert report.counts()[pair.how] == 1


def test_features_find_what_hashes_do_not(sides: tuple[Path, Path]) -> None:
    train, test = open_folder(sides[0]), open_folder(sides[1])
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 16)), rng.normal(size=(20, 16))
    b[7] = 3 * a[5] + 0.05 * rng.normal(size=16)
    b[8] = 0
    report = find_leaks(train, test, features=(a, b))
    (pair,) = report.pairs
    assert (pair.train, pair.test, pair.how) == (train.paths[5], test.paths[7], "cosine")
    expected = a[5] @ b[7] / np.linalg.norm(a[5]) / np.linalg.norm(b[7])
    assert pair.value == pytest.approx(expected, abs=1e-5)
    assert not find_leaks(train, test, features=(a, b), cosine=0.99999)
    with pytest.raises(DataError, match=r"features of shape \(19, 16\) do not fit 20"):
        find_leaks(train, test, features=(a, b[:-1]))


def test_a_pair_is_reported_once(sides: tuple[Path, Path]) -> None:
    COPIES["same"](Image.open(sides[0] / "a" / "3.png"), sides[1] / "a" / "copy")
    train, test = open_folder(sides[0]), open_folder(sides[1])
    i, j = (
        next(k for k, p in enumerate(d.paths) if p.stem == n)
        for d, n in ((train, "3"), (test, "copy"))
    )
    a, b = np.eye(41)[:20], np.eye(41)[20:]
    b[[0, j]], b[j] = b[[j, 0]], a[i]
    report = find_leaks(train, test, features=(a, b))
    assert [p.how for p in report.pairs if p.test.stem == "copy"] == ["sha256"]


def test_hash_equals_a_naive_one() -> None:
    image = scene(5)
    x = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), np.float64)
    n = np.arange(32)
    c = np.array(
        [
            [(x * np.outer(np.cos(np.pi * (n + 0.5) * u / 32), np.cos(np.pi * (n + 0.5) * v / 32))).sum()
             for v in range(8)]
            for u in range(8)
        ]
    )  # fmt: skip
    c[0] /= np.sqrt(2)
    c[:, 0] /= np.sqrt(2)
    bits = (c > np.median(c.ravel()[1:])).ravel()
    assert perceptual_hash(image) == int("".join(str(int(b)) for b in bits), 2)


def test_small_and_flat_images_have_no_hash(sides: tuple[Path, Path]) -> None:
    assert perceptual_hash(scene(1, side=31)) is None
    assert perceptual_hash(scene(1, side=32)) is not None
    assert perceptual_hash(Image.new("RGB", (64, 64), (9, 99, 199))) is None
    train, test = sides
    Image.new("RGB", (64, 64), "white").save(train / "a" / "white.png")
    Image.new("RGB", (80, 64), "white").save(test / "a" / "white.png")
    report = find_leaks(open_folder(train), open_folder(test))
    assert not report
    assert report.notes[0].startswith("2 of 42 images are too small")


def test_line_drawings_are_told_apart(tmp_path: Path) -> None:
    """Different drawings whose hashes nearly agree must not be called the same image."""
    guitars = Path(__file__).parents[3] / "shared/data/pacs_sketch_photo/sketch/guitar"
    if not guitars.is_dir():
        pytest.skip("needs ../shared/data/pacs_sketch_photo")
    (tmp_path / "guitar").symlink_to(guitars)
    d = open_folder(tmp_path)
    hashes = np.array([perceptual_hash(Image.open(p)) or 0 for p in d.paths], np.uint64)
    near = (np.bitwise_count(hashes[:, None] ^ hashes[None, :]) <= 4).sum() - len(d)
    assert near > 100  # so the hash alone would accuse them
    assert [p for p in find_leaks(d, d).pairs if p.how != "sha256"] == []


def test_near_hashes_are_told_apart_by_their_thumbnails() -> None:
    """A tile that begins within and is not square, against a plain double loop."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 1 << 63, 2).astype(np.uint64)
    scenes = rng.integers(0, 256, (3, 32**2), dtype=np.uint8)

    def side(n: int) -> tuple[np.ndarray, Thumbnails]:
        which = rng.integers(0, 3, n)
        code, valid = codes[rng.integers(0, 2, n)], rng.random(n) < 0.8
        return which, Thumbnails(code, valid, scenes[which])

    (seen, a), (met, b) = side(13), side(9)
    near, bits = leaks._near_thumbnails(a, b, 6)(slice(2, 13), slice(1, 8))
    for i in range(11):
        for j in range(7):
            one, two = i + 2, j + 1
            assert bits[i, j] == (int(a.hashes[one]) ^ int(b.hashes[two])).bit_count()
            alike = bits[i, j] <= 6 and seen[one] == met[two]
            assert near[i, j] == (alike and a.valid[one] and b.valid[two])


def test_look_alikes_are_all_counted_and_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that do not fit the numbers, three kinds in turn, against a plain double loop."""
    monkeypatch.setattr(leaks, "_TILE", 7)
    monkeypatch.setattr(leaks, "MOST_KEPT", 5)
    rng = np.random.default_rng(3)
    kinds = {how: rng.random((23, 17)) < 0.3 for how in ("sha256", "phash", "cosine")}
    values = rng.random((23, 17))

    def detector(same: np.ndarray) -> leaks._Detector:
        return lambda rows, columns: (same[rows, columns].copy(), values[rows, columns])

    detectors = {how: detector(same) for how, same in kinds.items()}
    kept, found = leaks._search(23, 17, detectors, quiet=True)
    first = {
        (i, j): next((how for how, same in kinds.items() if same[i, j]), None)
        for i in range(23)
        for j in range(17)
    }
    assert found == {how: list(first.values()).count(how) for how in kinds}
    assert [sum(k[2] == how for k in kept) for how in kinds] == [5, 5, 5]
    assert all(first[i, j] == how and value == values[i, j] for i, j, how, value in kept)


def test_copies_beyond_a_tile_get_their_own_paths(
    sides: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaks, "_TILE", 3)
    for how in COPIES:
        COPIES[how](Image.open(sides[0] / "b" / "7.png"), sides[1] / "b" / f"copy-{how}")
    report = find_leaks(open_folder(sides[0]), open_folder(sides[1]))
    assert {p.train.relative_to(sides[0]).as_posix() for p in report.pairs} == {"b/7.png"}
    assert {p.test.stem for p in report.pairs} == {f"copy-{how}" for how in COPIES}
    assert report.counts() == {"sha256": 1, "phash": len(COPIES) - 1, "cosine": 0}


def test_of_known_images_none_is_read(sides: tuple[Path, Path], tmp_path: Path) -> None:
    """Pairs and notes are those of reading all, also where an image has no hash and another is new."""
    COPIES["recompressed"](Image.open(sides[0] / "b" / "7.png"), sides[1] / "b" / "copy")
    scene(5, side=20).save(sides[1] / "a" / "small.png")
    train, test = (open_folder(side) for side in sides)
    cache = FeatureCache(tmp_path / "cache")
    read = find_leaks(train, test)
    assert [pair.test.name for pair in read.pairs] == ["copy.jpg"]
    stored_thumbnails(cache, test.select(range(3)), quiet=True)
    for _ in ("computed", "known"):
        found = (
            stored_thumbnails(cache, train, quiet=True),
            stored_thumbnails(cache, test, quiet=True),
        )
        assert find_leaks(train, test, thumbnails=found) == read
        for path in (*train.paths, *test.paths):
            path.unlink(missing_ok=True)
    assert len(stored_thumbnails(cache, test.select([]), quiet=True).valid) == 0

"""``petiole features``: counts, sizes and digest are those of what lies in the cache."""

from __future__ import annotations

import hashlib
import shutil
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from petiole.commands.features import Extracted, features
from petiole.data.checks.thumbnails import Thumbnails
from petiole.data.dataset import Dataset, Sample
from petiole.engine.feature_store import FeatureCache, entries
from petiole.engine.thumbnail_store import stored_thumbnails
from petiole.errors import ConfigError, DataError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three pictures in two folders."""
    rng = np.random.default_rng(0)
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def extract(images: Path, **options: object) -> Extracted:
    settings = {"backbone": "petiole/tiny-vit", "visual_tokens": 16, "quiet": True, **options}
    return features(images, cache_dir=images.parent / "cache", **settings)  # type: ignore[arg-type]


def test_features_are_stored_once_and_counted(images: Path) -> None:
    first, second = extract(images), extract(images)
    assert (first.images, first.computed, first.left_out) == (3, 3, [])
    assert (second.images, second.computed, second.digest) == (3, 0, first.digest)
    (shelf,) = entries(images.parent / "cache", verify=True)
    assert (shelf.images, shelf.key["cut"]) == (3, ["final.patches/16"])
    assert first.megabytes == pytest.approx(3 * 16 * first.width * 2 / 1e6)
    assert first.megabytes * 1e6 <= shelf.bytes
    console = Console(width=300, file=StringIO())
    console.print(first)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert "3 images, 3 of them new" in said
    assert f"16 x {first.width} each" in said
    assert first.digest in said


def test_what_the_leak_check_compares_lies_beside_vectors(images: Path) -> None:
    extract(images, vectors=True, visual_tokens=None)
    files = sorted(images.rglob("*.png"))
    seen = [Sample(file, 0, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files]
    data = Dataset("images", ("all",), tuple(seen))
    fresh = Thumbnails.of(data.samples)
    shutil.rmtree(images)
    kept = stored_thumbnails(FeatureCache(images.parent / "cache"), data)
    for name in ("hashes", "thumbnails", "valid"):
        assert np.array_equal(getattr(kept, name), getattr(fresh, name))


def test_the_digest_follows_content_and_settings(images: Path) -> None:
    one = extract(images).digest
    assert extract(images, visual_tokens=25).digest != one
    (images / "a.png").write_bytes((images / "sub/b.png").read_bytes())
    assert extract(images).digest != one


def test_a_broken_image_is_named_or_left_out(images: Path) -> None:
    (images / "sub/broken.jpg").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"sub/broken\.jpg: not an image"):
        extract(images)
    done = extract(images, skip_bad=True)
    assert (done.images, done.left_out) == (3, ["sub/broken.jpg"])
    assert "broken.jpg" in done.notes[0]


def test_folders_of_frames_are_videos(images: Path) -> None:
    done = extract(images, videos=True)
    assert (done.images, done.tokens) == (3, 1)
    (shelf,) = entries(images.parent / "cache")
    assert shelf.key["cut"] == ["final.cls"]


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        features(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        features(tmp_path / "absent")


def test_a_grid_that_is_too_small_is_explained(images: Path) -> None:
    with pytest.raises(ConfigError, match=r"5 x 5 local tokens.*pooled to 36"):
        extract(images, visual_tokens=36)


def test_shards_fill_one_store_and_each_names_what_it_cannot_read(images: Path) -> None:
    (images / "sub/broken.jpg").write_bytes(b"no image")
    parts = [extract(images, shard=f"{i}/3", skip_bad=True) for i in (1, 2, 3)]
    assert sum(part.images for part in parts) == sum(part.computed for part in parts) == 3
    assert [name for part in parts for name in part.left_out] == ["sub/broken.jpg"]
    whole = extract(images, skip_bad=True)
    assert (whole.images, whole.computed) == (3, 0)
    alone = extract(images, skip_bad=True, visual_tokens=25)
    assert (alone.computed, alone.shard) == (3, "1/1")

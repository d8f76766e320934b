"""Features of our backbones: pooled as the equation says, stored once, and rounded as stated."""

from __future__ import annotations

import gc
import math
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load
from petiole.backbones.vision.cnn import ConvNet
from petiole.data.image import read_image
from petiole.data.preprocessing import evaluate_transform
from petiole.engine.feature_extractor import Features, padded
from petiole.engine.feature_store import FeatureCache, entries
from petiole.errors import ConfigError, DataError
from petiole.tasks.text import visual_backbone
from petiole.tasks.text.grid_pool import GridPool
from petiole.tasks.text.visual import BackboneVisuals
from petiole.testing import backbones as small

Tiny = Callable[..., ConvNet]


def draw(path: Path, seed: int, size: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def pooled_by_hand(tokens: Tensor, places: int) -> Tensor:
    """The equation of ``GridPool`` in loops, one image (N, D)."""
    a, b = math.isqrt(len(tokens)), math.isqrt(places)
    windows = [range(i * a // b, math.ceil((i + 1) * a / b)) for i in range(b)]
    return torch.stack(
        [
            torch.stack([tokens[u * a + v] for u in rows for v in columns]).max(dim=0).values
            for rows in windows
            for columns in windows
        ]
    )


def seen_by_hand(backbone: Backbone, path: Path, places: int) -> Tensor:
    [(chunk, _)] = padded(evaluate_transform(backbone.preprocessing)(read_image(path))[None])
    return pooled_by_hand(backbone.lower(chunk, (backbone.patches,))[backbone.patches][0], places)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three pictures (two byte-equal) and a video of eleven frames."""
    place = tmp_path / "images"
    draw(place / "a.png", 0)
    draw(place / "sub/b.png", 1)
    shutil.copy(place / "a.png", place / "copy.png")
    for i in range(11):
        draw(place / f"clip/frame{i}.png", 10 + i)
    return place


# --- the grid ---------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 8).flatmap(lambda a: st.tuples(st.just(a), st.integers(1, a))), st.integers(0, 9)
)
def test_a_grid_is_pooled_as_the_equation_says(sides: tuple[int, int], seed: int) -> None:
    a, b = sides
    tokens = torch.randn(2, a * a, 3, generator=torch.Generator().manual_seed(seed))
    got = GridPool(b * b)(tokens)
    assert torch.equal(got, torch.stack([pooled_by_hand(one, b * b) for one in tokens]))


def test_seven_by_seven_becomes_six_by_six_by_windows_of_two_at_stride_one() -> None:
    tokens = torch.randn(1, 49, 5)
    grid = tokens.reshape(7, 7, 5)
    want = torch.maximum(
        torch.maximum(grid[:-1, :-1], grid[1:, :-1]), torch.maximum(grid[:-1, 1:], grid[1:, 1:])
    )
    assert torch.equal(GridPool(36)(tokens)[0], want.reshape(36, 5))


@pytest.mark.parametrize("count", [12, 16])
def test_as_many_places_as_tokens_change_nothing(count: int) -> None:
    tokens = torch.randn(1, count, 5)
    GridPool(count).check(count, "x")
    assert GridPool(count)(tokens) is tokens


@pytest.mark.parametrize(
    ("places", "count", "says"),
    [
        (36, 16, r"4 x 4 local tokens.*pooled to 36.*one of 1, 4, 9, 16"),
        (5, 16, r"pooled to 5"),
        (0, 16, r"pooled to 0"),
        (-4, 16, r"pooled to -4"),
        (4, 12, r"12 local tokens.*no square grid.*visual_tokens=12"),
    ],
)
def test_a_grid_that_cannot_be_pooled_says_which_can(places: int, count: int, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        GridPool(places).check(count, "x")


# --- features of a backbone -------------------------------------------------------------------------


@pytest.mark.parametrize("name", small.NAMES)
def test_any_backbone_shows_its_pooled_local_tokens(name: str, root: Path, tmp_path: Path) -> None:
    backbone = small.build(name, tmp_path / "model")
    places = 1
    sight = BackboneVisuals(root, backbone, tmp_path / "cache", places, dtype="float32")
    seen = sight("sub/b.png")
    assert (seen.visual_tokens, sight.width) == (places, seen.tokens.shape[1])
    assert seen.padding is None
    torch.testing.assert_close(seen.tokens, seen_by_hand(backbone, root / "sub/b.png", places))


@pytest.mark.parametrize(
    ("name", "tokens", "shape"),
    [("petiole/tiny-vit", 25, (16, 192)), ("petiole/efficientnet-lite0", 49, (36, 1280))],
)
def test_the_shipped_backbones_show_their_pooled_grid(
    name: str, tokens: int, shape: tuple[int, int], root: Path
) -> None:
    backbone = load(name)
    assert backbone.local_tokens == tokens
    seen = BackboneVisuals(root, backbone, None, shape[0])("a.png")
    assert seen.tokens.shape == shape
    want = seen_by_hand(backbone, root / "a.png", shape[0])
    torch.testing.assert_close(seen.tokens, want, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_features_are_rounded_to_the_stored_type(tiny: Tiny, root: Path, dtype: str) -> None:
    full = BackboneVisuals(root, tiny(), None, 9, dtype="float32")("a.png").tokens
    half = BackboneVisuals(root, tiny(), None, 9, dtype=dtype)("a.png").tokens
    assert torch.equal(half, full.to(getattr(torch, dtype)).float())
    assert not torch.equal(half, full)


def count_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    read = Features.read
    monkeypatch.setattr(
        Features, "read", lambda s, c, *rest: (counted.append(len(c)), read(s, c, *rest))[1]
    )
    return counted


def test_every_image_is_computed_once_whoever_asks(
    tiny: Tiny, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_images(monkeypatch)
    names = ["a.png", "copy.png", "sub/b.png", "clip", "a.png"]
    first = BackboneVisuals(root, tiny(), tmp_path / "cache", 4)
    done = first.prepare(names, quiet=True)
    assert sum(counted) == done.computed == done.images == 2 + 11
    assert done.megabytes == pytest.approx((2 * 4 * 8 + 11 * 8) * 2 / 1e6)
    second = BackboneVisuals(root, tiny(), tmp_path / "cache", 4)
    again = second.prepare(names, quiet=True)
    shown = [second(name) for name in names]
    assert sum(counted) == 13
    assert (again.computed, again.images, again.digest) == (0, 13, done.digest)
    assert torch.equal(shown[0].tokens, shown[1].tokens)
    assert torch.equal(shown[0].tokens, first("a.png").tokens)


def test_only_pooled_tokens_are_stored_and_unpooled_ones_are_those_of_other_methods(
    tiny: Tiny, root: Path, tmp_path: Path
) -> None:
    BackboneVisuals(root, tiny(), tmp_path, 4)("a.png")
    BackboneVisuals(root, tiny(), tmp_path, 16)("a.png")
    shelved = {tuple(s.key["cut"]): s for s in entries(tmp_path, verify=True)}  # type: ignore[arg-type]
    assert set(shelved) == {("final.map/4",), ("final.map",)}
    assert all(s.images == 1 and not s.damaged for s in shelved.values())
    key = Features(tiny(), dtype="float16").key(("final.map",), 0, spec=None)  # type: ignore[arg-type]
    assert shelved[("final.map",)].digest == key.digest


def test_two_writers_store_the_same_and_both_read_it(
    tiny: Tiny, root: Path, tmp_path: Path
) -> None:
    one, two = (BackboneVisuals(root, tiny(), tmp_path / "cache", 4) for _ in range(2))
    one.prepare(["a.png"], quiet=True)
    two.prepare(["a.png", "sub/b.png"], quiet=True)
    one.prepare(["sub/b.png", "a.png"], quiet=True)
    for name in ("a.png", "sub/b.png"):
        assert torch.equal(one(name).tokens, two(name).tokens)
    fresh = BackboneVisuals(root, tiny(), tmp_path / "cache", 4).prepare(["a.png", "sub/b.png"])
    assert fresh.computed == 0


def test_what_decides_the_features_decides_the_digest(tiny: Tiny, root: Path) -> None:
    base = BackboneVisuals(root, tiny(), None, 4)
    others = [
        BackboneVisuals(root, tiny(1), None, 4),
        BackboneVisuals(root, tiny(), None, 9),
        BackboneVisuals(root, tiny(), None, 4, rows=8),
        BackboneVisuals(root, tiny(), None, 4, dtype="float32"),
        BackboneVisuals(root, tiny(), None, 4, precision="bf16"),
    ]
    assert len({s.digest for s in (base, *others)}) == 6
    assert base.digest == BackboneVisuals(root / "sub", tiny(), None, 4).digest


def test_the_digest_of_what_lies_ready_follows_the_content(tiny: Tiny, root: Path) -> None:
    names = ["a.png", "sub/b.png"]
    before = BackboneVisuals(root, tiny(), None, 4).prepare(names, quiet=True).digest
    turned = BackboneVisuals(root, tiny(), None, 4).prepare(names[::-1], quiet=True).digest
    draw(root / "sub/b.png", 99)
    after = BackboneVisuals(root, tiny(), None, 4).prepare(names, quiet=True).digest
    assert before == turned != after


def test_without_a_cache_the_features_go_with_the_object(tiny: Tiny, root: Path) -> None:
    sight = BackboneVisuals(root, tiny(), None, 4)
    folder = sight.cache.root
    sight("a.png")
    assert folder.is_dir()
    del sight
    gc.collect()
    assert not folder.exists()


def test_the_cost_is_said_beforehand(
    tiny: Tiny, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sight = BackboneVisuals(root, tiny(), tmp_path / "cache", 4)
    sight.prepare(["a.png", "sub/b.png"])
    said = capsys.readouterr().err
    assert "features 2 pictures through tiny: about 0 s, 0.0 MB to store in" in said
    sight.prepare(["a.png", "sub/b.png"])
    assert "through" not in capsys.readouterr().err


def test_few_files_are_read_without_a_bar(
    tiny: Tiny, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[int, bool]] = []

    @contextmanager
    def bar(_: str, total: int, *, quiet: bool) -> Iterator[Callable[[], None]]:
        shown.append((total, not quiet))
        yield lambda: moved.append(total)

    moved: list[int] = []
    monkeypatch.setattr(visual_backbone, "progress", bar)
    monkeypatch.setattr(visual_backbone, "WORTH_A_BAR", 2)
    paths = [root / "a.png", root / "sub/b.png"]
    for quiet in (False, True):
        BackboneVisuals(root, tiny(), None, 4)._read(paths, quiet=quiet)
    few = BackboneVisuals(root, tiny(), None, 4)
    few._read([*paths[:1], *paths[:1]], quiet=False)
    few._read(paths, quiet=False)
    few._read(paths, quiet=False)
    assert shown == [(2, True), (2, False), (1, False), (1, False)]
    assert moved == [2, 2, 2, 2, 1, 1]


# --- bad images -------------------------------------------------------------------------------------


def test_bad_images_are_named_before_anything_is_computed(
    tiny: Tiny, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_images(monkeypatch)
    (root / "broken.png").write_bytes(b"no image")
    (root / "clip/frame3.png").write_bytes(b"")
    sight = BackboneVisuals(root, tiny(), tmp_path / "cache", 4)
    with pytest.raises(DataError, match=r"2 of 3 images(.|\n)*absent\.png(.|\n)*broken\.png"):
        sight.prepare(["a.png", "broken.png", "absent.png"], quiet=True)
    with pytest.raises(DataError, match=r"frame3\.png: the file is empty"):
        sight.prepare(["clip"], quiet=True)
    assert counted == []
    (root / "empty").mkdir()
    names = ["a.png", "broken.png", "absent.png", "clip", "empty"]
    done = sight.prepare(names, skip_bad=True, quiet=True)
    assert done.left_out == ("absent.png", "broken.png", "clip", "empty")
    assert (done.images, done.computed) == (11, 11)
    assert "2 unreadable images left out" in done.notes[0]
    assert "frame3.png" in done.notes[1]
    for name, says in (
        ("broken.png", "not an image"),
        ("clip", "frame3"),
        ("absent.png", "no such"),
    ):
        with pytest.raises(DataError, match=says):
            sight(name)


def test_a_video_without_frames_is_named(tiny: Tiny, root: Path) -> None:
    (root / "empty").mkdir()
    sight = BackboneVisuals(root, tiny(), None, 4)
    for look in (sight, lambda name: sight.prepare([name], quiet=True)):
        with pytest.raises(DataError, match="empty: a video is a folder of frames"):
            look("empty")


# --- videos -----------------------------------------------------------------------------------------


def test_a_short_video_keeps_its_frames_in_the_order_of_their_numbers(
    tiny: Tiny, root: Path
) -> None:
    backbone = tiny()
    seen = BackboneVisuals(root, backbone, None, 4, rows=16, dtype="float32")("clip")
    transform = evaluate_transform(backbone.preprocessing)
    frames = torch.stack([transform(read_image(root / f"clip/frame{i}.png")) for i in range(11)])
    want = backbone.lower(frames, (backbone.vector,))[backbone.vector]
    torch.testing.assert_close(seen.tokens[:11], want)
    assert not seen.tokens[11:].any()
    assert seen.padding is not None
    assert seen.padding.tolist() == [False] * 11 + [True] * 5
    assert seen.visual_tokens == 16


def test_a_long_video_is_pooled_in_time_and_has_no_padding(tiny: Tiny, root: Path) -> None:
    whole = BackboneVisuals(root, tiny(), None, 4, rows=11)("clip")
    seen = BackboneVisuals(root, tiny(), None, 4, rows=4)("clip")
    want = [
        whole.tokens[i * 11 // 4 : math.ceil((i + 1) * 11 / 4)].max(dim=0).values for i in range(4)
    ]
    assert torch.equal(seen.tokens, torch.stack(want))
    assert seen.padding is not None
    assert not seen.padding.any()


def test_videos_and_pictures_of_different_widths_are_refused(tiny: Tiny, root: Path) -> None:
    backbone = tiny()
    backbone.width = 5
    sight = BackboneVisuals(root, backbone, None, 4)
    with pytest.raises(ConfigError, match="vectors of width 5 and local tokens of width 8"):
        sight.prepare(["clip"], quiet=True)


def test_the_cache_of_backbone_features_survives_a_damaged_shard(
    tiny: Tiny, root: Path, tmp_path: Path
) -> None:
    want = BackboneVisuals(root, tiny(), tmp_path, 4)("a.png").tokens
    for shard in tmp_path.rglob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-3] + b"\0\0\1")
    sight = BackboneVisuals(root, tiny(), tmp_path, 4)
    with pytest.warns(UserWarning, match="damaged cache shard"):
        got = sight("a.png").tokens
    assert torch.equal(got, want)
    assert isinstance(sight.cache, FeatureCache)


def test_what_files_hold_is_what_was_read_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five files one is stored, one cannot be read, one was replaced meanwhile, and two are alike."""
    a, b, c, d, e = (Path(name) for name in "abcde")
    asked: list[object] = []
    made = object.__new__(BackboneVisuals)
    made._ids = {a: "1", b: "2", c: "3", d: "4", e: "4"}
    made.cache = SimpleNamespace(missing=lambda key, ids: asked.append((key, ids)) or [one for one in ids if one != "1"])  # type: ignore[assignment]  # fmt: skip
    made._read = lambda paths, *, quiet: asked.append((paths, quiet))  # type: ignore[method-assign,assignment,func-returns-value]

    def check(doubtful: list[Path], *, skip_bad: bool) -> tuple[dict[Path, str], tuple[str, ...]]:
        asked.append((doubtful, skip_bad))
        return {c: "5", d: "4", e: "4"}, ("one is bad",)

    monkeypatch.setattr(visual_backbone, "check_images", check)
    kind = SimpleNamespace(key="key")
    paths = [a, b, c, d, e, c]
    found = made._identify(kind, paths, skip_bad=True, quiet=True)  # type: ignore[arg-type]
    assert found == ({"5": c, "4": e}, ("one is bad",))
    assert made._ids == {a: "1", c: "5", d: "4", e: "4"}
    assert asked == [(paths, True), ("key", ["1", "2", "3", "4", "4", "3"]), ([b, c, d, e], True), ("key", ["5", "4", "4"])]  # fmt: skip
    assert made._identify(kind, [a]) == ({}, ())  # type: ignore[arg-type]
    assert len(asked) == 6, "what is stored is not read again"

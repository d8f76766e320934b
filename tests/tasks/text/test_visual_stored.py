"""Features of other programs: pooled, padded, kept with their boxes, and read as seldom as possible."""

from __future__ import annotations

import gc
from pathlib import Path

import numpy as np
import pytest
import torch

from petiole.data.features.base import InMemory, RawFeatures
from petiole.errors import ConfigError, DataError
from petiole.tasks.text import visual_backbone
from petiole.tasks.text.visual import InMemoryVisuals, StoredVisuals
from petiole.tasks.text.visual_base import VisualFeatures, VisualMemory


def rng_tokens(count: int, width: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


@pytest.mark.parametrize("cached", [False, True])
def test_stored_grids_are_pooled(cached: bool, tmp_path: Path) -> None:
    source = InMemory({"a": rng_tokens(49), "b": rng_tokens(49, seed=1)})
    sight = StoredVisuals(source, visual_tokens=36, cache=tmp_path if cached else None)
    sight.prepare(["b", "a"], quiet=True)
    seen = sight("a")
    grid = rng_tokens(49).reshape(7, 7, 6)
    want = [grid[i : i + 2, j : j + 2].max(axis=(0, 1)) for i in range(6) for j in range(6)]
    assert np.array_equal(seen.tokens.numpy(), np.stack(want))
    assert (seen.visual_tokens, seen.padding, seen.boxes, sight.width) == (36, None, None, 6)


@pytest.mark.parametrize("cached", [False, True])
def test_regions_keep_their_boxes_and_are_not_pooled(cached: bool, tmp_path: Path) -> None:
    boxes = np.random.default_rng(2).random((36, 4)).astype(np.float32)
    source = InMemory({"a": RawFeatures(rng_tokens(36), boxes)})
    cache = tmp_path if cached else None
    seen = StoredVisuals(source, visual_tokens=36, cache=cache, dtype="float16")("a")
    assert seen.boxes is not None
    assert torch.equal(seen.boxes, torch.from_numpy(boxes))
    assert torch.equal(seen.tokens, torch.from_numpy(rng_tokens(36)).half().float())
    with pytest.raises(DataError, match="36 regions"):
        StoredVisuals(source, visual_tokens=25)("a")


@pytest.mark.parametrize("cached", [False, True])
def test_stored_frames_are_padded_or_pooled(cached: bool, tmp_path: Path) -> None:
    source = InMemory({"short": rng_tokens(3), "long": rng_tokens(9)})
    sight = StoredVisuals(source, rows=5, cache=tmp_path if cached else None)
    short, long = sight("short"), sight("long")
    assert short.padding is not None
    assert long.padding is not None
    assert short.padding.tolist() == [False] * 3 + [True] * 2
    assert torch.equal(short.tokens[:3], torch.from_numpy(rng_tokens(3)))
    assert not short.tokens[3:].any()
    assert not long.padding.any()
    assert short.visual_tokens == long.visual_tokens == 5


class Counting(InMemory):
    """Says what it was asked for, in order."""

    names = ("c", "a", "b")

    def __init__(self) -> None:
        super().__init__({name: rng_tokens(49, seed=i) for i, name in enumerate(self.names)})
        self.asked: list[str] = []

    def __call__(self, name: str) -> RawFeatures:
        self.asked.append(name)
        return super().__call__(name)


def test_a_cached_source_is_read_once_in_its_own_order(tmp_path: Path) -> None:
    source = Counting()
    StoredVisuals(source, visual_tokens=36, cache=tmp_path).prepare(["a", "b", "c"], quiet=True)
    again = StoredVisuals(source, visual_tokens=36, cache=tmp_path, memory=0)
    again.prepare(["a", "b", "c"], quiet=True)
    for name in "abcabc":
        again(name)
    assert source.asked == ["c", "a", "b"]


def test_memory_is_bounded_and_forgets_what_was_not_asked_for_longest() -> None:
    source = Counting()
    one = 36 * 6 * 4
    sight = StoredVisuals(source, visual_tokens=36, memory=2 * one)
    for name in ("a", "b", "a", "c", "a", "b"):
        sight(name)
    assert source.asked == ["a", "b", "c", "b"]
    assert sight._memory.bytes == 2 * one


def test_a_memory_of_nothing_keeps_nothing() -> None:
    memory = VisualMemory(0)
    seen = VisualFeatures(torch.zeros(2, 3), 2)
    assert memory("x", lambda _: seen) is seen
    assert memory.bytes == 0


def test_features_are_of_pictures_or_of_videos() -> None:
    source = InMemory({"a": rng_tokens(49)})
    for wrong in ({}, {"visual_tokens": 36, "rows": 64}):
        with pytest.raises(ConfigError, match="Give one of both"):
            StoredVisuals(source, **wrong)
    digests = {
        StoredVisuals(source, visual_tokens=36).digest,
        StoredVisuals(source, visual_tokens=25).digest,
        StoredVisuals(source, rows=36).digest,
        StoredVisuals(source, visual_tokens=36, dtype="float16").digest,
        StoredVisuals(InMemory({"a": rng_tokens(49, seed=5)}), visual_tokens=36).digest,
    }
    assert len(digests) == 5


def test_remembered_features_are_shown_as_they_are() -> None:
    tokens = torch.randn(3, 4).double()
    seen = InMemoryVisuals({"a": tokens})("a")
    assert torch.equal(seen.tokens, tokens.float())
    assert seen.visual_tokens == 3


def test_a_folder_that_goes_with_its_owner_may_be_gone_before(capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    class Owner:
        pass

    for gone in (False, True):
        owner = Owner()
        folder = visual_backbone._passing(owner)
        assert folder.is_dir()
        if gone:
            folder.rmdir()
        del owner
        gc.collect()
        assert not folder.exists()
    assert not capsys.readouterr().err

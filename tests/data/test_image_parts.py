"""Images in memory, ranges of their numbers, and how many are decoded at once: small parts, by hand."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from builders.images import pixel
from petiole.data import decode_budget, image, memory
from petiole.data.checks import images
from petiole.data.image import MAX_PIXELS
from petiole.data.inputs import as_dataset, as_images
from petiole.data.memory import MemoryImage, kind_of, path_of, to_image
from petiole.errors import DataError

# --- images in memory -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.zeros((3, 5, 5)), r"array of shape \(3, 5, 5\); an image has \(H, W, 3\)\. Its channels are on another axis: x\.transpose\(1, 2, 0\)\."),
        (np.zeros((5, 5, 4)), r"Take its transparency away: x\[\.\.\., :3\]"),
        (np.zeros((5, 5)), r"Give it a channel axis: x\[\.\.\., None\]"),
        (np.zeros((2, 5, 5, 3)), "It holds several images: give them alone"),
        (np.zeros((5, 5, 2)), "Colour has 3 channels, grey 1"),
        (torch.zeros(5, 5, 3), r"tensor of shape \(5, 5, 3\); an image has \(3, H, W\)\. Its channels are on another axis: x\.permute\(2, 0, 1\)\."),
        (torch.zeros(4, 5, 5), r"Take its transparency away: x\[:3\]"),
        (torch.zeros(5, 5), r"Give it a channel axis: x\[None\]"),
        (torch.zeros(2, 5, 5), "Colour has 3 channels, grey 1"),
        (torch.zeros(5), "Colour has 3 channels, grey 1"),
        (np.zeros((0, 5, 3)), r"an image of shape \(0, 5, 3\) has no pixels"),
        (np.zeros((1, 1, 3), np.int64), r"pixels of int64; uint8 .* Convert them: x\.astype"),
        (np.full((1, 1, 1), np.nan), "its pixels hold NaN or infinity"),
        (np.array([[[0.0], [255.0]]]), r"float pixels from 0 to 255; they must lie in \[0, 1\]\. Divide by 255"),
        (np.array([[[0.0], [255.5]]]), "to 256; .* If they are normalised already"),
        (np.array([[[-0.1], [1.0]]]), "from -0.1 to 1; .* If they are normalised already"),
        (3.5, "float 3.5 is no image"),
        ("x" * 60, "x{60}"),
    ],
)  # fmt: skip
def test_what_is_no_image_is_told_how_to_be_one(value: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        to_image(value, "item 3")


def test_forms_of_one_image() -> None:
    grey = np.array([[[0.0], [0.5], [1.0]]])
    want = [[[0] * 3, [128] * 3, [255] * 3]]
    for value in (grey, grey.astype(np.float16), torch.from_numpy(grey).permute(2, 0, 1), torch.tensor([[[0, 0.5, 1]]], dtype=torch.bfloat16)):  # fmt: skip
        assert np.asarray(to_image(value, "")).tolist() == want
    raw = BytesIO()
    pixel(9).save(raw, "PNG")
    for form in ({"bytes": raw.getvalue(), "path": "x"}, raw.getvalue(), memoryview(raw.getvalue())):  # fmt: skip
        assert to_image(form, "") == pixel(9)
        assert MemoryImage("item", lambda form=form: form).id == MemoryImage("item", raw.getvalue).id  # type: ignore[misc]  # fmt: skip
    assert MemoryImage("item", lambda: pixel(9)).id == image.pixel_id(pixel(9))
    kinds = [kind_of(v) for v in ("a", b"", pixel(0), grey, torch.zeros(1), {"path": 1}, {"a": 1}, 3)]  # fmt: skip
    assert kinds == ["path", "bytes", "PIL image", "array", "tensor", "undecoded image", "", ""]


def test_a_form_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    pixel(9).save(file)
    for form in ({"bytes": None, "path": str(file)}, {"path": file}, file):
        assert to_image(form, "") == pixel(9)
        assert MemoryImage("item", lambda form=form: form).id == MemoryImage("item", file.read_bytes).id  # type: ignore[misc]  # fmt: skip
    assert path_of(3) is None
    assert path_of(str(file)) == file
    for where, words in (("", r"^https://x is an address"), ("item 1", "^item 1: https://x is an")):
        with pytest.raises(DataError, match=words):
            path_of("https://x", where)

    def fails() -> object:
        raise KeyError("k")

    with pytest.raises(DataError, match=r"item: cannot be read \(KeyError: 'k'\)\. Repair or leave"):  # fmt: skip
        MemoryImage("item", fails)()


def test_an_array_has_no_more_pixels_than_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MAX_PIXELS", 6)
    assert to_image(np.zeros((2, 3, 3), np.uint8), "").size == (3, 2)
    monkeypatch.setattr(memory, "MAX_PIXELS", 5)
    with pytest.raises(DataError, match=r"an image of shape \(2, 3, 3\); more than 0 million"):
        to_image(np.zeros((2, 3, 3), np.uint8), "")


def test_a_pair_alone_is_one_image_with_its_label() -> None:
    for pair, count in (((pixel(1), "a"), 1), (((pixel(1), "a"), (pixel(2), "b")), 2)):
        found = as_dataset(pair)
        assert (len(found), found.classes) == (count, ("a", "b")[:count])
    assert len(as_images((pixel(1), pixel(2), pixel(3)))) == 3


@pytest.mark.parametrize(("count", "bars"), [(2, 0), (3, 1)])
def test_many_images_are_checked_under_a_bar(
    count: int, bars: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(images, "_WORTH_A_BAR", 2)
    monkeypatch.setattr(images, "track", lambda each, _, total, **__: shown.append(total) or each)
    assert len(as_dataset({"a": [pixel(i) for i in range(count)]})) == count
    assert shown == [count] * bars


def test_long_values_are_shown_shortened() -> None:
    assert memory._shown("x" * 57) == f"str '{'x' * 57}'"
    assert memory._shown("x" * 58) == f"str '{'x' * 56}..."


# --- images of other modes ------------------------------------------------------------------------


def test_conversions_are_done_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    heights: list[int] = []

    def convert(strip: Image.Image) -> Image.Image:
        heights.append(strip.height)
        return strip.convert("RGB")

    tall = Image.fromarray(np.arange(14, dtype=np.uint8).reshape(7, 2))
    for strip, parts in ((14, [7]), (6, [3, 3, 1]), (1, [1] * 7), (13, [6, 1])):
        monkeypatch.setattr(image, "_STRIP", strip)
        heights.clear()
        assert image._in_strips(tall, convert) == tall.convert("RGB")
        assert heights == parts


@pytest.mark.parametrize(
    ("values", "form", "want"),
    [
        ([0, 255], None, [0, 255]),
        ([0, 256], None, [0, 1]),
        ([0, 65535], None, [0, 255]),
        ([0, 65536], None, [0, 0]),
        ([0, 2**31 - 1], None, [0, 255]),
        ([0, 255], "PNG", [0, 1]),
        ([-5, 5], None, [0, 255]),
        ([-1, -1], None, [0, 0]),
    ],
)
def test_ranges_of_whole_numbers(values: list[int], form: str | None, want: list[int]) -> None:
    given = Image.fromarray(np.array([values], np.int32))
    given.format = form
    assert np.asarray(image._from_integers(given)).tolist() == [want]


@pytest.mark.parametrize(
    ("values", "want"),
    [([0, 0.5, 1], [0, 128, 255]), ([0, 1.5, 255], [0, 2, 255]), ([0, 128, 256], [0, 128, 255]), ([100, 255], [100, 255]), ([-1, 0, 1], [0, 128, 255]), ([0, 0.25, 0.5], [0, 64, 128])],
)  # fmt: skip
def test_ranges_of_floats(values: list[float], want: list[int]) -> None:
    given = Image.fromarray(np.array([values], np.float32))
    assert np.asarray(image._from_floats(given)).tolist() == [want]


def test_large_images_wait_for_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    freed = decode_budget._freed
    monkeypatch.setattr(freed, "wait_for", lambda when: asked.append(when()))
    with decode_budget.room_for(9, 10):
        assert decode_budget._held == 9
        with decode_budget.room_for(1, 10), decode_budget.room_for(1, 10):
            pass
        with decode_budget.room_for(2, 10):
            pass
    with decode_budget.room_for(11, 10):
        pass
    assert asked == [True, True, False, False, True]
    assert decode_budget._held == 0
    room: list[Any] = []
    monkeypatch.setattr(image, "room_for", lambda *given: room.append(given) or decode_budget.room_for(*given))  # fmt: skip
    image.upright_rgb(Image.new("L", (3, 5)))
    assert room == [(15, MAX_PIXELS)]

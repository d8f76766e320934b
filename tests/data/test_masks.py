"""Masks as they are stored, as shares of patches, and back as pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from petiole.data import masks
from petiole.data.masks import fineness, finer, open_masked, pixels_of, shares
from petiole.data.preprocessing import Preprocessing
from petiole.data.readers import masks as reading
from petiole.data.readers.masks import (
    UNKNOWN,
    MaskClasses,
    is_masked,
    mask_pixels,
    read_masked,
)
from petiole.data.targets import column_of
from petiole.errors import DataError


def test_shares_are_counted_and_pixels_come_back() -> None:
    p = Preprocessing.symmetric(32)
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 3, (4, 4))
    mask = np.kron(coarse, np.ones((16, 16))).astype(np.uint8)  # 64 x 64: each patch of one class
    found = shares(mask, 3, p, (4, 4))
    assert np.array_equal(found.argmax(1).reshape(4, 4), coarse)
    assert np.array_equal(found.max(1), np.ones(16))
    mask[:16, :8] = UNKNOWN
    assert shares(mask, 3, p, (4, 4))[0].sum() == pytest.approx(0.5)
    middle = pixels_of(torch.from_numpy(found), (64, 64), p, (4, 4))[8::16, 8::16]
    assert np.array_equal(middle, coarse)
    # A crop to the middle: what it cut off is of the nearest patch.
    cropped = Preprocessing.symmetric(32).model_copy(update={"crop_mode": "center"})
    wide = np.zeros((64, 128), dtype=np.uint8)
    wide[:, 64:] = 1
    left = shares(wide, 2, cropped, (4, 4))
    assert np.array_equal(pixels_of(torch.from_numpy(left), (128, 64), cropped, (4, 4)), wide)


def test_what_is_learned_of_cells_is_what_their_pixels_are_given() -> None:
    """An image with one pixel a cell: the scores that training sees are those that prediction takes the largest of."""
    p, grid = Preprocessing.symmetric(32), (4, 4)
    k = fineness(p, grid)
    assert k == 4
    scores = torch.randn(1, 16, 3, generator=torch.Generator().manual_seed(0))
    cells = finer(scores, grid, k)
    found = pixels_of(scores[0], (16, 16), p, grid)
    assert np.array_equal(found, cells[0].argmax(1).reshape(16, 16).numpy())
    linear = torch.nn.Linear(3, 2)
    torch.testing.assert_close(linear(cells), finer(linear(scores), grid, k))


@pytest.mark.parametrize(
    ("pixels", "patches", "k"),
    [
        (98, 7, 2),
        (160, 5, 4),
        (518, 37, 1),
        (78, 6, 1),
        (256, 16, 4),
        (272, 17, 2),
        (18, 3, 3),
        (50, 5, 2),
        (528, 66, 1),
    ],
)
def test_cells_divide_patches_and_are_not_too_many(pixels: int, patches: int, k: int) -> None:
    assert fineness(Preprocessing.symmetric(pixels), (patches, patches)) == k


def folder(root: Path, pixels: np.ndarray, stated: object = None) -> Path:
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*pixels.shape[:2], 3), np.uint8)).save(root / "images" / "a.png")
    Image.fromarray(pixels).save(root / "masks" / "a.png")
    if stated is not None:
        (root / "classes.json").write_text(json.dumps(stated))
    return root


def test_masks_are_numbers_colours_or_a_palette(tmp_path: Path) -> None:
    grey = np.array([[0, 7], [7, 255]], np.uint8)
    numbers = folder(tmp_path / "a", grey, {"classes": {"sky": 0, "sea": 7}, "ignore": 255})
    known = read_masked(numbers)[1]
    assert known.read(numbers / "masks" / "a.png").tolist() == [[0, 1], [1, UNKNOWN]]
    rgb = np.array([[[0, 0, 0], [9, 8, 7]]], np.uint8)
    colours = folder(tmp_path / "b", rgb, {"classes": {"sea": [9, 8, 7]}, "ignore": [[0, 0, 0]]})
    assert read_masked(colours)[1].read(colours / "masks" / "a.png").tolist() == [[UNKNOWN, 0]]
    odd = folder(tmp_path / "e", np.array([[[9, 8, 7], [9, 2, 3], [4, 5, 6]]], np.uint8))
    known = read_masked(colours)[1]
    with pytest.raises(DataError, match=r"has the pixels \[4, 5, 6\], \[9, 2, 3\]"):
        known.read(odd / "masks" / "a.png")
    image = Image.fromarray(grey)
    image.putpalette([0, 0, 0] * 7 + [255, 0, 0] * 249)
    image.save(folder(tmp_path / "c", grey) / "masks" / "a.png")
    assert read_masked(tmp_path / "c")[1].names == ("#000000", "#ff0000")
    assert read_masked(folder(tmp_path / "d", grey))[1].names == ("0", "7")
    one = folder(tmp_path / "f", np.zeros((1, 2), np.uint8), {"classes": ["sky"]})
    assert read_masked(one)[1].names == ("sky",)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"classes": ["sky"]}, "has the pixels 7"),
        ({"classes": ["sky", "sky"]}, "named twice"),
        ({"classes": {"sky": 300}}, "neither a number"),
        ({"classes": ["sky"], "names": 1}, "names is unknown"),
        ({"classes": {"sky": [1, 2, 3]}}, "has numbers, and the classes are given as colours"),
        ([], "JSON object"),
    ],
)
def test_what_masks_may_not_say_is_named(tmp_path: Path, stated: object, words: str) -> None:
    root = folder(tmp_path, np.array([[0, 7]], np.uint8), stated)
    with pytest.raises(DataError, match=words):
        read_masked(root)[1].read(root / "masks" / "a.png")


def test_sizes_and_partners_must_fit(tmp_path: Path) -> None:
    root = folder(tmp_path, np.zeros((4, 4), np.uint8), {"classes": ["a"]})
    Image.fromarray(np.zeros((2, 4), np.uint8)).save(root / "masks" / "a.png")
    (part,) = open_masked(root).values()
    with pytest.raises(DataError, match="is of 4 x 2 pixels, and its image of 4 x 4"):
        part.mask(part.images.ids[0], (4, 4), ["a"])
    (root / "masks" / "b.png").write_bytes((root / "masks" / "a.png").read_bytes())
    with pytest.raises(DataError, match="no partner of the same name"):
        read_masked(root)


def test_a_table_names_masks_parts_and_domains(tmp_path: Path) -> None:
    """Validation rows, and test rows of the source, are not used; classes are said beside the table."""
    rows = ["path,mask,split,domain"]
    for i, more in enumerate(("train,", "test,target", "train,source", "test,source", "val,", ",")):
        folder(tmp_path / str(i), np.full((3, 2), i, np.uint8))
        rows.append(f"{i}/images/a.png,{i}/masks/a.png,{more}")
        noise = np.random.default_rng(i).integers(0, 9, (3, 2, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / str(i) / "images" / "a.png")
    table = tmp_path / "list.csv"
    table.write_text("\n".join(rows))
    parts = open_masked(table)
    found = {
        name: sorted((s.path.parts[-3], s.domain) for s in part.images.samples)
        for name, part in parts.items()
    }
    target, source = "target", "source"
    assert found == {"train": [("0", target), ("5", target)], "test": [("1", target)], "source": [("2", source)]}  # fmt: skip
    assert [part.images.name for part in parts.values()] == ["list/train", "list/test", "list/source"]  # fmt: skip
    assert parts["test"].known == MaskClasses(("0", "1", "2", "5"), ((0,), (1,), (2,), (5,)))
    (one,) = parts["test"].images.ids
    assert parts["test"].mask(one, (2, 3), ["5", "1"]).tolist() == [[1, 1]] * 3
    (tmp_path / "classes.json").write_text(json.dumps({"classes": list("abcdef")}))
    assert read_masked(table)[1].names == tuple("abcdef")


def test_names_are_matched_not_numbers() -> None:
    known = MaskClasses(("a", "b", "c"), ((1,), (2,), (3,)))
    assert known.places(["c", "a"])[:3].tolist() == [1, UNKNOWN, 0]


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
def test_pixels_are_interpolated_between_the_middles_of_patches(mode: str) -> None:
    """Written out by row and column: of an image and a network's input that are no squares, and a grid that is none."""
    p = Preprocessing(size=(12, 20), crop=1.0, interpolation="bilinear", mean=(0, 0, 0), std=(1, 1, 1), crop_mode=mode)  # type: ignore[arg-type]  # fmt: skip
    grid, (width, height) = (3, 4), (17, 14)
    scores = torch.randn(12, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (wide, high), (left, top) = masks.placed((width, height), p)
    table = scores.numpy().reshape(*grid, 4)
    want = np.zeros((height, width), dtype=int)

    def between(at: float, patch: float, count: int) -> tuple[int, int, float]:
        place = min(max(at / patch - 0.5, 0), count - 1)
        first = int(place)
        return first, min(first + 1, count - 1), place - first

    for y in range(height):
        a, b, v = between((y + 0.5) * high / height - top, 12 / 3, 3)
        for x in range(width):
            c, d, u = between((x + 0.5) * wide / width - left, 20 / 4, 4)
            upper, lower = (table[r, c] * (1 - u) + table[r, d] * u for r in (a, b))
            want[y, x] = np.argmax(upper * (1 - v) + lower * v)
    found = pixels_of(scores, (width, height), p, grid)
    assert (found.dtype, found.shape) == (np.uint8, (height, width))
    assert np.array_equal(found, want)


def test_shares_are_of_the_pixels_that_patches_cover() -> None:
    """Rows and columns beyond the last whole patch count nowhere, and 254 is a class like others."""
    p = Preprocessing(size=(7, 5), crop=1.0, interpolation="nearest", mean=(0, 0, 0), std=(1, 1, 1))
    mask = np.zeros((7, 5), np.uint8)
    mask[0, 0], mask[1, 1], mask[6:], mask[:, 4:] = 1, 2, 254, 254
    mask[4, 3] = UNKNOWN
    found = shares(mask, 255, p, (2, 2))
    assert (found.dtype, found.shape) == (np.float32, (4, 255))
    want = np.zeros((4, 255))
    want[0, :3], want[1:, 0] = (4 / 6, 1 / 6, 1 / 6), (1, 1, 5 / 6)
    np.testing.assert_allclose(found, want)
    assert shares(mask, 2, p, (2, 2))[0].tolist() == pytest.approx([4 / 6, 1 / 6])


def test_cells_of_no_square_and_of_one_a_patch() -> None:
    p = Preprocessing.symmetric(32).model_copy(update={"size": (24, 36)})
    assert fineness(p, (4, 3)) == 3  # patches of 6 x 12
    tokens = torch.randn(2, 6, 3)
    assert finer(tokens, (2, 3), 1) is tokens
    assert finer(tokens, (2, 3), 2).shape == (2, 24, 3)


def test_parts_are_joined_where_they_say_the_same_of_masks(tmp_path: Path) -> None:
    same, parts = {"classes": ["a", "b"]}, []
    for name, number in (("train", 0), ("test", 1)):
        root = folder(tmp_path / name, np.full((2, 2), number, np.uint8))
        Image.new("RGB", (2, 2), (number, 0, 0)).save(root / "images" / "a.png")
    (tmp_path / "classes.json").write_text(json.dumps(same))
    assert is_masked(tmp_path)
    opened = open_masked(tmp_path)
    parts = [opened["train"], opened["test"]]
    assert [one.mask(*one.images.ids, (2, 2), ["a", "b"])[0, 0] for one in parts] == [0, 1]
    whole = parts[0].joined(parts[1])
    names = [whole.mask(one, (2, 2), ["a", "b"])[0, 0] for one in whole.images.ids]
    assert sorted(names) == [0, 1]
    assert whole.masks == {**parts[0].masks, **parts[1].masks}
    assert [len(one.masks) for one in (whole, *parts)] == [2, 1, 1]
    assert read_masked(tmp_path / "test")[1].names == ("a", "b")  # said a folder above
    other = replace(parts[1], known=MaskClasses(("a",), ((0,),)))
    with pytest.raises(DataError, match=r"train and .*test say different things of what masks"):
        parts[0].joined(other)


def test_a_folder_of_masks_has_images_too(tmp_path: Path) -> None:
    for part in ("test", "other"):
        (tmp_path / part / "masks").mkdir(parents=True)
    assert not is_masked(tmp_path)
    with pytest.raises(DataError, match="masks are read from a folder with images/ and masks/"):
        read_masked(tmp_path)
    (tmp_path / "other" / "images").mkdir()
    assert not is_masked(tmp_path)
    (tmp_path / "test" / "images").mkdir()
    assert is_masked(tmp_path)
    assert column_of(tmp_path) == "mask"
    plain = folder(tmp_path / "test", np.zeros((2, 2), np.uint8))
    assert set(read_masked(plain)[0]) == {"train"}  # all that there is, whatever it is called


def test_files_without_a_partner_are_named_where_they_lie(tmp_path: Path) -> None:
    root = folder(tmp_path, np.zeros((2, 2), np.uint8))
    for place, name in (("masks", "b.png"), ("images", "c.PNG"), ("masks", "note.txt")):
        (root / place / name).write_bytes((root / "masks" / "a.png").read_bytes())
    with pytest.raises(DataError, match=r"masks: 2 files have no partner .*: b, c\. Add it"):
        read_masked(root)
    (root / "masks" / "b.png").unlink()
    with pytest.raises(DataError, match=r"images: 1 files have no partner .*: c\. Add it"):
        read_masked(root)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"classes": []}, "1 to 255, and each its own"),
        ({"ignore": 255}, "1 to 255, and each its own"),
        ({"classes": [str(i) for i in range(256)]}, "1 to 255, and each its own"),
        ({"classes": {"a": 1, "b": 1}}, "1 to 255, and each its own"),
        ({"classes": {"a": 1}, "ignore": [1]}, "1 to 255, and each its own"),
        ({"classes": {"a": 1}, "ignore": [[1, 2, 3]]}, "numbers and colours are mixed"),
        ({"classes": {"a": 1, "b": [1, 2, 3]}}, "numbers and colours are mixed"),
        ({"classes": {"a": [1, 2]}}, r"\[1, 2\] is neither a number"),
        ({"classes": {"a": [1, 2, 256]}}, "is neither a number"),
        ({"classes": {"a": True}}, "True is neither a number"),
        ({"classes": {"a": -1}}, "-1 is neither a number"),
    ],
)
def test_what_classes_cannot_be_is_said(tmp_path: Path, stated: object, words: str) -> None:
    root = folder(tmp_path, np.array([[0, 7]], np.uint8), stated)
    with pytest.raises(DataError, match=words):
        read_masked(root)


def test_255_classes_and_pixels_that_are_ignored(tmp_path: Path) -> None:
    names = [str(i) for i in range(255)]
    root = folder(tmp_path / "a", np.array([[0, 254]], np.uint8), {"classes": names})
    known = read_masked(root)[1]
    assert known == MaskClasses(tuple(names), tuple((i,) for i in range(255)), ())
    assert known.read(root / "masks" / "a.png").tolist() == [[0, 254]]
    rgb = np.array([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [255, 255, 0]]], np.uint8)
    stated = {"classes": {"blue": [0, 0, 1], "red": [1, 0, 0]}, "ignore": [[0, 1, 0], [255, 255, 0]]}  # fmt: skip
    root = folder(tmp_path / "b", rgb, stated)
    found = read_masked(root)[1].read(root / "masks" / "a.png")
    assert found.tolist() == [[1, UNKNOWN, 0, UNKNOWN]]
    with pytest.raises(DataError, match="has colours, and the classes are given as numbers"):
        known.read(root / "masks" / "a.png")


def test_classes_that_nobody_names_are_those_seen(tmp_path: Path) -> None:
    blank = folder(tmp_path / "a", np.full((1, 2), UNKNOWN, np.uint8))
    with pytest.raises(DataError, match="The masks have no pixel of a class"):
        read_masked(blank)
    colours = folder(tmp_path / "b", np.zeros((1, 2, 3), np.uint8))
    with pytest.raises(DataError, match=r"a\.png is in colours\. Say in classes\.json"):
        read_masked(colours)
    image = Image.fromarray(np.array([[3, 1, 255]], np.uint8))
    image.putpalette([9, 9, 9, 1, 2, 3, 0, 0, 0, 16, 0, 255])
    image.save(folder(tmp_path / "c", np.array([[3]], np.uint8)) / "masks" / "a.png")
    known = read_masked(tmp_path / "c")[1]
    assert known == MaskClasses(("#010203", "#1000ff"), ((1,), (3,)))
    image.putpalette([0, 0, 0] * 256)  # one colour for all: they are called by their numbers
    image.save(tmp_path / "c" / "masks" / "a.png")
    assert read_masked(tmp_path / "c")[1].names == ("1", "3")


def test_what_is_stored_as_no_mask_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.png"
    bits = Image.fromarray(np.array([[True, False, True]]))
    bits.save(file)
    assert mask_pixels(file).tolist() == [[[255], [0], [255]]]
    monkeypatch.setattr(reading, "MAX_PIXELS", 3)
    assert mask_pixels(file).shape == (1, 3, 1)
    monkeypatch.setattr(reading, "MAX_PIXELS", 2)
    with pytest.raises(DataError, match=r"not a mask.*3 x 1 pixels are too many"):
        mask_pixels(file)
    monkeypatch.undo()
    Image.new("RGBA", (2, 2)).save(file)
    with pytest.raises(DataError, match=r"not a mask.*mode RGBA"):
        mask_pixels(file)
    Image.fromarray(np.random.default_rng(0).integers(0, 9, (40, 40), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(DataError, match=r"not a mask.*truncated"):
        mask_pixels(file)
    Image.new("L", (2, 2)).save(file, "JPEG")
    with pytest.raises(DataError, match=r"not a mask.*Write it as a PNG"):
        mask_pixels(file)

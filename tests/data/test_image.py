"""Every odd kind of image, written here by Pillow or byte by byte."""

import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petiole.data import image as image_module
from petiole.data.image import MAX_PIXELS, read_image
from petiole.errors import DataError

ORIENTATION = 0x0112


def pixels(path: Path) -> np.ndarray:
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image)


def corners() -> np.ndarray:
    """A 24 x 40 picture whose four quarters differ, so that no two orientations look alike."""
    x = np.zeros((24, 40, 3), np.uint8)
    x[:12, :20], x[:12, 20:], x[12:, :20], x[12:, 20:] = (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    )
    return x


# How a camera stores the upright picture for each EXIF orientation: the inverse of what a reader
# must do, written with plain array operations.
STORED = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("kind", ["png", "tiff", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied_once(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"x.{kind}"
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](corners())))
    options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}
    stored.save(path, exif=exif, **options.get(kind, {}))
    assert np.abs(pixels(path).astype(int) - corners()).max() <= (12 if kind == "jpg" else 0)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    Image.fromarray(corners()).save(path, exif=b"Exif\0\0MM\0*\xff\xff\xff\xffrubbish")
    assert pixels(path).shape == (24, 40, 3)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "x.png"
    if mode == "P":
        image = Image.new("P", (4, 1), 0)
        image.putpalette([0, 0, 0, 200, 0, 0])
        image.putpixel((1, 0), 1)
        image.save(path, transparency=0)
        assert pixels(path)[0, :2].tolist() == [[255, 255, 255], [200, 0, 0]]
        return
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = (0, 128, 255)  # black under three opacities
    Image.fromarray(rgba).convert(mode).save(path)
    expected = [[255 - a] * 3 for a in (0, 128, 255)]
    assert np.abs(pixels(path)[0] - np.array(expected)).max() <= 1


def test_colour_key_of_a_png_is_transparency(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[10, 20]], np.uint8)).save(path, transparency=10)
    assert pixels(path)[0].tolist() == [[255] * 3, [20] * 3]


def test_palette_and_one_bit(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.fromarray(np.array([[True, False]])).save(path)
    with Image.open(path) as image:
        assert image.mode == "1"
    assert pixels(path)[0].tolist() == [[255] * 3, [0] * 3]


def cmyk_jpeg(path: Path, adobe: bool) -> None:
    """Write a CMYK JPEG of one colour, with or without Adobe's marker and inversion."""
    ink = Image.new("CMYK", (16, 16), (255, 0, 0, 0))  # full cyan
    if not adobe:
        ink = Image.fromarray(255 - np.asarray(ink), mode="CMYK")  # undoes Pillow's own inversion
    buffer = BytesIO()
    ink.save(buffer, "JPEG", quality=100)
    content = buffer.getvalue()
    start = content.index(
        b"\xff\xeeXXAdobe".replace(b"XX", content[content.index(b"\xff\xee") + 2 :][:2])
    )
    if not adobe:
        length = struct.unpack(">H", content[start + 2 : start + 4])[0]
        content = content[:start] + content[start + 2 + length :]
    path.write_bytes(content)


@pytest.mark.parametrize("adobe", [True, False])
def test_cmyk_jpeg_has_its_colours_with_and_without_adobe_marker(
    tmp_path: Path, adobe: bool
) -> None:
    path = tmp_path / "x.jpg"
    cmyk_jpeg(path, adobe)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        assert ("adobe" in image.info) is adobe
    red, green, blue = pixels(path)[8, 8].astype(int)
    assert red < 10
    assert min(green, blue) > 245


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path, kind: str) -> None:
    values = np.array([[0, 257, 25_700, 65_535]], np.uint16)
    path = tmp_path / f"x.{kind}"
    if kind == "pgm":
        path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert pixels(path)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_big_endian_sixteen_bits(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    values = np.array([[0, 25_700, 65_535]], ">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    image.save(path)
    with Image.open(path) as reopened:
        assert reopened.mode == "I;16B"
    assert pixels(path)[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 255.0], [0, 100, 255]),
        ([-10.0, 0.0, 990.0], [0, 3, 255]),
        ([2.0, 2.0, 2.0], [2, 2, 2]),
    ],
)
def test_floats_keep_their_usual_ranges(
    tmp_path: Path, values: list[float], expected: list[int]
) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([values], np.float32)).save(path)
    assert pixels(path)[0, :, 0].tolist() == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0, 100, 255], [0, 100, 255]),
        ([0, 25_700, 65_535], [0, 100, 255]),
        ([-5, 0, 5], [0, 128, 255]),
        ([0, 2**30, 2**31 - 1], [0, 128, 255]),
    ],
)
def test_integers_keep_their_usual_ranges(
    tmp_path: Path, values: list[int], expected: list[int]
) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([values], np.int32)).save(path)
    assert np.abs(pixels(path)[0, :, 0].astype(int) - expected).max() <= 1


def test_nan_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[np.nan, 1.0]], np.float32)).save(path)
    with pytest.raises(DataError, match=r"x\.tif.*NaN"):
        read_image(path)


@pytest.mark.parametrize("kind", ["gif", "tif", "webp"])
def test_first_frame_is_taken(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    with Image.open(path) as image:
        assert image.n_frames == 2
    red, _, blue = pixels(path)[4, 4].astype(int)
    assert red > 240
    assert blue < 15


def forged_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims width x height."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("limit", [None, 10**12])
def test_a_bomb_is_refused_by_its_header(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int | None
) -> None:
    """Even where somebody lifted Pillow's own limit, and before a pixel is allocated."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("pixels were loaded"))
    path = tmp_path / "bomb.png"
    path.write_bytes(forged_png(20_000, MAX_PIXELS // 20_000 + 1))
    with pytest.raises(DataError, match=r"bomb\.png: claims .*refused.*--skip-bad"):
        read_image(path)


def test_a_bomb_is_refused_with_pillows_own_limit(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(forged_png(50_000, 50_000))
    with pytest.raises(DataError, match=r"bomb\.png: claims more pixels; .*refused"):
        read_image(path)


def test_the_limit_itself_is_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_PIXELS", 100)
    Image.new("RGB", (10, 10)).save(tmp_path / "x.png")
    Image.new("RGB", (10, 11)).save(tmp_path / "y.png")
    assert read_image(tmp_path / "x.png").size == (10, 10)
    with pytest.raises(DataError, match=r"10 x 11"):
        read_image(tmp_path / "y.png")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_truncated(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"x.{kind}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=rf"x\.{kind}: .*--skip-bad"):
        read_image(path)


def test_empty_nonsense_directory_missing(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for ever
    for name, reason in {
        "empty": "empty",
        "page": "not an image of a kind",
        "folder": "is a directory",
        "pipe": "no regular file",
        "absent": "no such file",
    }.items():
        with pytest.raises(DataError, match=rf"{name}\.jpg: .*{reason}"):
            read_image(tmp_path / f"{name}.jpg")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.png"
    Image.new("L", (4, 4)).save(path)

    def refuse(_: Path) -> bytes:  # as root, chmod would not
        raise PermissionError

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match=r"x\.png: no permission.*chmod"):
        read_image(path)


def test_postscript_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(DataError, match="not an image of a kind"):
        read_image(path)


def test_an_image_that_was_replaced_after_the_check_is_refused_by_path(tmp_path: Path) -> None:
    from petiole.data.dataset import Sample
    from petiole.data.image import checked_id, load

    file = tmp_path / "a.png"
    Image.new("RGB", (8, 8), "red").save(file)
    sample = Sample(file, 0, "")
    sample = Sample(file, 0, checked_id(sample))
    assert load(sample).getpixel((0, 0)) == (255, 0, 0)
    Image.new("RGB", (8, 8), "blue").save(file)
    with pytest.raises(DataError, match=r"a\.png: its content changed since it was listed"):
        load(sample)

"""HEIC and AVIF: read where their library is there, and else refused with what to install."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image

from petiole.data import image as module
from petiole.data.image import read_image
from petiole.data.sources import open_folder
from petiole.errors import DataError


def picture() -> Image.Image:
    """Wider than high: left half red, right half blue."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :32, 0] = pixels[:, 32:, 2] = 220
    return Image.fromarray(pixels)


def encoded(form: str) -> bytes:
    if form == "HEIF":
        pillow_heif.register_heif_opener()
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side
    picture().save(stream, form, quality=95, exif=exif.tobytes())
    return stream.getvalue()


@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_it_is_read_upright(tmp_path: Path, form: str) -> None:
    file = tmp_path / f"photo.{form.lower()}"
    file.write_bytes(encoded(form))
    pixels = np.asarray(read_image(file))
    assert pixels.shape == (64, 32, 3)
    assert pixels[10, 16].argmax() == 0
    assert pixels[50, 16].argmax() == 2
    cut = tmp_path / "cut.heic"
    cut.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cut\.heic: .*Re-export the image"):
        read_image(cut)


def test_without_the_library_it_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        picture().save(tmp_path / name / f"{name}.png")
    (tmp_path / "b" / "phone.HEIC").write_bytes(encoded("HEIF"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.delitem(Image.OPEN, "HEIF")
    module._phone_formats.cache_clear()
    (tmp_path / "b" / "b.png").write_bytes(encoded("AVIF"))
    try:
        with pytest.raises(DataError, match=r"phone\.HEIC: HEIC .*pip install 'petiole\[heif\]'"):
            open_folder(tmp_path)
        left = open_folder(tmp_path, skip_bad=True)
        assert left.counts() == {"a": 1, "b": 1}
        assert any("phone.HEIC" in note for note in left.notes)
    finally:
        module._phone_formats.cache_clear()

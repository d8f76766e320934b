"""A repository of the Hugging Face Hub as a folder of images, on a Hub of this machine."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from builders.hub import local_hub
from petiole.data.readers.folder import open_folder
from petiole.errors import StoreError
from petiole.stores.address import Address
from petiole.stores.base import open_store
from petiole.stores.mount import materialise
from petiole.stores.publish import begin


def png(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, 40, 90)).save(file, "PNG")
    return file.getvalue()


def test_a_repository_is_read_as_a_folder_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PETIOLE_STORES", str(tmp_path / "machine"))
    with local_hub(monkeypatch, tmp_path / "hub") as hub:
        hub.commits["ann/trees"] = {}
        first = hub.commit("ann/trees", {f"{name}/0.png": png(i) for i, name in enumerate("ab")})
        hub.commit("ann/trees", {"a/0.png": png(9)})
        address = Address.parse(f"hf://ann/trees@{first}")
        assert address is not None
        place = materialise(address, lambda name: name.endswith(".png"))
        assert open_store(address).requests["get"] == 0
        data = open_folder(place)
        assert (data.classes, len(data)) == (("a", "b"), 2)
        assert open_store(address).requests["get"] == 2
        later = Address("hf", "ann/trees")
        assert open_folder(materialise(later, lambda _: True)).ids != data.ids
        with pytest.raises(StoreError, match="petiole push-to-hub writes adapters"):
            begin(later / "run", resume=False)
        store = open_store(address)
        for write in (
            lambda: store.put("a", b""),
            lambda: store.create("a", b""),
            lambda: store.delete("a"),
        ):
            with pytest.raises(StoreError, match="only read here"):
                write()
        with pytest.raises(StoreError, match="Check owner, name and revision"):
            materialise(Address("hf", "ann/none"))

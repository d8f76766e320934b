"""Adapters go to a hub and come back through the official client; no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import petiole
from builders.cli import say
from builders.hub import Hub, local_hub
from builders.images import write_images
from petiole.backbones.base import Backbone
from petiole.engine.adapter import read_manifest
from petiole.engine.record import read_record
from petiole.errors import AdapterError, ConfigError
from petiole.signatures import SIGNATURE
from petiole.testing import backbones
from petiole.testing.random_weights import images, seeded, shaken


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with local_hub(monkeypatch, tmp_path / "cache") as found:
        yield found


def saved(backbone: Backbone, folder: Path, method: str = "lora-qkv") -> petiole.Adapter:
    with seeded():
        model = petiole.adapt(backbone, method, classes=["ash", "birch"])
        shaken(model)
    model.eval().save(folder)
    return model  # type: ignore[return-value]


def test_an_adapter_goes_and_comes_back(hub: Hub, tmp_path: Path) -> None:
    backbone = backbones.plain()
    model = saved(backbone, tmp_path / "adapter")
    done = petiole.push_to_hub(tmp_path / "adapter", "ann/leaves")
    assert done.name == "hf:ann/leaves"
    first = hub.heads["ann/leaves"]
    assert first in done.url
    again = petiole.load_adapter(done.name, backbone=backbone)
    assert not any(part.training for part in again.modules())
    pixels = images(backbone)
    with torch.no_grad():
        torch.testing.assert_close(again(pixels), model(pixels))
    hub.commit("ann/leaves", {"adapter.safetensors": b"damaged"})
    with pytest.raises(AdapterError):
        petiole.load_adapter("hf:ann/leaves", backbone=backbone)
    petiole.load_adapter(f"hf:ann/leaves@{first}", backbone=backbone)


def test_what_has_a_form_in_peft_loads_there(hub: Hub, tmp_path: Path) -> None:
    import peft

    backbone = backbones.plain()
    model = saved(backbone, tmp_path / "adapter")
    petiole.push_to_hub(tmp_path / "adapter", "ann/leaves")
    assert any(name.startswith("peft/") for name in hub.at("ann/leaves", "main")[1])
    bare = backbones.timm_vit()
    network = peft.PeftModel.from_pretrained(bare, "ann/leaves", subfolder="peft").eval()
    pixels = images(backbone)
    with torch.no_grad():
        vector = model.adapted({"images": pixels}).vector
        torch.testing.assert_close(network(pixels), vector, atol=1e-5, rtol=1e-5)


def test_the_card_tells_the_record(hub: Hub, tmp_path: Path, feature_cache: Path) -> None:
    photos = write_images(tmp_path / "photos", 6, 0)
    run = petiole.fit(
        photos,
        method="ridge",
        backbone="petiole/efficientnet-lite0",
        image_size=32,
        shots=3,
        cache_dir=feature_cache,
        out=tmp_path / "run",
        quiet=True,
    )
    said = say("push-to-hub", run.folder, "ann/shapes")
    assert "hf:ann/shapes" in said.out
    files = hub.at("ann/shapes", "main")[1]
    assert set(files) == {"README.md", "adapter.json", "adapter.safetensors"}
    card = files["README.md"].decode()
    for part in (
        "library_name: petiole",
        "license: apache-2.0",
        'petiole.load_adapter("hf:ann/shapes")',
        "| shots a class | 3 |",
        "| method | `ridge` |",
        "| seed, split seed | 0, 0 |",
        "evaluated once",
        "ash, birch, cedar",
    ):
        assert part in card
    assert f"| test | accuracy | {read_record(run.folder).main['accuracy']:.4f} | [0." in card


def test_paths_of_this_machine_stay_here(hub: Hub, tmp_path: Path) -> None:
    saved(backbones.plain(), tmp_path / "adapter")
    from petiole.engine.adapter import MANIFEST
    from petiole.files import write_sealed

    manifest = read_manifest(tmp_path / "adapter")
    card = manifest.backbone.model_copy(update={"weights": "/home/ann/secret.safetensors"})
    stated = manifest.model_copy(update={"backbone": card}).model_dump(mode="json")
    write_sealed(tmp_path / "adapter" / MANIFEST, stated)
    (tmp_path / "adapter" / (MANIFEST + SIGNATURE)).write_text("of what it was")
    petiole.push_to_hub(tmp_path / "adapter", "ann/leaves")
    sent = hub.at("ann/leaves", "main")[1]
    assert MANIFEST in sent
    assert MANIFEST + SIGNATURE not in sent
    assert not any(b"secret" in content for content in sent.values())


def test_refusals_say_what_to_do(hub: Hub, tmp_path: Path) -> None:
    saved(backbones.plain(), tmp_path / "adapter")
    with pytest.raises(ConfigError, match="OWNER/NAME"):
        petiole.push_to_hub(tmp_path / "adapter", "leaves")
    for name, reason in (("hf:ann", "no name"), ("hf:ann/nothing", "cannot be had.*revision")):
        with pytest.raises(AdapterError, match=reason):
            petiole.load_adapter(name)
    hub.refused = True
    with pytest.raises(ConfigError, match=r"did not take ann/leaves.*HF_TOKEN"):
        petiole.push_to_hub(tmp_path / "adapter", "ann/leaves")

"""Signatures: only the owner of a trusted key can vouch for a file, and for nothing but what it holds."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import petiole
from builders.serving import write_adapter
from petiole.errors import ConfigError, SignatureError
from petiole.files import sha256, write_sealed
from petiole.serving.library import AdapterLibrary
from petiole.serving.service import FILES, Service
from petiole.testing import backbones as tiny


def keys(folder: Path, name: str, *, ssh: bool = False) -> tuple[Path, Path]:
    """Private and public, of a fixed seed by name."""
    key = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32))
    text, form = (Encoding.OpenSSH, PublicFormat.OpenSSH) if ssh else (Encoding.PEM, None)
    own = PrivateFormat.OpenSSH if ssh else PrivateFormat.PKCS8
    private, public = folder / name, folder / f"{name}.pub"
    private.write_bytes(key.private_bytes(Encoding.PEM, own, NoEncryption()))
    form = form or PublicFormat.SubjectPublicKeyInfo
    public.write_bytes(key.public_key().public_bytes(text, form))
    return private, public


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Its tensors are any bytes: what signatures cover is their checksum."""
    folder = tmp_path / "run" / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter.safetensors").write_bytes(b"tensors")
    manifest = {"kind": "k", "tensors_sha256": sha256(folder / "adapter.safetensors")}
    write_sealed(folder / "adapter.json", manifest)
    return folder


@pytest.mark.parametrize("ssh", [False, True])
def test_what_is_signed_is_verified(adapter: Path, tmp_path: Path, ssh: bool) -> None:
    private, public = keys(tmp_path, "own", ssh=ssh)
    files = {"adapter/adapter.json": sha256(adapter / "adapter.json")}
    write_sealed(adapter.parent / "record.json", {"files": files})
    signed = petiole.sign(adapter.parent, key=private).signatures
    places = [adapter.parent / "record.json", adapter / "adapter.json"]
    assert signed == [place.with_name(f"{place.name}.sig") for place in places]
    verified = petiole.verify(adapter.parent, trusted=public)
    assert verified.files == places
    assert verified.covered == [adapter / "adapter.safetensors"]
    assert petiole.verify(adapter / "adapter.json", trusted=public).files == places[1:]


def unsigned(folder: Path, _: Path) -> None:
    (folder / "adapter.json.sig").unlink()


def another_key(folder: Path, other: Path) -> None:
    petiole.sign(folder, key=other)


def a_claimed_key(folder: Path, other: Path) -> None:
    place = folder / "adapter.json.sig"
    own = json.loads(place.read_text())["public_key"]
    petiole.sign(folder, key=other)
    place.write_text(json.dumps({**json.loads(place.read_text()), "public_key": own}))


def sealed_again(folder: Path, _: Path) -> None:
    manifest = json.loads((folder / "adapter.json").read_text())
    write_sealed(folder / "adapter.json", {**manifest, "kind": "other"})


def seal_of_the_change_claimed(folder: Path, other: Path) -> None:
    sealed_again(folder, other)
    place = folder / "adapter.json.sig"
    seal = json.loads((folder / "adapter.json").read_text())["sha256"]
    place.write_text(json.dumps({**json.loads(place.read_text()), "sha256": seal}))


def edited(folder: Path, _: Path) -> None:
    file = folder / "adapter.json"
    file.write_text(file.read_text().replace('"k"', '"l"'))


def other_tensors(folder: Path, _: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(b"others")


def nonsense(folder: Path, _: Path) -> None:
    (folder / "adapter.json.sig").write_text("[" * 5000)


def no_object(folder: Path, _: Path) -> None:
    (folder / "adapter.json.sig").write_text("[]")


def no_signature_inside(folder: Path, _: Path) -> None:
    place = folder / "adapter.json.sig"
    place.write_text(json.dumps({**json.loads(place.read_text()), "signature": 7}))


def endless(folder: Path, _: Path) -> None:
    (folder / "adapter.json.sig").write_text(" " * 20_000)


ATTACKS = {
    unsigned: "is not signed",
    another_key: "by another key",
    a_claimed_key: "signed wrongly",
    sealed_again: "changed since it was signed",
    seal_of_the_change_claimed: "signed wrongly",
    edited: "changed since it was written",
    other_tensors: "adapter.safetensors is missing or not the one",
    nonsense: "adapter.json.sig",
    no_object: "adapter.json.sig",
    no_signature_inside: "signed wrongly",
    endless: "more than 10,000 bytes",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_what_is_not_signed_so_is_refused(
    adapter: Path, tmp_path: Path, attack: Callable[[Path, Path], None]
) -> None:
    private, public = keys(tmp_path, "own")
    petiole.sign(adapter, key=private)
    attack(adapter, keys(tmp_path, "other")[0])
    with pytest.raises(SignatureError, match=ATTACKS[attack]):
        petiole.verify(adapter, trusted=public)


def test_keys_and_files_that_cannot_be_are_named(adapter: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path, "own")
    curve = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "curve").write_bytes(
        curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    for key in (tmp_path / "none", public, tmp_path / "curve"):
        with pytest.raises(ConfigError, match=f"{key.name}: .*"):
            petiole.sign(adapter, key=key)
    with pytest.raises(ConfigError, match="own: "):
        petiole.verify(adapter, trusted=private)
    with pytest.raises(ConfigError, match="holds none of"):
        petiole.sign(tmp_path, key=private)
    (adapter / "adapter.json").write_text("{}")
    with pytest.raises(SignatureError, match="no seal"):
        petiole.sign(adapter, key=private)


def test_prediction_and_server_take_only_what_is_trusted(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a", tiny.resnet(), ["x", "y"], method="ridge")
    private, public = keys(tmp_path, "own")
    library = AdapterLibrary("cpu", 1, 10**6, trusted=public)
    with pytest.raises(SignatureError, match="is not signed"):
        petiole.predict(folder, [], trusted=public)
    for refuses in (library.describe, lambda place: library.open(str(place))):
        with pytest.raises(SignatureError, match="is not signed"):
            refuses(folder)
    petiole.sign(folder, key=private)
    assert library.describe(folder)["classes"] == ["x", "y"]
    copy = Path(shutil.copytree(folder, tmp_path / "b"))
    (copy / "adapter.json.sig").unlink()
    with pytest.raises(SignatureError, match="is not signed"):
        petiole.Adapter.load(copy, trusted=public)
    service = Service({}, store=tmp_path, trusted=public)
    with pytest.raises(ConfigError, match="none by upload"):
        asyncio.run(service.put("a", dict.fromkeys(FILES, b"")))

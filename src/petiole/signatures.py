"""Who vouches for a sealed file: an Ed25519 signature (Josefsson and Liusvaara, RFC 8032) of its seal, in a file beside it.

    adapter.json          sealed; its seal covers the checksum of the tensors, and so the whole adapter
    adapter.json.sig      the seal that was signed, the public key, the signature

A seal alone guards against accident. A signature under a key that one trusts guards against change by others: who has no such
key can seal a file again, but not sign it. Needs the extra ``sign`` (the library cryptography).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from petiole.errors import ConfigError, SignatureError, boundary
from petiole.files import SEAL, read_sealed, sealed, write_json

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import (
        Ed25519PrivateKey,
        Ed25519PublicKey,
    )

SIGNATURE = ".sig"
CONTEXT = b"petiole seal 1\n"
"""Before the seal in what is signed, so that a signature made for something else is none of a file."""
BYTES = 10_000
"""At most of a key or signature file."""


def signature_of(file: Path) -> Path:
    """Where the signature of a file lies."""
    return file.with_name(file.name + SIGNATURE)


def sign(file: Path, key: Path) -> Path:
    """Sign a sealed JSON file, and return where the signature lies.

    Args:
        file: of ``write_sealed``.
        key: Ed25519 private key, PEM (``openssl genpkey``) or OpenSSH (``ssh-keygen``), without a passphrase.

    Raises:
        ConfigError: no such key, or the library is missing.
        SignatureError: the file is damaged, or has no seal.
    """
    private = _private(key)
    with boundary(file, "Sign a whole adapter, run or sealed file.", SignatureError):
        seal = sealed(read_sealed(file))[SEAL]
    stated = {
        SEAL: seal,
        "public_key": private.public_key().public_bytes_raw().hex(),
        "signature": private.sign(CONTEXT + seal.encode()).hex(),
    }
    write_json(signature_of(file), stated)
    return signature_of(file)


def check_signature(file: Path, content: Mapping[str, Any], trusted: Path) -> None:
    """Raise SignatureError unless what was read of a sealed JSON file is signed by the owner of a key.

    Args:
        file: whose signature lies beside it.
        content: what ``read_sealed`` gave of it.
        trusted: Ed25519 public key, PEM or OpenSSH.
    """
    public, place = _public(trusted), signature_of(file)
    if not place.exists():
        raise SignatureError(
            f"{file} is not signed: {place.name} is missing, and only what {trusted} vouches for is wanted. Get it from who made "
            "the adapter, or sign it with petiole sign."
        )
    stated = _read(place)
    seal = sealed(content)[SEAL]
    if stated.get(SEAL) != seal:
        raise SignatureError(
            f"{file} was changed since it was signed: {place.name} is of the seal {str(stated.get(SEAL))[:12]!r}, and it has "
            f"{seal[:12]!r}. Get it again, with its signature."
        )
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(bytes.fromhex(stated["signature"]), CONTEXT + seal.encode())
    except (InvalidSignature, KeyError, TypeError, ValueError) as error:
        own = public.public_bytes_raw().hex()
        found = str(stated.get("public_key"))
        why = f"by another key ({found[:12]}...)" if found != own else "wrongly"
        raise SignatureError(
            f"{file} is signed {why}: {trusted} ({own[:12]}...) does not vouch for it. Do not use it, or trust the key of who "
            "made it."
        ) from error


def _read(place: Path) -> dict[str, Any]:
    with boundary(place, "Get the signature again.", SignatureError):
        stated = json.loads(_bytes(place))
        if not isinstance(stated, dict):
            raise ValueError("no JSON object")
        return stated


def _private(file: Path) -> Ed25519PrivateKey:
    load = _loaders()
    with boundary(
        file, "Make one without a passphrase: openssl genpkey -algorithm ed25519.", ConfigError
    ):
        content = _bytes(file)
        ssh = b"OPENSSH" in content
        key = (load.load_ssh_private_key if ssh else load.load_pem_private_key)(content, None)
        return _checked(key, "Ed25519PrivateKey")  # type: ignore[no-any-return]


def _public(file: Path) -> Ed25519PublicKey:
    load = _loaders()
    with boundary(file, "Give the public half: openssl pkey -pubout.", ConfigError):
        content = _bytes(file)
        ssh = content.startswith(b"ssh-")
        key = (load.load_ssh_public_key if ssh else load.load_pem_public_key)(content)
        return _checked(key, "Ed25519PublicKey")  # type: ignore[no-any-return]


def _bytes(file: Path) -> bytes:
    with open(file, "rb") as stream:
        content = stream.read(BYTES + 1)
    if len(content) > BYTES:
        raise ValueError(f"more than {BYTES:,} bytes")
    return content


def _checked(key: Any, kind: str) -> Any:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    if not isinstance(key, getattr(ed25519, kind)):
        raise ValueError(f"{type(key).__name__.strip('_')} where Ed25519 is wanted")
    return key


def _loaders() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError as error:
        raise ConfigError(
            "Signatures need the library cryptography: pip install 'petiole[sign]'."
        ) from error
    return serialization

"""Files that are whole or absent, and sealed: temporary name, fsync, rename; a digest over all that is in them.

A seal guards against accident (a bad disk, a cut copy, an edit by hand), not against malice: whoever can change a
file can seal it again. What the seal covers is checked before any of it is used.

JSON          the field ``sha256``, over the canonical form of the other fields in their order
JSON lines    the same on every line
safetensors   ``sha256`` in the metadata, over the other metadata and every tensor's name, dtype, shape and bytes
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

SEAL = "sha256"
TEMPORARY = ".tmp"
"""How names of unfinished files begin: ``.tmp-`` of ours, ``.tmp`` and six letters of those that safetensors renames."""


class Damaged(ValueError):
    """A kept file whose content is not what was written; the text says what differs, its catcher names the file."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; it takes the place of ``path`` if nothing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}-{uuid.uuid4().hex}-{path.name}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically, without a seal: for other programs."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object atomically, for ``read_sealed``."""
    write_json(path, sealed(value))


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON object of ``write_sealed``.

    Raises:
        FileNotFoundError: there is none.
        Damaged: no JSON, without a seal, or changed since it was written.
    """
    _check_regular(path)
    return unsealed(path.read_bytes())


def _check_regular(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise Damaged("it is no regular file")


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object and its seal."""
    plain = {name: v for name, v in value.items() if name != SEAL}
    return {**plain, SEAL: text_digest(json.dumps(plain))}


def unsealed(content: bytes) -> dict[str, Any]:
    """The object in the text of a sealed one.

    Raises:
        Damaged: no JSON, without a seal, or changed since it was written.
    """
    try:
        value = json.loads(content.decode())
        found = value.pop(SEAL, None)
        seal = sealed(value)[SEAL]
    except Exception as error:  # no UTF-8, no JSON, no object, nested without end
        raise Damaged(f"it is no whole JSON object ({error})") from error
    check_seal(found, seal)
    return dict(value)


def check_seal(found: object, content: str) -> None:
    """Raise Damaged unless the seal in a file is that of its content."""
    if found is None:
        raise Damaged("it has no seal (an older petiole wrote it, or it was made by hand)")
    if found != content:
        raise Damaged(
            f"it was changed since it was written: its seal says {str(found)[:12]!r}, its content gives {content[:12]!r}"
        )


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a line of JSON, on a line of its own though the last one was torn by a dying process."""
    line = json.dumps(row) + "\n"
    with open(path, "ab+") as file:
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line
        file.write(line.encode())


def read_lines(path: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows of a file of sealed lines, and the numbers (from 1) of lines that a dying process left torn.

    A torn line is a beginning only, so it does not end like a whole one.

    Raises:
        Damaged: a whole line was changed since it was written.
    """
    rows, torn = [], []
    _check_regular(path)
    content = path.read_bytes() if path.exists() else b""
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(unsealed(line))
        except Damaged as error:
            if line.rstrip().endswith(b"}"):
                raise Damaged(f"line {number}: {error}") from error
            torn.append(number)
    return rows, torn


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a sealed safetensors file atomically, for ``read_tensors`` and every other reader of the format.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    stated = {
        "format": "pt",
        **(metadata or {}),
    }  # without it transformers takes no file that has metadata
    with replacing(path) as temporary:
        try:
            save_file(whole, temporary, metadata={**stated, SEAL: tensor_digest(whole, stated)})
            _order_metadata(temporary)
        except SafetensorError as error:
            if "No space left" in str(error):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            raise OSError(f"{path}: {error}") from error


def _order_metadata(path: Path) -> None:
    """Sort the metadata in place: the library writes them in a random order, and equal content has equal bytes here."""
    with open(path, "r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= size:
            file.seek(8)
            file.write(text.ljust(size))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file of ``write_tensors``: tensors, memory-mapped, and metadata.

    Raises:
        FileNotFoundError: there is none.
        Damaged: no safetensors file, without a seal, or changed since it was written.
    """
    _check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise
    except Exception as error:
        raise Damaged(f"it is no whole safetensors file ({str(error)[:200]})") from error
    found = metadata.pop(SEAL, None)
    check_seal(found, tensor_digest(tensors, metadata))
    return tensors, metadata


def packed(texts: Sequence[str]) -> Tensor:
    """Texts as a tensor, their JSON in UTF-8 (n,): the header of a file of tensors has no room for a million names."""
    return torch.frombuffer(bytearray(json.dumps(list(texts)).encode()), dtype=torch.uint8)


def unpacked(tensor: Tensor) -> list[str]:
    """The texts of ``packed``."""
    return list(json.loads(tensor.numpy().tobytes()))


def tensor_digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 (hex) over metadata and every tensor's name, dtype, shape and bytes."""
    named = sorted(tensors.items())
    head = [sorted(metadata.items()), [(n, str(t.dtype), tuple(t.shape)) for n, t in named]]
    digest = hashlib.sha256(json.dumps(head).encode())
    for _, tensor in named:
        digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def text_digest(text: str) -> str:
    """SHA-256 (hex) of a text, names that are not UTF-8 included."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def sweep(folder: Path) -> None:
    """Delete what killed writers left in a folder and those right below it; only for who holds its lock."""
    for file in (*folder.glob(f"{TEMPORARY}*"), *folder.glob(f"*/{TEMPORARY}*")):
        with suppress(OSError):
            file.unlink()


def sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

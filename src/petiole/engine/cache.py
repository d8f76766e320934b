"""The feature cache: what the frozen half computed, kept under the hash of all that decides it.

    <root>/<key>/key.json                what the key means, for people
    <root>/<key>/<checksum>.safetensors  a shard: values by role, the images' hashes in its header

There is no index and no lock: a shard describes itself, is named after the checksum of its
content, and appears under its name only when it is whole. So two writers cannot harm each other, a
killed one leaves at most an ignored temporary file, and a damaged shard is set aside, never read.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from petiole.backbones.base import State
from petiole.files import write_json, write_tensors
from petiole.errors import CacheError

SUFFIX = ".safetensors"
_DAMAGE = (SafetensorError, OSError, KeyError, ValueError, TypeError)


@dataclass(frozen=True)
class Key:
    """Everything that decides a cached value, apart from the image.

    Attributes:
        fingerprint: of the backbone's weights.
        preprocessing: its digest.
        cut: the roles stored.
        dtype: in which they are stored.
        precision: in which they were computed.
        view: 0 for the evaluation view, else the index of a random one.
        augmentation: digest of the random view's recipe; empty for view 0.
    """

    fingerprint: str
    preprocessing: str
    cut: tuple[str, ...]
    dtype: str = "float32"
    precision: str = "fp32"
    view: int = 0
    augmentation: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 over the fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class FeatureCache:
    """Content-addressed store of features.

    Args:
        root: folder; created when first written to.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._open: dict[str, dict[str, tuple[State, int]]] = {}

    def read(self, key: Key, ids: Sequence[str]) -> dict[str, State]:
        """Return what is stored of ``ids``; absent ones are left out.

        The tensors are views of memory-mapped shards whose checksums were verified.
        """
        rows = self._rows(key)
        return {
            image: {role: values[role][row] for role in key.cut}
            for image in ids
            if image in rows
            for values, row in [rows[image]]
        }

    def missing(self, key: Key, ids: Sequence[str]) -> list[str]:
        """Return the ids that are not stored, sorted, each once."""
        rows = self._rows(key)
        return sorted({image for image in ids if image not in rows})

    def write(self, key: Key, ids: Sequence[str], state: State) -> None:
        """Store the values of ``ids``, whole or not at all.

        Raises:
            CacheError: the disk is full or the folder cannot be written.
        """
        folder = self.root / key.digest
        tensors = {role: value.contiguous() for role, value in state.items()}
        name = checksum(ids, tensors)
        try:
            if not (folder / "key.json").exists():
                write_json(folder / "key.json", asdict(key))
            path = folder / (name + SUFFIX)
            write_tensors(path, tensors, {"ids": json.dumps(list(ids))})
        except (OSError, SafetensorError) as error:
            raise _cannot_write(error, folder, tensors) from error
        self._index(key, path, ids)

    def _rows(self, key: Key) -> dict[str, tuple[State, int]]:
        if key.digest not in self._open:
            self._open[key.digest] = {}
            for path in sorted((self.root / key.digest).glob(f"[!.]*{SUFFIX}")):
                ids = self._verified(path)
                if ids is not None:
                    self._index(key, path, ids)
        return self._open[key.digest]

    def _index(self, key: Key, path: Path, ids: Sequence[str]) -> None:
        rows = self._open.setdefault(key.digest, {})
        _, values = load_shard(path)
        for row, image in enumerate(ids):
            rows.setdefault(image, (values, row))

    def _verified(self, path: Path) -> list[str] | None:
        try:
            ids, values = load_shard(path)
            if checksum(ids, values) == path.stem:
                return ids
            reason = "its content does not match its checksum"
        except _DAMAGE as error:
            reason = str(error)
        aside = path.with_suffix(".corrupt")
        warnings.warn(
            f"Set aside the damaged cache shard {aside} ({reason}); its images are computed again.",
            stacklevel=2,
        )
        os.replace(path, aside)
        return None


def load_shard(path: Path) -> tuple[list[str], State]:
    """Memory-map one shard: the images' hashes and the values by role."""
    with safe_open(path, framework="pt") as file:
        ids = json.loads(file.metadata()["ids"])
        return ids, {role: file.get_tensor(role) for role in file.keys()}  # noqa: SIM118


def checksum(ids: Sequence[str], state: State) -> str:
    """SHA-256 over ids, roles, shapes and bytes."""
    digest = hashlib.sha256("\n".join(ids).encode())
    for role in sorted(state):
        value = state[role].contiguous()
        digest.update(f"|{role}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(memoryview(value.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


@dataclass(frozen=True)
class Shelf:
    """One key's folder, for listing."""

    digest: str
    key: dict[str, object]
    images: int
    bytes: int
    damaged: int
    leftovers: int


def shelves(root: Path, *, verify: bool = False) -> Iterator[Shelf]:
    """Walk a cache folder; with ``verify`` also check every checksum (reads all of it)."""
    for folder in sorted(p for p in root.glob("*") if (p / "key.json").is_file()):
        images = size = damaged = 0
        for path in sorted(folder.glob(f"[!.]*{SUFFIX}")):
            size += path.stat().st_size
            try:
                ids, values = load_shard(path)
                images += len(ids)
                damaged += verify and checksum(ids, values) != path.stem
            except _DAMAGE:
                damaged += 1
        key = json.loads((folder / "key.json").read_text())
        leftovers = sum(1 for _ in folder.glob(".tmp-*")) + sum(1 for _ in folder.glob("*.corrupt"))
        yield Shelf(folder.name, key, images, size, damaged, leftovers)


def clean(root: Path, *, everything: bool = False) -> int:
    """Delete what is damaged or was left by killed writers (or everything); returns the files deleted.

    Temporary files younger than an hour are spared, since a living writer may own them.
    """
    removed = 0
    for folder in (p for p in root.glob("*") if (p / "key.json").is_file()):
        for path in sorted(folder.iterdir()):
            if everything or _useless(path):
                path.unlink(missing_ok=True)
                removed += 1
        if everything:
            folder.rmdir()
    return removed


def _useless(path: Path) -> bool:
    if path.name.startswith(".tmp-"):
        return time.time() - path.stat().st_mtime > 3600
    if path.suffix != SUFFIX:
        return path.suffix == ".corrupt"
    try:
        ids, values = load_shard(path)
        return checksum(ids, values) != path.stem
    except _DAMAGE:
        return True


def _cannot_write(error: Exception, folder: Path, tensors: dict[str, Tensor]) -> CacheError:
    size = sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6
    full = getattr(error, "errno", None) == errno.ENOSPC or "No space left" in str(error)
    what = "the disk is full" if full else str(error)
    return CacheError(
        f"Could not store {size:.1f} MB of features in {folder}: {what}. Nothing partial was left "
        "behind. Free space (petiole cache clean), choose another place with --cache-dir, or run "
        "with --no-cache."
    )

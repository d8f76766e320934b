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
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from petiole.backbones.base import State
from petiole.errors import CacheError
from petiole.files import TEMPORARY, tensor_digest, write_json, write_tensors
from petiole.stores.mirror import Mirror

SUFFIX = ".safetensors"
HOUR = 3600


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

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the fields."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


class Rows:
    """Values of images in their order, taken from tensors of many without an object for each image.

    Python's garbage collector walks all objects again and again while more are made, so a tensor, a dictionary and a tuple
    an image cost the more the more images there are.

    Args:
        blocks: values by role, (rows, ...) each.
        numbers: of each image's row (n,), counted over the blocks one after the other.
    """

    def __init__(self, blocks: Sequence[State], numbers: Sequence[int]) -> None:
        self.blocks = blocks
        sizes = [len(next(iter(block.values()))) for block in blocks]
        ends = torch.tensor(sizes, dtype=torch.long).cumsum(0)
        number = torch.tensor(numbers, dtype=torch.long)
        self._block = torch.searchsorted(ends, number, right=True)
        self._row = number - torch.cat([ends.new_zeros(1), ends])[self._block]

    def __len__(self) -> int:
        return len(self._row)

    def take(self, chosen: Tensor) -> State:
        """Values (B, ...) by role of the chosen (B,) images; nothing where there are no blocks."""
        if not self.blocks:
            return {}
        of, row = self._block[chosen], self._row[chosen]
        out = {r: v.new_empty(len(chosen), *v.shape[1:]) for r, v in self.blocks[0].items()}
        order = of.argsort()
        for part in torch.split(order, of.bincount().tolist()):  # images of one block
            for role, value in out.items() if len(part) else ():
                value[part] = self.blocks[int(of[part[0]])][role][row[part]]
        return out


@dataclass
class _Index:
    """Of one key: shards that were verified, and each image's row, counted over all of them."""

    shards: list[State] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    seen: set[Path] = field(default_factory=set)
    rows: int = 0

    def add(self, path: Path, ids: Sequence[str], values: State) -> None:
        for number, image in enumerate(ids, self.rows):
            self.numbers.setdefault(image, number)
        self.shards.append(values)
        self.starts.append(self.rows)
        self.seen.add(path)
        self.rows += len(ids)

    def one(self, image: str) -> State:
        shard = bisect_right(self.starts, self.numbers[image]) - 1
        row = self.numbers[image] - self.starts[shard]
        return {role: value[row] for role, value in self.shards[shard].items()}


class FeatureCache:
    """Content-addressed store of features.

    Args:
        root: folder; created when first written to. One that mirrors a store is kept equal to it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._mirror = Mirror.of(root)
        self._open: dict[str, _Index] = {}

    def rows(self, keys: Sequence[Key], ids: Sequence[str]) -> Rows:
        """Return what is stored of ``ids``, all of which must be, under one key after the other.

        The tensors are views of memory-mapped shards whose checksums were verified.
        """
        blocks: list[State] = []
        numbers: list[int] = []
        before = 0
        for index in (self._find(key, ids) for key in keys):
            blocks += index.shards
            numbers += [before + index.numbers[image] for image in ids]
            before += index.rows
        return Rows(blocks, numbers)

    def read(self, key: Key, ids: Sequence[str]) -> dict[str, State]:
        """The same of a few images under one key, by image; absent ones are left out."""
        index = self._find(key, ids)
        return {image: index.one(image) for image in ids if image in index.numbers}

    def missing(self, key: Key, ids: Sequence[str]) -> list[str]:
        """Return the ids that are not stored, sorted, each once."""
        known = self._find(key, ids).numbers
        return sorted({image for image in ids if image not in known})

    def listed(self, key: Key) -> frozenset[str]:
        """The ids that the shards' headers name; the values are not checked, as ``missing`` does."""
        found: set[str] = set()
        for path in _shards(self.root / key.digest):
            with suppress(Exception):  # a damaged one is set aside by who reads it
                found.update(load_shard(path)[0])
        return frozenset(found)

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
                write_json(folder / "key.json", asdict(key))  # sealed by the folder's name
            path = folder / (name + SUFFIX)
            write_tensors(path, tensors, {"ids": json.dumps(list(ids)), "key": key.digest})
        except OSError as error:
            raise _cannot_write(error, folder, tensors) from error
        if self._mirror:
            self._mirror.push(folder / "key.json")
            self._mirror.push(path)
        if index := self._open.get(key.digest):
            index.add(path, ids, load_shard(path)[1])

    def _find(self, key: Key, ids: Sequence[str]) -> _Index:
        """The key's index; if it lacks one of ``ids``, with the shards that are new, for others may have written since."""
        index = self._open.setdefault(key.digest, _Index())
        if all(image in index.numbers for image in ids):
            return index
        if self._mirror:
            self._mirror.pull(key.digest)
        for path in _shards(self.root / key.digest):
            if path in index.seen:
                continue
            try:
                index.add(path, *verified(path, key.cut))
            except FileNotFoundError:
                pass  # cleaned away by another process since it was listed
            except Exception as error:
                _set_aside(path, error)
                if self._mirror:
                    self._mirror.drop(path)
        return index


def verified(path: Path, cut: Sequence[str] | None = None) -> tuple[list[str], State]:
    """Memory-map one shard and check all of it.

    Raises:
        ValueError: content and checksum differ, or it does not hold one row of every role of
            ``cut`` for each image. Whatever else a damaged file makes its reader raise is passed on.
    """
    ids, values = load_shard(path)
    if checksum(ids, values) != path.stem:
        raise ValueError("its content does not match its checksum")
    if cut is not None and set(values) != set(cut):
        raise ValueError(f"it holds {sorted(values)} instead of {sorted(cut)}")
    if any(len(value) != len(ids) for value in values.values()):
        raise ValueError(f"it does not hold one row for each of its {len(ids)} images")
    return ids, values


def load_shard(path: Path) -> tuple[list[str], State]:
    """Memory-map one shard, its values unchecked: the images' hashes and the values by role.

    Raises:
        ValueError: it was written under another key than the one whose folder it lies in.
    """
    with safe_open(path, framework="pt") as file:
        stated = file.metadata()
        if stated.get("key", path.parent.name) != path.parent.name:
            raise ValueError("it holds other features, moved here from another folder of a cache")
        ids = json.loads(stated["ids"])
        return ids, {role: file.get_tensor(role) for role in file.keys()}  # noqa: SIM118


def checksum(ids: Sequence[str], state: State) -> str:
    """SHA-256 over ids, roles, dtypes, shapes and bytes: a shard's name, and so its seal."""
    return tensor_digest(state, {"ids": json.dumps(list(ids))})


@dataclass(frozen=True)
class CacheEntry:
    """One key's folder, for listing.

    Attributes:
        digest: the folder's name.
        key: what it stands for; empty if key.json is damaged.
        images: stored in readable shards.
        bytes: of all shards.
        damaged: shards that cannot be read, or do not match their checksum where that was checked.
        leftovers: temporary and set-aside files.
    """

    digest: str
    key: dict[str, object]
    images: int
    bytes: int
    damaged: int
    leftovers: int


def entries(root: Path, *, verify: bool = False) -> Iterator[CacheEntry]:
    """Walk a cache folder; with ``verify`` also check every checksum (reads all of it)."""
    read = verified if verify else load_shard
    if mirror := Mirror.of(root):
        mirror.pull()
    for folder in _folders(root):
        images = size = damaged = 0
        for path in _shards(folder):
            try:
                size += path.stat().st_size
                images += len(read(path)[0])
            except FileNotFoundError:
                pass
            except Exception:
                damaged += 1
        leftovers = sum(1 for p in folder.iterdir() if _leftover(p))
        yield CacheEntry(folder.name, _key_of(folder), images, size, damaged, leftovers)


def clean(root: Path, *, everything: bool = False) -> int:
    """Delete what is damaged or was left by killed writers (or everything); returns how many files.

    Only folders named like a key are touched. Temporary files younger than an hour are spared,
    since a living writer may own them.

    Raises:
        CacheError: a file cannot be deleted.
    """
    removed = 0
    if mirror := Mirror.of(root):
        mirror.pull()
    for folder in _folders(root):
        try:
            for path in sorted(folder.iterdir()):
                if everything or _useless(path):
                    if mirror:
                        mirror.drop(path)
                    path.unlink(missing_ok=True)
                    removed += 1
            with suppress(OSError):  # it holds something still
                folder.rmdir()
        except OSError as error:
            raise CacheError(
                f"{folder} cannot be cleaned: {error.strerror}. Make it writable, or delete it by hand."
            ) from error
    return removed


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("[0-9a-f]" * 64) if p.is_dir())


def _shards(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"[!.]*{SUFFIX}"))


def _key_of(folder: Path) -> dict[str, object]:
    """What a folder is named after: its name is the digest of key.json."""
    try:
        key = Key(**json.loads((folder / "key.json").read_text(encoding="utf-8")))
        return asdict(key) if key.digest == folder.name else {}
    except Exception:
        return {}


def _leftover(path: Path) -> bool:
    return path.name.startswith(TEMPORARY) or path.suffix == ".corrupt"


def _useless(path: Path) -> bool:
    try:
        if path.name.startswith(TEMPORARY):
            return time.time() - path.stat().st_mtime > HOUR
        if path.suffix == SUFFIX:
            verified(path)
    except FileNotFoundError:
        return False
    except Exception:
        return True
    return path.suffix == ".corrupt"


def _set_aside(path: Path, reason: Exception) -> None:
    aside = path.with_suffix(".corrupt")
    warnings.warn(
        f"Set aside the damaged cache shard {aside} ({reason}); its images are computed again.",
        stacklevel=4,
    )
    with suppress(OSError):  # another process was quicker, or the folder is read-only
        os.replace(path, aside)


def _cannot_write(error: OSError, folder: Path, tensors: dict[str, Tensor]) -> CacheError:
    size = sum(t.numel() * t.element_size() for t in tensors.values()) / 1e6
    what = "the disk is full" if error.errno == errno.ENOSPC else str(error)
    return CacheError(
        f"Could not store {size:.1f} MB of features in {folder}: {what}. Nothing partial was left "
        "behind. Free space (petiole cache clean), choose another place with --cache-dir, or run "
        "with --no-cache."
    )

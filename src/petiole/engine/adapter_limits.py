"""What an adapter file may ask for: checked before anything in it is read whole, built or allocated.

A folder from elsewhere may claim a rank of 10^8 or 600,000 tensors. Files are regular and of a bounded size, the header of the
tensors' file agrees with its length, and building a model allocates no more than tensors of the file can fill.
"""

from __future__ import annotations

import json
import math
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from petiole.errors import AdapterError, boundary

MANIFEST_BYTES = 2**24
"""Of adapter.json: names of 200,000 classes take about 6 MB."""

CLASSES = 200_000
HEADER_BYTES = 2**23
TENSOR_COUNT = 2**16
SLACK = 2**26
"""Numbers that building may allocate beside those of the file, 256 MB in fp32: masks, positions, what initialisation needs."""

_AGAIN = "Copy the adapter folder again, whole, from a place that you trust."


class Stored(NamedTuple):
    """A tensor as a header states it."""

    dtype: str
    shape: tuple[int, ...]


def regular(file: Path, most: int | None = None) -> int:
    """Bytes of a regular file.

    Raises:
        AdapterError: it is missing, a pipe or device, or larger than ``most`` bytes.
    """
    if not file.exists():
        raise AdapterError(f"{file} is missing. {_AGAIN}")
    with boundary(file, _AGAIN, AdapterError):
        found = file.stat()
    if not stat.S_ISREG(found.st_mode):
        raise AdapterError(f"{file} is no regular file. {_AGAIN}")
    if most is not None and found.st_size > most:
        raise AdapterError(
            f"{file} has {found.st_size:,} bytes; at most {most:,} are read. {_AGAIN}"
        )
    return found.st_size


def read_header(file: Path) -> dict[str, Stored]:
    """Names, types and shapes in a safetensors file, from its header alone.

    Raises:
        AdapterError: no such file, a header that is too large or no header, or one that claims more or less than the file has.
    """
    size = regular(file)
    with boundary(file, _AGAIN, AdapterError, what="is no file of tensors"):
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > HEADER_BYTES:
                raise AdapterError(
                    f"{file} has a header of {length:,} bytes; at most {HEADER_BYTES:,} are read. {_AGAIN}"
                )
            header = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        if len(header) > TENSOR_COUNT:
            raise AdapterError(
                f"{file} holds {len(header):,} tensors; at most {TENSOR_COUNT:,} are read. {_AGAIN}"
            )
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
        if size != 8 + length + end:
            raise AdapterError(
                f"{file} has {size:,} bytes, but its header claims {8 + length + end:,}. {_AGAIN}"
            )
        return {
            name: Stored(str(entry["dtype"]), tuple(int(n) for n in entry["shape"]))
            for name, entry in header.items()
        }


def check_fits(file: Path, header: Mapping[str, Stored], wanted: Mapping[str, Tensor]) -> None:
    """Compare a header with the tensors that a model has; shapes are the loader's, for some layers grow to what is stored.

    Raises:
        AdapterError: one is missing or surplus, or all together are far larger than the model.
    """
    if differing := sorted(header.keys() ^ wanted.keys()):
        raise AdapterError(
            f"{file} does not fit its own manifest: {len(differing)} tensor(s) are in one of the two alone, the first "
            f"{differing[0]!r}. {_AGAIN}"
        )
    stored, most = _numbers(header), 4 * sum(t.numel() for t in wanted.values()) + SLACK
    if stored > most:
        raise AdapterError(
            f"{file} does not fit its own manifest: it holds {stored:,} numbers, and at most {most:,} are read for this "
            f"method. {_AGAIN}"
        )


@contextmanager
def bounded_build(folder: Path, header: Mapping[str, Stored]) -> Iterator[None]:
    """Let a model be built that the tensors of a header can fill, and no larger one; torch's generator is left as it was.

    Raises:
        AdapterError: new tensors would have more numbers than four times those of the file and `SLACK`.
    """
    with torch.random.fork_rng(), _Allowance(folder, 4 * _numbers(header) + SLACK):
        yield


def _numbers(header: Mapping[str, Stored]) -> int:
    return sum(math.prod(tensor.shape) for tensor in header.values())


class _Allowance(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the numbers of tensors made from nothing (empty, zeros, randn, ...), before they are made."""

    def __init__(self, folder: Path, numbers: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.folder, self.numbers, self.left = folder, numbers, numbers

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: else torch imports its compiler at the first tensor, and nothing is compiled while an adapter is opened."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """See ``torch.utils._python_dispatch``."""
        if args and not isinstance(args[0], Tensor) and (names := _sizes(func)):
            given = dict(zip((one.name for one in func._schema.arguments), args, strict=False))
            self.left -= max(math.prod(_listed(given.get(name, ()))) for name in names)
            if self.left < 0:
                raise AdapterError(
                    f"{self.folder}: its settings ask for a model of more than {self.numbers:,} new numbers, which its own "
                    f"tensors cannot fill. {_AGAIN}"
                )
        return func(*args, **kwargs or {})


def _sizes(func: Any) -> list[str]:
    return [one.name for one in func._schema.arguments if one.name in ("size", "n", "m")]


def _listed(size: Any) -> list[int]:
    return [size] if isinstance(size, int) else list(size)

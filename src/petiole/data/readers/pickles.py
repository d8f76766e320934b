"""Old pickles without unpickling: plain containers, texts, whole numbers and numeric arrays only.

A pickle is a program. Of its instructions only those that build containers are carried out as they
are; the few names that an array's pickle calls are answered by stand-ins of this file, which keep
bytes, dtype and shape and build the array from them. Every other name is refused before it is looked
up, so nothing is imported and nothing foreign runs. Check a known checksum first all the same.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from petiole.errors import boundary

Names = Callable[[str, str], Any]
Storage = Callable[[Any], Any]

_PLAIN = (str, bytes, int)
_DTYPE = re.compile(r"[biuf][1248]")


class _Text:
    """``_codecs.encode(text, "latin1")``: how Python 3 writes bytes into an old pickle."""

    def __new__(cls, text: str, codec: str) -> Any:
        if codec != "latin1":
            raise ValueError(f"text in {codec}")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise ValueError("text with a state")


class _DType:
    """``numpy.dtype("u1", ...)``, its byte order set afterwards."""

    def __init__(self, code: str, *_: object) -> None:
        if not _DTYPE.fullmatch(code):
            raise ValueError(f"an array of dtype {code}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """``numpy.core.multiarray._reconstruct(...)``, its content set afterwards."""

    def __init__(self, *_: object) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, content = state
        raw = content.encode("latin1") if isinstance(content, str) else content
        order = "F" if fortran else "C"
        self.array = np.frombuffer(raw, dtype.dtype).reshape(shape, order=order)  # type: ignore[call-overload]


class Fields:
    """An object of plain fields, such as Dassl's ``Datum``; becomes a dict of them."""

    def __init__(self) -> None:
        self.fields: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        if type(state) is not dict:
            raise ValueError("an object with a state of its own")
        self.fields = state


_STAND_INS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _Text,
    ("numpy", "dtype"): _DType,
    ("numpy", "ndarray"): object(),  # handed to _reconstruct, which ignores it
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("dassl.data.datasets.base_dataset", "Datum"): Fields,
}


class Unknown(ValueError):
    """A name that nothing stands for."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__(f"it calls {module}.{name}")


class _Reader(pickle.Unpickler):
    """Looks nothing up: ``names`` gives what stands for a name, ``storage`` what for a reference."""

    def __init__(self, file: IO[bytes], names: Names, storage: Storage | None) -> None:
        super().__init__(file, encoding="latin1")
        self._names, self._storage = names, storage

    def find_class(self, module: str, name: str) -> Any:
        return self._names(module, name)

    def persistent_load(self, key: Any) -> Any:
        if self._storage is None:
            raise ValueError("it refers to something outside")
        return self._storage(key)


def load_plain(file: IO[bytes], names: Names, storage: Storage | None = None) -> Any:
    """Build what a pickle describes, out of stand-ins only.

    Args:
        names: (module, name) -> what stands for it; raises ``Unknown`` for all others.
        storage: answers references to what lies outside the pickle.
    """
    return _Reader(file, names, storage).load()


def _stand_in(module: str, name: str) -> Any:
    try:
        return _STAND_INS[module, name]
    except KeyError:
        raise Unknown(module, name) from None


def read_pickle(path: Path) -> Any:
    """Return what a pickle of dicts, lists, strings, bytes, integers and numeric arrays holds.

    The records of Dassl's few-shot draws (``Datum``) become dicts of their fields.

    Strings of Python 2 are read as latin-1, so that arrays keep their bytes.

    Raises:
        DataError: no such file, it is damaged, or it holds or calls anything else.
    """
    what = "refused, since a pickle can run any program and this one is not plain data"
    with boundary(path, "Get the file again from its origin.", what=what), path.open("rb") as file:
        return _plain(load_plain(file, _stand_in), {})


def _plain(value: Any, done: dict[int, Any]) -> Any:
    """The value with arrays in place of their stand-ins; ``done`` holds shared parts by identity.

    Without it a few bytes of lists within lists could unfold to more than any memory holds.
    """
    if id(value) not in done:
        done[id(value)] = _copied(value, done)
    return done[id(value)]


def _copied(value: Any, done: dict[int, Any]) -> Any:
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if isinstance(value, Fields):
        return _plain(value.fields, done)
    if type(value) is dict:
        return {_plain(k, done): _plain(v, done) for k, v in value.items()}
    if type(value) is list:
        return [_plain(v, done) for v in value]
    if isinstance(value, _PLAIN):
        return value
    raise ValueError(f"it holds a {type(value).__name__.lstrip('_')}")

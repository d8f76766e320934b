"""Plain pickles are read as they are; every other one is refused before anything of it runs."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from petiole.data.readers.pickles import read_pickle
from petiole.errors import DataError


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Any]:
    def opened(content: bytes) -> Any:
        file = tmp_path / "data_batch_1"
        file.write_bytes(content)
        return read_pickle(file)

    return opened


def equal(a: Any, b: Any) -> bool:
    """Equality in values, types and order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


KINDS = ("u1", "<i2", ">i4", "<i8", "<f4", ">f8", "?")
SHAPES = arrays.array_shapes(min_dims=1, max_dims=3, max_side=4)
ARRAYS = st.sampled_from(KINDS).flatmap(lambda kind: arrays.arrays(np.dtype(kind), SHAPES))
ATOMS = st.text() | st.binary(min_size=1) | st.integers() | st.booleans() | ARRAYS
PLAIN = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=12,
)


@given(PLAIN, st.sampled_from([2, 3, 4]))
def test_plain_data_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, value: Any, protocol: int
) -> None:
    file = tmp_path_factory.getbasetemp() / "plain"
    file.write_bytes(pickle.dumps(value, protocol))
    assert equal(read_pickle(file), value)


@given(ARRAYS)
def test_arrays_in_columns_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, value: NDArray[Any]
) -> None:
    file = tmp_path_factory.getbasetemp() / "columns"
    file.write_bytes(pickle.dumps([np.asfortranarray(value)], 2))
    assert equal(read_pickle(file), [value])


def python_2(array: NDArray[np.uint8], labels: list[int]) -> bytes:
    """{"data": array, "labels": labels} byte for byte as Python 2's cPickle wrote it, protocol 2.

    Its texts are byte strings (SHORT_BINSTRING, BINSTRING) and its names those of numpy 1.
    """

    def text(s: bytes) -> bytes:
        return b"U" + bytes([len(s)]) + s if len(s) < 256 else b"T" + struct.pack("<i", len(s)) + s

    shape = b"".join(b"M" + struct.pack("<H", n) for n in array.shape)
    return (
        b"\x80\x02}("
        + text(b"data")
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01"
        + shape
        + b"\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        + b"\x89"
        + text(array.tobytes())
        + b"tb"
        + text(b"labels")
        + b"]("
        + b"".join(b"K" + bytes([n]) for n in labels)
        + b"eu."
    )


def test_a_pickle_of_python_2_is_read(read: Callable[[bytes], Any]) -> None:
    array = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    content = python_2(array, [7, 3])
    got = read(content)
    assert list(got) == ["data", "labels"]
    assert equal(got["data"], array)
    assert got["labels"] == [7, 3]
    theirs = pickle.loads(content, encoding="latin1")  # ours, so it may be unpickled
    assert equal(theirs["data"], array)


ran: list[str] = []


class Evil:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def note(what: str) -> str:
    ran.append(what)
    return what


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_is_refused_before_it_runs(read: Callable[[bytes], Any], protocol: int) -> None:
    ran.clear()
    content = pickle.dumps({"data": [1], "labels": Evil(note, "ran")}, protocol)
    with pytest.raises(DataError, match=rf"it calls {__name__}\.note\)\. Get the file again"):
        read(content)
    assert ran == []
    pickle.loads(content)
    assert ran == ["ran"], "the test's own pickle is a live one"


CALLS = {
    "os.system": b"cos\nsystem\n(S'true'\ntR.",
    "builtins.eval": b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.",
    "instance": b"(S'1'\nios\nsystem\n.",
    "object": b"(cos\nsystem\nS'1'\no.",
    "new object": b"\x80\x02cbuiltins\nbytearray\n)\x81.",
    "attribute of a name that is known": b"\x80\x04\x8c\x05numpy\x8c\x0ddtype.__new__\x93.",
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Psomewhere\n.",
    "codec that runs more than latin1": b"\x80\x04\x8c\x07_codecs\x8c\x06encode\x93\x8c\x01a\x8c\x05utf-8\x86R.",
    "a state for a text": b"\x80\x04\x8c\x07_codecs\x8c\x06encode\x93}b.",
    "a state for a class": b"\x80\x04\x8c\x05numpy\x8c\x05dtype\x93}\x8c\x05dtype\x8c\x01x\x73b.",
    "a state for a list": b"]}S'a'\nS'b'\nsb.",
}


@pytest.mark.parametrize("content", CALLS.values(), ids=CALLS)
def test_every_way_to_call_is_refused(read: Callable[[bytes], Any], content: bytes) -> None:
    pickletools.dis(content, out=io.StringIO())  # it is a well-formed pickle
    with pytest.raises(DataError, match=r"(?s)data_batch_1: refused, .*Get the file again"):
        read(content)


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], dtype=object),
        np.array(["text"]),
        np.zeros(2, dtype=[("a", "u1")]),
        OrderedDict(a=1),
        {1, 2},
        (1, 2),
        1.5,
        None,
        np.uint8(1),
        np.dtype("u1"),
        np.ndarray,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_is_refused(read: Callable[[bytes], Any], value: Any) -> None:
    with pytest.raises(DataError, match="this one is not plain data"):
        read(pickle.dumps([value], 4))


def test_damage_is_refused_wherever_it_is(read: Callable[[bytes], Any]) -> None:
    content = pickle.dumps({"data": np.arange(6, dtype=np.uint8).reshape(2, 3), "n": 1}, 2)
    for end in range(len(content) - 1):
        with pytest.raises(DataError, match="refused"):
            read(content[:end])
    for place in range(len(content)):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        with suppress(DataError):  # any other error would fail here
            read(bytes(changed))


def test_lists_within_lists_do_not_unfold(read: Callable[[bytes], Any]) -> None:
    value: list[Any] = []
    for _ in range(100):
        value = [value, value]
    got = read(pickle.dumps(value, 2))
    for _ in range(100):
        assert got[0] is got[1]
        got = got[0]
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(DataError, match="refused"):
        read(pickle.dumps(endless, 2))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing: no such file"):
        read_pickle(tmp_path / "nothing")

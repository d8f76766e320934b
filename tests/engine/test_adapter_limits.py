"""What an adapter file may ask for, up to the last byte, name and number that is allowed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from petiole.engine import adapter_limits
from petiole.engine.adapter_limits import Stored, bounded_build, read_header
from petiole.errors import AdapterError

TWO = {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}


def written(file: Path, header: dict[str, Any], content: bytes) -> int:
    """A file of tensors; bytes of its header."""
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content)
    return len(text)


def test_a_header_is_read_without_its_metadata_and_may_be_empty(tmp_path: Path) -> None:
    file = tmp_path / "f"
    written(file, {"__metadata__": {"by": "hand"}, "w": TWO}, bytes(8))
    assert read_header(file) == {"w": Stored("F32", (2, 1))}
    written(file, {}, b"")
    assert read_header(file) == {}


@pytest.mark.parametrize("more", [-1, 1])
def test_a_header_claims_all_that_the_file_has(more: int, tmp_path: Path) -> None:
    file = tmp_path / "f"
    length = written(file, {"w": TWO}, bytes(8 + more))
    size = 8 + length + 8
    with pytest.raises(
        AdapterError, match=f"has {size + more} bytes, but its header claims {size}"
    ):
        read_header(file)


def test_headers_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "f"
    length = written(file, {"v": TWO, "w": TWO}, bytes(8))
    for most, names, said in (
        (length, 2, ""),
        (length - 1, 2, f"a header of {length} bytes; at most {length - 1} are read"),
        (length, 1, r"holds 2 tensors; at most 1 are read"),
    ):
        monkeypatch.setattr(adapter_limits, "HEADER_BYTES", most)
        monkeypatch.setattr(adapter_limits, "TENSOR_COUNT", names)
        if said:
            with pytest.raises(AdapterError, match=said):
                read_header(file)
        else:
            assert set(read_header(file)) == {"v", "w"}


def test_a_model_may_have_four_times_the_numbers_of_its_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adapter_limits, "SLACK", 3)
    header = {"w": Stored("F32", (2, 1))}
    before, known = torch.get_rng_state(), torch.ones(())
    with bounded_build(Path("a"), header):
        torch.zeros(2, 3)
        torch.randn(5)
        known.expand(100).sum()  # made from another, which is no new number
    assert torch.equal(torch.get_rng_state(), before)
    for first, second in ((0, 12), (5, 7)):
        with bounded_build(Path("a"), header):
            torch.zeros(first)
            with pytest.raises(
                AdapterError, match="a: its settings ask for a model of more than 11"
            ):
                torch.zeros(second)

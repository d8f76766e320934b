"""Which blocks a text names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.errors import ConfigError
from petiole.methods.blocks import numbers, select


@pytest.mark.parametrize(
    ("blocks", "chosen"),
    [
        ("all", (0, 1, 2, 3, 4, 5)),
        ("every:1", (0, 1, 2, 3, 4, 5)),
        ("every:2", (0, 2, 4)),
        ("every:3+1", (1, 4)),
        ("every:4+5", (5,)),
        ("first:1", (0,)),
        ("first:6", (0, 1, 2, 3, 4, 5)),
        ("last:1", (5,)),
        ("last:6", (0, 1, 2, 3, 4, 5)),
        ("5,0,3,3", (0, 3, 5)),
        ("0", (0,)),
    ],
)
def test_blocks_are_named(blocks: str, chosen: tuple[int, ...]) -> None:
    assert numbers(blocks, 6) == chosen
    backbone: Any = SimpleNamespace(depth=6)
    assert select(blocks, backbone) == chosen


@pytest.mark.parametrize(
    "blocks",
    ["", "all:3", "every:0", "every:-1", "every:2+6", "first:0", "first:7", "last:0", "last:7", "6", "-1,2", "a", "1,", "0,,1", "3,12", "al", "last:", "first:1.5"],
)  # fmt: skip
def test_what_names_no_block_is_refused(blocks: str) -> None:
    with pytest.raises(
        ConfigError, match=r"does not name blocks of 0\.\.5.*first:k, last:k or a list"
    ):
        numbers(blocks, 6)


def test_a_backbone_without_blocks_says_so() -> None:
    none: Any = SimpleNamespace(depth=0, name="resnet")
    with pytest.raises(ConfigError, match=r"blocks of a transformer, and resnet has none"):
        select("all", none)


@settings(max_examples=50)
@given(st.text("alevryfistk:,-0123456789", max_size=12))
def test_any_text_selects_existing_blocks_or_is_refused(text: str) -> None:
    try:
        chosen = numbers(text, 6)
    except ConfigError:
        return
    assert chosen
    assert set(chosen) <= set(range(6))

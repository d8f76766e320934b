"""The claims behind step rules, unseen classes, attacks, test time and many tasks: each says how it was read and names what the library has."""

from __future__ import annotations

from importlib import import_module

import pytest

import petiole
from petiole.claims import table
from petiole.methods.registry import create
from petiole.methods.step_rules.base import STEP_RULES
from petiole.methods.test_time.base import TEST_TIME

ROWS = {row["name"]: row for row in table("follow-ups/statements", "readings")["rows"]}
REGISTRIES = {
    "method": create,
    "step_rule": STEP_RULES.find,
    "test_time": TEST_TIME.find,
    "backbone": lambda name: petiole.load(name, device="meta"),
    "protocol": lambda name: import_module(f"petiole.protocols.{name}"),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_claim_names_what_there_is_and_how_it_is_known(name: str) -> None:
    row = ROWS[name]
    assert REGISTRIES[row["of"]](name)
    assert row["known"] in ("code", "paper", "abstract", "digest", "title")
    assert row["known"] in ("code", "paper") or row["doubt"]
    assert row["states"]
    assert row["source"]


def test_every_way_to_adapt_at_test_time_has_its_claim() -> None:
    # The affine maps are a rival of LoRA-TTT's paper and claim nothing of their own.
    assert set(TEST_TIME.names()) - {"affine"} <= ROWS.keys()

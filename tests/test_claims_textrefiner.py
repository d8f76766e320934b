"""The claimed tables of prompt learning: complete, and consistent with themselves."""

from __future__ import annotations

from statistics import fmean

import pytest

from petiole.claims import names, table
from petiole.methods.registry import create
from petiole.metrics.harmonic import harmonic_mean

TABLE = table("textrefiner/base-to-novel", "base-to-novel")
ROWS = {row["name"]: row for row in TABLE["rows"]}


@pytest.mark.parametrize("name", ROWS)
def test_every_harmonic_mean_is_that_of_its_row(name: str) -> None:
    for place, (base, novel, hm) in ROWS[name]["claimed"].items():
        assert harmonic_mean(base, novel) == pytest.approx(hm, abs=0.021), place


@pytest.mark.parametrize("name", [name for name in ROWS if name != "llamp"])
def test_every_average_is_the_hm_of_averages(name: str) -> None:
    claimed = dict(ROWS[name]["claimed"])
    base, novel, hm = claimed.pop("average")
    assert set(claimed) == set(TABLE["data"])
    assert fmean(v[0] for v in claimed.values()) == pytest.approx(base, abs=0.011)
    assert fmean(v[1] for v in claimed.values()) == pytest.approx(novel, abs=0.011)
    assert harmonic_mean(base, novel) == pytest.approx(hm, abs=0.011)


def test_what_the_table_says_of_textrefiner() -> None:
    """What its table 1 says: far above CoOp on novel classes, hardly above zero-shot."""
    novel = {name: row["claimed"]["average"][1] for name, row in ROWS.items()}
    assert novel["coop+textrefiner"] - novel["coop"] == pytest.approx(11.10)
    assert novel["coop+textrefiner"] - novel["zero-shot"] == pytest.approx(0.10)


@pytest.mark.parametrize("kind", ["base-to-novel", "elsewhere"])
def test_every_row_names_a_method_or_why_not(kind: str) -> None:
    for name in names(kind):
        stated = table(name, kind)
        for row in stated["rows"]:
            assert ("method" in row) != ("missing" in row)
            assert set(row["claimed"]) - {"average"} <= set(stated["data"])
            if "method" in row:
                create(row["method"], row.get("settings", {}))
                for place, own in row.get("by_data", {}).items():
                    assert place in stated["data"]
                    create(row["method"], {**row.get("settings", {}), **own})

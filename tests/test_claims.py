"""Published tables as data: every row builds, and the numbers are those of CLS-Residual LoRA (Yong, 2026)."""

from __future__ import annotations

from pathlib import Path

import pytest

from petiole.claims import names, table
from petiole.errors import ConfigError
from petiole.methods.registry import create
from petiole.protocols.comparison import Comparison
from petiole.protocols.domain_shift import from_table, with_baselines

# The tables of Yong (2026), verbatim, in the order of the rows.
CLAIMED = {
    "cls-residual-lora/table1": [70.17, 78.10, 77.77, 77.61, 77.61, 78.87, None],
    "cls-residual-lora/table2": [70.17, 75.42, 78.10, 77.95, 77.63, 79.24, 78.87],
    "cls-residual-lora/table3": [None, 76.45, 78.92, 77.89, 79.34],
}


@pytest.mark.parametrize("name", names())
def test_every_row_is_a_method_and_the_baselines_stand_with_it(name: str) -> None:
    comparison = Comparison(**from_table(name), split_seeds=1, seeds=1, shots=10)
    for row in comparison.rows:
        create(row.method, row.settings)
    names = {row.name for row in comparison.rows}
    alone, joint = (
        {row.name for row in with_baselines(comparison.rows, source=source)} - names
        for source in (False, True)
    )
    assert alone == {"knn", "class-means", "logistic-regression", "ridge", "averaged-ridge"}
    assert joint - alone == {"logistic-regression-joint", "ridge-joint"}
    assert all(create(name).recipe.train_on == "joint" for name in joint - alone)


@pytest.mark.parametrize(("name", "claimed"), CLAIMED.items())
def test_claims_are_the_letters(name: str, claimed: list[float | None]) -> None:
    assert [row.get("claimed") for row in table(name)["rows"]] == claimed


def test_the_factorial_has_every_cell_once() -> None:
    rows = [r for r in table("cls-residual-lora/factorial")["rows"] if "head" in r["settings"]]
    cells = {
        tuple(r["settings"][part] for part in ("head", "lora", "adapter", "contrastive"))
        for r in rows
        if "post_norm" not in r["settings"]
    }
    assert len(cells) == 16


def test_an_unknown_table_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="cls-residual-lora/table1"):
        table("cls-residual-lora/tabel1")


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    with pytest.raises(ConfigError, match=r"mine\.toml"):
        table(str(file))
    file.write_text("title = 'mine'\nrows = []\n")
    with pytest.raises(ConfigError, match="baseline, reference, headline"):
        table(str(file))
    file.write_text(
        "title = 'mine'\nbaseline = 'a'\nreference = 'a'\nheadline = 'a'\n"
        "[[rows]]\nname = 'a'\nlabel = 'A'\nmethod = 'cosine'\n"
    )
    assert from_table(str(file))["rows"][0].method == "cosine"


def test_published_costs_are_the_letters_and_stand_in_the_comparison() -> None:
    second, third = (from_table(f"cls-residual-lora/table{i}")["claimed_costs"] for i in (2, 3))
    assert [second[row]["percent"] for row in ("linear-probe", "lora-qkv", "houlsby")] == [
        "<0.1",
        1.8,
        3.2,
    ]
    assert second["cls-residual-lora"] == {"percent": 1.1}
    assert third["cls-residual-lora"] == {"percent": 0.26, "gflops": 0.12}
    assert third["attention"] == {"percent": 2.14, "gflops": 18.42}


def test_houlsbys_adapters_start_near_zero_and_not_at_it() -> None:
    (row,) = (r for r in from_table("cls-residual-lora/table2")["rows"] if r.name == "houlsby")
    assert create(row.method, row.settings).init == "houlsby/houlsby"


@pytest.mark.parametrize("name", CLAIMED)
def test_published_rows_are_trained_as_when_the_tables_were_measured(name: str) -> None:
    """Defaults move on; a row of a published table keeps 3,000 joint steps of 8 + 4 images a class from a random start."""
    for row in table(name)["rows"]:
        recipe = create(row["method"], row["settings"]).recipe
        assert recipe.resolved(1000, 47).steps == 3000
        assert (recipe.optimizer, recipe.views, recipe.align_source) == ("adamw", 4, False)
        assert (recipe.source_per_class, recipe.target_per_class) == (8, 4)
        method = create(row["method"], row["settings"])
        assert getattr(method, "start", "random") == "random"

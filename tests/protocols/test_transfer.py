"""The transfer protocol: what a folder of cells is, on which terms it goes on, and what it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petiole.claims import table
from petiole.engine.record import read_record
from petiole.errors import ConfigError, DataError, RunError
from petiole.protocols import domain_shift
from petiole.protocols import transfer as protocol
from petiole.protocols.settled import Tuning
from petiole.protocols.transfer import Transfer, TransferCell, joined, plan
from petiole.tasks.classification.workspace import Classification

FOLDER = Path("out")


def write_images(root: Path, seed: int, per_class: int = 6) -> Path:
    rng = np.random.default_rng(seed)
    for label, name in enumerate(("ash", "birch")):
        (root / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = rng.integers(0, 120, (40, 40, 3), dtype=np.uint8)
            pixels[..., label] += 90
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("transfer")
    write_images(root / "leaves", 0)
    write_images(root / "stones", 1)
    return root


def cell(data: str = "leaves", backbone: str = "tiny-vit", **changes: Any) -> TransferCell:
    return TransferCell.of(
        data,
        backbone,
        replace(Classification("petiole/tiny-vit", Path(data)), **changes),
        FOLDER,
    )


def transfer(*cells: TransferCell, methods: tuple[str, ...] = (), **terms: Any) -> Transfer:
    fields: dict[str, Any] = {"seeds": 2, **terms}
    return plan(cells or [cell()], methods, **fields)


def kept(wanted: Transfer, folder: Path) -> Transfer:
    """Write a transfer as ``run`` does."""
    folder.mkdir(exist_ok=True)
    wanted.write(folder)
    return wanted


# --- what a transfer is ----------------------------------------------------------------------


def test_the_papers_rows_are_the_default() -> None:
    wanted = transfer()
    assert [(row.name, row.label) for row in wanted.rows] == [
        ("head-only", "Head only"),
        ("full", "Full fine-tuning"),
        ("adaptertune", "AdapterTune"),
    ]
    assert (wanted.reference, wanted.baseline) == ("adaptertune", "head-only")
    assert wanted.validation == 0.0, "nothing is chosen, so nothing is held back"


def test_the_first_row_is_the_reference_where_adaptertune_is_not_there() -> None:
    assert transfer(methods=("full", "head-only")).reference == "full"
    assert transfer(methods=("ridge", "adaptertune")).reference == "adaptertune"
    assert transfer(methods=("bitfit",)).baseline == "bitfit"


def test_tuning_gives_each_method_its_own_grid_and_holds_images_back() -> None:
    wanted = transfer(tuning=Tuning(0.2))
    grids = {row.name: row.grid for row in wanted.rows}
    assert set(grids["full"]) == set(grids["adaptertune"]) == {"lr"}
    assert grids["head-only"] == {}, "it tunes itself"
    assert max(grids["full"]["lr"]) < max(grids["adaptertune"]["lr"])
    assert wanted.validation == 0.2
    assert wanted.comparison(wanted.cells[0]).scored == "test"


def test_a_search_is_that_of_each_cell() -> None:
    wanted = transfer(tuning=Tuning(0.2, 4, ["rank=2,4"]), settings={"steps": 3})
    rows = {row.name: row for row in wanted.comparison(wanted.cells[0]).rows}
    assert [sorted(rows[name].ranges) for name in ("head-only", "full", "adaptertune")] == [
        [],
        ["lr"],
        ["lr", "rank"],
    ]
    assert not any(row.grid for row in rows.values())
    assert (wanted.comparison(wanted.cells[0]).trials, wanted.validation) == (4, 0.2)
    with pytest.raises(ConfigError, match="set already"):
        transfer(
            methods=("adaptertune",), tuning=Tuning(0.2, 4, ["rank=2,4"]), settings={"rank": 4}
        )


def test_a_cell_is_a_comparison_on_one_split_of_all_images() -> None:
    c = transfer(seeds=3).comparison(cell(), ["a note"])
    assert (c.split_seeds, c.seeds, c.shots, c.fraction) == (1, 3, None, 1.0)
    assert c.notes == ["a note"]
    assert c.title == "leaves on tiny-vit"


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"seeds": 0}, "seeds: Input should be greater than or equal to 1"),
        ({"tuning": Tuning(1.0)}, "validation: Input should be less than 1"),
        ({"methods": ("full", "full")}, "a row is named twice: full"),
        ({"methods": ("ful",)}, "Did you mean full"),
        ({"cells": [cell(), cell()]}, "leaves/tiny-vit is named twice"),
        ({"cells": []}, "cells: List should have at least 1 item"),
    ],
)
def test_what_cannot_be_is_said(terms: dict[str, Any], message: str) -> None:
    fields: dict[str, Any] = {"seeds": 2, "methods": (), **terms}
    with pytest.raises(ConfigError, match=message):
        plan(fields.pop("cells", [cell()]), fields.pop("methods"), **fields)


def test_claims_are_the_abstracts_and_carry_their_doubt() -> None:
    # The abstract's (arXiv 2603.14706): the only published results of the transfer suite that were reachable.
    claims = {claim["against"]: claim for claim in table(protocol.PAPER)["claims"]}
    assert claims["head-only"]["gain"] == 14.9
    assert (claims["full"]["wins"], claims["full"]["pairs"]) == (10, 15)
    assert all(claim["source"] == "abstract" and claim["doubt"] for claim in claims.values())
    rows = domain_shift.from_table(protocol.PAPER)
    assert rows["claims"] == {}, "no accuracy of a row is known"


# --- what a folder holds ---------------------------------------------------------------------


def test_cells_are_added_and_kept(tmp_path: Path) -> None:
    old = kept(transfer(cell("leaves")), tmp_path)
    new = transfer(cell("stones"), cell("leaves", "other"))
    both = joined(new, tmp_path, resume=True)
    names = ["leaves/tiny-vit", "stones/tiny-vit", "leaves/other"]
    assert [c.name for c in both.cells] == names
    assert joined(old, tmp_path, resume=True) == old
    assert joined(new, tmp_path / "elsewhere") == new


def test_a_folder_is_not_gone_on_with_unless_asked(tmp_path: Path) -> None:
    kept(transfer(), tmp_path)
    with pytest.raises(RunError, match=r"already holds a transfer\. Add --resume"):
        joined(transfer(cell("stones")), tmp_path)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        (transfer(seeds=3), "seeds: 2 -> 3)"),
        (
            transfer(methods=("head-only", "adaptertune")),
            "rows: ['head-only', 'full', 'adaptertune'] ->",
        ),
        (transfer(tuning=Tuning()), "settings of a row; validation: 0.0 -> 0.25)"),
        (transfer(settings={"steps": 3}), "settings: {} -> {'steps': 3})"),
        (transfer(cell(precision="bf16")), "leaves/tiny-vit differs)"),
        (transfer(cell(images=Path("other/leaves"))), "leaves/tiny-vit differs)"),
        (transfer(cell(test_fraction=0.4)), "leaves/tiny-vit differs)"),
        (transfer(cell(skip_bad=True)), "leaves/tiny-vit differs)"),
        (transfer(cell(weights=Path("w.safetensors"))), "leaves/tiny-vit differs)"),
    ],
)
def test_other_terms_are_refused_and_named(tmp_path: Path, changed: Transfer, word: str) -> None:
    kept(transfer(), tmp_path)
    with pytest.raises(RunError, match=rf"holds another transfer \({re.escape(word)}"):
        joined(changed, tmp_path, resume=True)


def test_what_decides_no_result_may_change(tmp_path: Path) -> None:
    kept(transfer(), tmp_path)
    other = transfer(cell(quiet=True, cache=Path("elsewhere"), checkpointing=True))
    joined(other, tmp_path, resume=True)


def test_a_transfer_may_move_with_the_tables_in_it() -> None:
    places = (Path("a/out"), Path("b"))
    terms = [
        TransferCell.of(
            "pets", "v", Classification("v", place / "pets" / "images.csv"), place
        ).terms
        for place in places
    ]
    assert terms[0] == terms[1]
    assert terms[0]["images"] == "pets/images.csv"


def test_a_folder_without_one_and_a_damaged_one_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"{tmp_path.name} holds no transfer"):
        Transfer.read(tmp_path)
    kept(transfer(), tmp_path)
    assert Transfer.read(tmp_path) == transfer()
    file = tmp_path / protocol.TRANSFER
    file.write_text(file.read_text()[:-9])
    with pytest.raises(RunError, match=r"transfer\.json is damaged"):
        Transfer.read(tmp_path)


# --- running ---------------------------------------------------------------------------------


def test_cells_run_on_one_split_for_all_methods_and_seeds(images: Path, tmp_path: Path) -> None:
    benches = {
        f"{data}/tiny-vit": Classification(
            "petiole/tiny-vit", images / data, cache=tmp_path / "cache", quiet=True
        )
        for data in ("leaves", "stones")
    }
    cells = [TransferCell.of(*name.split("/"), bench, tmp_path) for name, bench in benches.items()]
    settings = {"steps": 2, "views": 0, "batch_size": 4}
    wanted = transfer(*cells, methods=("linear-probe", "class-means"), settings=settings)
    leaves, stones = wanted.cells
    only = {leaves.name: benches[leaves.name]}
    protocol.run(wanted, only, tmp_path / "out", quiet=True)
    assert wanted.done(tmp_path / "out", leaves)
    assert not wanted.done(tmp_path / "out", stones)
    assert Transfer.read(tmp_path / "out") == wanted

    made = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("record.json")}
    assert len(made) == 4
    protocol.run(wanted, benches, tmp_path / "out", resume=True, quiet=True)
    assert all(f.stat().st_mtime_ns == at for f, at in made.items())
    for one in wanted.cells:
        records = [
            read_record(f.parent) for f in (tmp_path / "out" / one.name).rglob("record.json")
        ]
        assert len(records) == 4
        cards = [record.request.data for record in records]
        assert len({(card.digests["train"], card.digests["test"]) for card in cards}) == 1
        assert {card.shots for card in cards} == {None}
        assert {record.request.seed for record in records} == {0, 1}
        assert {record.test_evaluations for record in records} == {1}


def test_a_tuned_cell_chooses_on_validation_and_opens_the_test_set_once(
    images: Path, tmp_path: Path
) -> None:
    bench = Classification(
        "petiole/tiny-vit", images / "leaves", cache=tmp_path / "cache", quiet=True
    )
    wanted = transfer(
        *(TransferCell.of("leaves", "tiny-vit", bench, tmp_path),),
        methods=("linear-probe",),
        settings={"steps": 2, "views": 0},
        seeds=1,
    )
    [row] = wanted.rows
    grid = {"lr": [1e-5, 1e-1]}
    changes = {"rows": [row.model_copy(update={"grid": grid})], "validation": 0.34}
    wanted = Transfer.model_validate({**wanted.model_dump(), **changes})
    protocol.run(wanted, {"leaves/tiny-vit": bench}, tmp_path / "out", quiet=True)
    place = tmp_path / "out" / "leaves" / "tiny-vit"
    trials = [read_record(f.parent) for f in sorted((place / "tuning").rglob("record.json"))]
    assert [r.test_evaluations for r in trials] == [0] * 4  # two rates, two folds
    assert {r.request.data.samples["validation"] for r in trials} == {2}
    [final] = [read_record(f.parent) for f in (place / "runs").rglob("record.json")]
    assert final.test_evaluations == 1
    assert final.request.data.samples == {"train": 6, "test": 6}
    losses = {
        rate: sum(r.main["nll"] for r in trials if r.request.settings["lr"] == rate)
        for rate in grid["lr"]
    }
    assert final.request.settings["lr"] == min(losses, key=losses.__getitem__)


def test_a_source_domain_is_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "pair" / "synthetic", 2)
    write_images(tmp_path / "pair" / "real_train", 3)
    write_images(tmp_path / "pair" / "real_eval", 4)
    bench = Classification("petiole/tiny-vit", tmp_path / "pair", quiet=True)
    wanted = transfer(TransferCell.of("pair", "v", bench, tmp_path))
    with pytest.raises(DataError, match="pair: has images of a source domain"):
        protocol.jobs_of(wanted, wanted.cells[0], bench, tmp_path / "out")


def test_a_refused_command_leaves_no_trace(images: Path, tmp_path: Path) -> None:
    bench = Classification("petiole/tiny-vit", images / "leaves", quiet=True)
    wanted = transfer(TransferCell.of("leaves", "v", bench, tmp_path), settings={"ranc": 3})
    with pytest.raises(ConfigError, match="ranc"):
        protocol.run(wanted, {"leaves/v": bench}, tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()

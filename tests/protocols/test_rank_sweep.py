"""The rank sweep on tiny images: what varies, what does not, resuming, refusing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petiole.engine.executor import Local
from petiole.engine.model_card import read_kept
from petiole.engine.record import RECORD, TEST_EVALUATIONS, read_record
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, RunError
from petiole.ledger import Ledger
from petiole.protocols import rank_sweep
from petiole.protocols.rank_sweep import RankSweep, place
from petiole.tasks.classification import spectrum
from petiole.tasks.classification.spectrum import SPECTRUM, ShiftSpectrum
from petiole.tasks.classification.workspace import Classification

SETTINGS = {"steps": 2, "views": 0, "batch_size": 4, "blocks": "last:1"}


def wanted(**changes: Any) -> RankSweep:
    terms = {"ranks": [1, 3], "fractions": [0.5, 1.0], "seeds": 2, "validation": 0.25}
    settings = changes.pop("settings", SETTINGS)
    return rank_sweep.plan(changes.pop("method", "adaptertune"), settings, **{**terms, **changes})


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Classification:
    """Two classes by brightness, 24 images each, a sixth of them held back."""
    root = tmp_path_factory.mktemp("sweep")
    rng = np.random.default_rng(0)
    for label, level in (("dark", 60), ("light", 180)):
        (root / "photos" / label).mkdir(parents=True)
        for i in range(24):
            pixels = np.clip(level + rng.normal(0, 25, (40, 40, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / "photos" / label / f"{i}.png")
    cache = root / "cache"
    return Classification(
        "petiole/tiny-vit", root / "photos", test_fraction=1 / 6, cache=cache, quiet=True
    )


@pytest.fixture(scope="module")
def done(bench: Classification, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep."""
    folder = tmp_path_factory.mktemp("done") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectrum, "TOKENS", 1)
        rank_sweep.run(wanted(), bench, folder, quiet=True)
    return folder


def runs(folder: Path, fraction: float, rank: int) -> list[Path]:
    return wanted().comparison(fraction).runs(place(folder, fraction), f"r{rank}")


def test_every_rank_sees_the_same_images(done: Path) -> None:
    for fraction in (0.5, 1.0):
        for a, b in zip(runs(done, fraction, 1), runs(done, fraction, 3), strict=True):
            one, other = read_record(a).request, read_record(b).request
            assert one.data == other.data
            assert one.seed == other.seed
            assert (one.settings["rank"], other.settings["rank"]) == (1, 3)


def test_all_runs_are_scored_on_the_same_validation_images(done: Path) -> None:
    records = [read_record(r) for f in (0.5, 1.0) for k in (1, 3) for r in runs(done, f, k)]
    assert len({record.request.data.digests["validation"] for record in records}) == 1
    assert {record.request.data.samples["validation"] for record in records} == {10}
    assert {record.request.data.samples["train"] for record in records} == {15 * 2, 8 * 2}


def test_the_test_set_stays_closed(done: Path) -> None:
    assert not list(done.rglob(TEST_EVALUATIONS))
    assert {read_record(r).test_evaluations for r in runs(done, 1.0, 3)} == {0}


def test_a_seed_is_another_draw_and_another_start(done: Path) -> None:
    parts = [read_record(r).request for r in runs(done, 0.5, 1)]
    assert [p.seed for p in parts] == [0, 1]
    assert [p.data.split_seed for p in parts] == [0, 1]
    assert parts[0].data.digests["train"] != parts[1].data.digests["train"]
    whole = [read_record(r).request for r in runs(done, 1.0, 1)]
    assert [p.seed for p in whole] == [0, 1]
    assert whole[0].data.digests["train"] == whole[1].data.digests["train"]


def test_a_smaller_share_is_part_of_a_larger_one(done: Path) -> None:
    def ids(fraction: float) -> set[str]:
        lines = (runs(done, fraction, 1)[0] / "split.csv").read_text().splitlines()
        return {line.split(",")[3] for line in lines if line.startswith("train,")}

    assert ids(0.5) < ids(1.0)


def test_the_shift_of_the_highest_rank_on_all_images_is_measured(done: Path) -> None:
    got = read_kept(done / SPECTRUM, ShiftSpectrum, "")
    assert got.teacher == "adaptertune, rank 3"
    assert got.images == 30
    # The last block's adapter alone: nothing beyond its rank.
    assert [b.role for b in got.blocks] == ["block.3.out"]
    assert got.blocks[0].values[3] < 1e-3 * got.blocks[0].values[0]


class Dying:
    """An executor that stops after a few runs."""

    places = 1

    def __init__(self, after: int) -> None:
        self.left = after

    def map(self, work: Any, jobs: Sequence[Any]) -> Any:
        for job in jobs:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= isinstance(job, RunSpec)
            yield work(job)


def test_an_interrupted_sweep_resumes_to_the_same_numbers(
    bench: Classification, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectrum, "TOKENS", 1)
    folder = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        rank_sweep.run(wanted(), bench, folder, executor=Dying(5), quiet=True)
    finished = sorted(folder.rglob(RECORD))
    assert len(finished) == 5
    times = [f.stat().st_mtime_ns for f in finished]
    rank_sweep.run(wanted(), bench, folder, executor=Local(), resume=True, quiet=True)
    assert [f.stat().st_mtime_ns for f in finished] == times
    for fraction in (0.5, 1.0):
        for rank in (1, 3):
            for a, b in zip(runs(folder, fraction, rank), runs(done, fraction, rank), strict=True):
                assert read_record(a).scores == read_record(b).scores
    assert (folder / SPECTRUM).read_text() == (done / SPECTRUM).read_text()


def test_a_finished_folder_needs_resume_and_the_same_terms(
    bench: Classification, done: Path
) -> None:
    with pytest.raises(RunError, match="--resume"):
        rank_sweep.run(wanted(), bench, done, quiet=True)
    for change in ({"ranks": [1, 2]}, {"fractions": [1.0]}, {"seeds": 3}, {"settings": {}}):
        with pytest.raises(RunError, match=f"another sweep \\({next(iter(change))}: "):
            rank_sweep.run(wanted(**change), bench, done, resume=True, quiet=True)


def test_a_method_without_rank_is_refused_and_others_are_named() -> None:
    """linear-probe has the field, but nothing of that size."""
    with pytest.raises(ConfigError, match=r"linear-probe has no rank.*adaptertune.*lora-qkv") as e:
        wanted(method="linear-probe", settings={})
    named = str(e.value).partition("Methods with one")[2]
    assert "linear-probe" not in named
    assert "head-only" not in named


def test_an_unknown_method_or_setting_is_refused() -> None:
    with pytest.raises(ConfigError, match="adaptertune"):
        wanted(method="adaptertunes")
    with pytest.raises(ConfigError, match="stepz"):
        wanted(settings={"stepz": 1})
    with pytest.raises(ConfigError, match="--values"):
        wanted(settings={"rank": 4})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ranks": [4]}, "at least 2"),
        ({"ranks": [0, 4]}, "of at least 1"),
        ({"ranks": [4, 4]}, "at least 2"),
        ({"fractions": [0.0, 1.0]}, "fractions lie"),
        ({"fractions": [0.5, 1.5]}, "fractions lie"),
        ({"fractions": []}, "at least 1"),
        ({"seeds": 1}, "seeds"),
        ({"validation": 0.0}, "validation"),
    ],
)
def test_values_out_of_range_are_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        wanted(**change)


def test_order_does_not_matter() -> None:
    assert wanted(ranks=[3, 1], fractions=[1.0, 0.5]) == wanted()


def test_a_damaged_or_missing_sweep_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no sweep"):
        RankSweep.read(tmp_path)
    (tmp_path / "sweep.json").write_text(json.dumps({"method": 3}))
    with pytest.raises(RunError, match="damaged"):
        RankSweep.read(tmp_path)


def test_more_rank_is_more_parameters(done: Path) -> None:
    ledgers: list[Ledger] = [read_record(runs(done, 1.0, k)[0]).ledger for k in (1, 3)]
    assert ledgers[1].adapters - ledgers[0].adapters == 2 * (2 * 192 + 1)  # 2 d r + r + d

"""The domain-shift protocol on tiny images: equal terms, resuming, refusing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petiole.engine.executor import Local
from petiole.engine.record import read_record
from petiole.errors import ConfigError, RunError
from petiole.protocols import domain_shift
from petiole.protocols.comparison import Comparison
from petiole.tasks.classification.predictions import read_predictions
from petiole.tasks.classification.workspace import Classification

SETTINGS = {"steps": 4, "views": 0}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes by brightness; the target is darker and noisier."""
    root = tmp_path_factory.mktemp("shift")
    rng = np.random.default_rng(0)
    for part, count, gain in (("synthetic", 6, 1.0), ("real_train", 5, 0.6), ("real_eval", 8, 0.6)):
        for label, level in (("dark", 60), ("light", 180)):
            (root / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(gain * level + rng.normal(0, 25, (40, 40, 3)), 0, 255)
                Image.fromarray(pixels.astype(np.uint8)).save(root / part / label / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def bench(images: Path) -> Classification:
    return Classification("petiole/tiny-vit", images, cache=images / "cache", quiet=True)


def comparison(**changes: object) -> Comparison:
    rows = domain_shift.rows_of(["cls-residual-lora", "source-only", "class-means"])
    fields = {
        "title": "t",
        "rows": rows,
        "split_seeds": 2,
        "seeds": 1,
        "shots": 3,
        "reference": "cls-residual-lora",
        "baseline": "source-only",
        "headline": "cls-residual-lora",
    }
    return Comparison(**{**fields, **changes})  # type: ignore[arg-type]


def do(c: Comparison, bench: Classification, folder: Path, *, resume: bool = False) -> None:
    jobs = domain_shift.jobs_of(c, bench, folder, SETTINGS, resume=resume)
    domain_shift.compare(c, jobs, folder, executor=Local(), resume=resume, quiet=True)


@pytest.fixture(scope="module")
def done(bench: Classification) -> Path:
    """The folder of a comparison that was done, and then asked for once more."""
    out: Path = bench.images / "out"  # type: ignore[operator]
    do(comparison(), bench, out)
    do(comparison(), bench, out, resume=True)
    return out


def test_rows_share_draws_and_test_images(done: Path) -> None:
    c = comparison()
    cards = [[read_record(p).request.data for p in c.runs(done, r)] for r in c.rows]
    for split_seed in range(2):
        assert len({row[split_seed].digests["train"] for row in cards}) == 1
    assert cards[0][0].digests["train"] != cards[0][1].digests["train"]
    assert len({card.digests["test"] for row in cards for card in row}) == 1
    ids = {tuple(read_predictions(p).ids) for r in c.rows for p in c.runs(done, r)}
    assert len(ids) == 1


def test_every_run_opened_the_test_set_once(done: Path) -> None:
    c = comparison()
    for row in c.rows:
        for place in c.runs(done, row):
            assert read_record(place).test_evaluations == 1
            assert len((place / "test_evaluations.jsonl").read_text().splitlines()) == 1


def test_settings_reach_only_rows_that_have_them() -> None:
    jobs = domain_shift.jobs_of(
        comparison(),
        Classification("petiole/tiny-vit", Path("x")),
        Path("out"),
        {"rank": 2, "steps": 1},
    )
    by_method = {job.method: job.settings for job in jobs}
    assert by_method["cls-residual-lora"]["rank"] == 2
    assert "rank" not in by_method["class-means"]


def test_a_setting_out_of_range_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"steps=.*greater than or equal to 0"):
        domain_shift.jobs_of(
            comparison(),
            Classification("petiole/tiny-vit", Path("x")),
            Path("out"),
            {"steps": -1},
        )


def test_a_setting_that_no_row_has_is_refused() -> None:
    with pytest.raises(ConfigError, match="ranc"):
        domain_shift.jobs_of(
            comparison(),
            Classification("petiole/tiny-vit", Path("x")),
            Path("out"),
            {"ranc": 1},
        )


def test_another_comparison_in_the_folder_is_refused(bench: Classification, done: Path) -> None:
    with pytest.raises(RunError, match="--resume"):
        do(comparison(), bench, done)
    with pytest.raises(RunError, match="another comparison"):
        do(comparison(split_seeds=3), bench, done, resume=True)

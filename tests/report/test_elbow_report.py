"""The elbow report on constructed sweeps: numbers, words, files and picture."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console, Group

from petiole.engine.record import LOG, RECORD, read_record
from petiole.errors import RunError
from petiole.files import sealed, sha256, write_sealed
from petiole.protocols.rank_sweep import RankSweep, place
from petiole.report.elbow import ElbowSummary, summarise, to_dict
from petiole.report.elbow_words import legend, sentences, to_markdown, to_rich, write
from petiole.tasks.classification.spectrum import SPECTRUM, BlockSpectrum, ShiftSpectrum

RANKS = [1, 4, 16]
RIGHT = {  # images of 60 that each of three seeds gets right
    0.1: {1: (30, 31, 32), 4: (36, 37, 38), 16: (33, 34, 35)},
    1.0: {1: (30, 31, 32), 4: (40, 41, 42), 16: (50, 51, 52)},
}


def first(count: int) -> NDArray[np.bool_]:
    """The first so many of 60 images right."""
    return np.arange(60) < count


def spectrum() -> ShiftSpectrum:
    blocks = [
        BlockSpectrum(role=f"block.{i}.out", values=values, noise=0.01, gradient=[3.0, 1.0, 0.0])
        for i, values in enumerate(([0.9, 0.3, 0.1], [0.7, 0.3, 0.1]))
    ]
    return ShiftSpectrum(
        teacher="adaptertune, rank 16", width=192, images=100, tokens=2600, blocks=blocks
    )


@pytest.fixture
def folder(build, tmp_path: Path) -> Path:  # type: ignore[no-untyped-def]
    root = tmp_path / "sweep"
    sweep = RankSweep(
        method="adaptertune", ranks=RANKS, fractions=[0.1, 1.0], seeds=3, validation=0.25
    )
    test = build.test()
    for fraction, by_rank in RIGHT.items():
        comparison = sweep.comparison(fraction)
        where = place(root, fraction)
        comparison.write(where)
        for rank, counts in by_rank.items():
            for run, right in zip(comparison.runs(where, f"r{rank}"), counts, strict=True):
                build.run(run, first(right), method="adaptertune", trainable=100 * rank, test=test)
    sweep.write(root)
    write_sealed(root / SPECTRUM, spectrum().model_dump(mode="json"))
    return root


@pytest.fixture
def summary(folder: Path) -> ElbowSummary:
    return summarise(folder)


def test_numbers_are_those_of_the_records(summary: ElbowSummary) -> None:
    small, whole = summary.fractions
    assert (summary.method, summary.ranks, summary.seeds, summary.images) == (
        *("adaptertune", RANKS),
        *(3, 60),
    )
    assert summary.trainable == [100, 400, 1600]
    for f in summary.fractions:
        for rank, interval, error in zip(RANKS, f.accuracies, f.errors, strict=True):
            values = np.array(RIGHT[f.fraction][rank]) / 60
            assert interval.mean == pytest.approx(values.mean())
            assert interval.sd == pytest.approx(1 / 60)
            by_image = np.mean([first(n) for n in RIGHT[f.fraction][rank]], axis=0)
            assert error**2 == pytest.approx((1 / 60) ** 2 / 3 + by_image.var(ddof=1) / 60)
    assert (small.one_se, small.best, small.marginal) == (4, 4, 4)
    assert (whole.one_se, whole.best, whole.marginal) == (16, 16, None)
    assert small.kneedle == 4
    assert whole.kneedle is None
    # Three seeds agree, but sixty images are few.
    assert (small.trend.verdict, small.trend.after, small.trend.at) == ("cannot tell", 4, 16)
    assert small.trend.fall == pytest.approx(3 / 60)
    assert whole.trend.verdict == "monotone"


def test_predictions_are_the_spectrum_s(summary: ElbowSummary) -> None:
    assert summary.shift is not None
    pooled = np.sqrt([(0.81 + 0.49) / 2, 0.09, 0.01])
    for f in summary.fractions:
        assert f.predicted is not None
        n = f.images
        assert n == 330  # what the records say
        assert f.predicted.threshold == (pooled**2 > 2 * 192 * 0.01 / n).sum()
        assert f.predicted.threshold_tokens == (pooled**2 > 2 * 192 * 0.01 / (26 * n)).sum()
        assert len(f.predicted.bound) == 16
        r1 = (pooled[1:] ** 2).sum() + 0.01 * (2 * 192 - 1) / n
        assert f.predicted.bound[0] == pytest.approx(r1 / (pooled**2).sum())
    assert summary.shift.energy == 2
    assert summary.shift.gradient == 1
    assert not summary.shift.enough
    assert [b[:3] for b in summary.shift.blocks] == [("block.0.out", 2, 1), ("block.1.out", 2, 1)]


def test_the_elbow_of_this_sweep_grows(summary: ElbowSummary) -> None:
    assert summary.growth is not None
    verdict, share = summary.growth
    assert verdict == "grows"
    assert share > 0.95
    assert "should grow with n: it does." in sentences(summary)[-1]
    assert "4 (n = 330) and 16 (n = 330)" in sentences(summary)[-1]


def test_the_sentence_says_what_to_set(summary: ElbowSummary) -> None:
    said = sentences(summary)[0]
    assert "Set rank=16" in said
    assert "85.0 ± 1.7 %" in said
    assert "sweep larger ones too" in said
    small = replace(summary, fractions=summary.fractions[:1], growth=None)
    assert "Set rank=4" in sentences(small)[0]
    assert "400 trained parameters; no other rank has a higher mean" in sentences(small)[0]
    near = replace(small.fractions[0], best=16)
    said = sentences(replace(small, fractions=[near]))[0]
    assert "within one standard error of the best, rank 16" in said
    assert "400 trained parameters instead of 1,600" in said


def test_the_sentences_say_whether_more_rank_hurts(summary: ElbowSummary) -> None:
    told = [
        replace(f, trend=replace(f.trend, verdict=verdict))
        for f, verdict in zip(summary.fractions, ("falls", "monotone"), strict=True)
    ]
    text = " ".join(sentences(replace(summary, fractions=told)))
    assert "At 10 % of the images accuracy falls after rank 4: by 5.0 points to rank 16" in text
    assert "At 100 % of the images accuracy does not fall with rank" in text
    trend = replace(summary.fractions[0].trend, verdict="cannot tell", width=0.04, open=0.09)
    doubtful = replace(summary.fractions[0], trend=trend)
    text = " ".join(sentences(replace(summary, fractions=[doubtful, summary.whole])))
    assert (
        "the largest fall seen is 5.0 points, and 3 seeds on 60 images leave one of up to 9.0 points"
        in text
    )


def test_an_elbow_at_the_end_of_the_grid_decides_no_growth(summary: ElbowSummary) -> None:
    whole = summary.whole
    same = replace(summary, fractions=[whole, whole], growth=("cannot tell", 0.0))
    assert "the largest rank is the elbow already at the least n" in sentences(same)[-1]


def test_a_thin_probe_is_admitted(summary: ElbowSummary) -> None:
    assert "fewer than the 20 for each dimension" in legend(summary)
    assert summary.shift is not None
    sound = replace(summary, shift=replace(summary.shift, enough=True))
    assert "fewer" not in legend(sound)


def test_the_markdown_has_every_cell(summary: ElbowSummary) -> None:
    text = to_markdown(summary)
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if "|" in line]
    assert ["Rank", "Trained", "10 %, n = 330", "100 %, n = 330"] in rows
    assert ["4", "400", "61.7 ± 1.7 *", "68.3 ± 1.7"] in rows
    assert ["marginal gain", "4", "every step pays"] in rows
    assert ["accuracy with rank", "cannot tell", "monotone"] in rows
    assert ["predicted: 90 % energy of the shift", "2", "2"] in rows
    assert "](elbow.png)" in text


def test_without_a_spectrum_nothing_is_predicted(folder: Path) -> None:
    (folder / SPECTRUM).unlink()
    bare = summarise(folder)
    assert bare.shift is None
    assert "predicted" not in to_markdown(bare)
    write(bare, folder)
    with Image.open(folder / "elbow.png") as picture:
        narrow = picture.size
    assert narrow[0] < 900


def test_files_are_written_and_repeat_bit_by_bit(summary: ElbowSummary, folder: Path) -> None:
    write(summary, folder)
    names = ("elbow.md", "elbow.json", "elbow.png")
    before = [(folder / name).read_bytes() for name in names]
    write(summarise(folder), folder)
    assert [(folder / name).read_bytes() for name in names] == before
    stored = json.loads(before[1])
    assert stored["fractions"][0]["one_se"] == 4
    assert stored == json.loads(json.dumps(to_dict(summary)))


def test_the_terminal_shows_both_tables(summary: ElbowSummary) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(Group(*to_rich(summary)))
    text = console.export_text()
    assert "61.7 ± 1.7 *" in text
    assert "one-SE" in text


def test_missing_runs_are_named(folder: Path) -> None:
    (place(folder, 0.1) / "runs" / "r4" / "split-1-seed-0" / "record.json").unlink()
    with pytest.raises(RunError, match="r4/split-1-seed-0"):
        summarise(folder)


def test_nothing_is_advised_where_nothing_was_learned(folder: Path) -> None:
    for run in (place(folder, 1.0) / "runs").glob("*/*"):
        steps = [{"step": s, "loss": 3.0 - 0.01 * s, "lr": 1e-3} for s in range(0, 200, 10)]
        (run / LOG).write_text("".join(json.dumps(sealed(s)) + "\n" for s in steps))
        record = read_record(run)
        files = {**record.files, LOG: sha256(run / LOG)}
        changed = record.model_copy(update={"files": files})
        write_sealed(run / RECORD, changed.model_dump(mode="json"))
    falling = summarise(folder)
    assert "loss still falls at the last step (rank 1, 4 and 16)" in falling.whole.untrained
    assert sentences(falling)[0].startswith("No rank can be advised: the loss still falls")
    assert "nothing can be said: the loss still falls" in sentences(falling)[3]
    assert falling.growth is not None
    assert falling.growth[0] == "cannot tell"
    assert "Set rank" not in to_markdown(falling)


def test_accuracy_at_chance_advises_nothing(build, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    root = tmp_path / "chance"
    sweep = RankSweep(method="adaptertune", ranks=[1, 2], fractions=[1.0], seeds=3, validation=0.25)
    test, comparison = build.test(), sweep.comparison(1.0)
    comparison.write(place(root, 1.0))
    for row in ("r1", "r2"):
        for run in comparison.runs(place(root, 1.0), row):
            build.run(run, first(20), method="adaptertune", test=test)
    sweep.write(root)
    assert "commonest class (33.3 % of the images)" in sentences(summarise(root))[0]
    assert "ruled out" not in to_markdown(summarise(root))


def test_two_seeds_advise_nothing(summary: ElbowSummary) -> None:
    assert "2 seeds are too few" in sentences(replace(summary, seeds=2))[0]

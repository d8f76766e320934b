"""A comparison as numbers: one row a method, with intervals, paired tests and verdicts.

The split seed (a draw of the training images) is the unit of a result: its seeds are averaged first. Differences
are tested by the paired t test over split seeds, Holm-adjusted over the rows of the table; the verdict is that of
``metrics.paired.verdict`` on the adjusted p and the bootstrap interval over splits and images. With one split
McNemar's test over the images takes the place of the t test, and speaks of these trained models only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from petiole.metrics.classification import uneven
from petiole.metrics.statistics import (
    Interval,
    Paired,
    Verdict,
    bootstrap_interval,
    hierarchical_interval,
    holm,
    paired_by_image,
    paired_by_seed,
    t_interval,
    verdict,
)
from petiole.protocols.comparison import Comparison
from petiole.report.runs import Floats, Results, RowRuns, read_results

SEED = 0  # of the bootstraps: equal records give equal tables


@dataclass(frozen=True)
class PairedContrast:
    """A row minus another one, paired; differences are fractions, as accuracies are.

    Attributes:
        by_split: paired t test over split seeds; ``None`` with one.
        by_image: paired test over images (McNemar's with one run).
        both: bootstrap interval of the difference over splits and images.
        p: Holm-adjusted p of the headline test.
        verdict: as above.
    """

    by_split: Paired | None
    by_image: Paired
    both: Interval
    p: float
    verdict: Verdict

    @property
    def headline(self) -> Paired:
        """The test that the verdict starts from: over splits where there are several."""
        return self.by_split or self.by_image


@dataclass(frozen=True)
class SummaryRow:
    """One row of the table; accuracies, ``ece`` and their intervals are fractions.

    Attributes:
        name, label, method: as in the comparison.
        accuracy: micro accuracy with the bootstrap interval over splits and images (over images
            with one split); ``sd`` is over splits.
        over_splits: micro accuracy with the t interval over splits.
        by_split: micro accuracy by split seed.
        macro: macro accuracy with the t interval over splits.
        ece: mean expected calibration error.
        trainable: trained parameters.
        inference: those of them that are kept for prediction.
        percent_of_backbone_and_trainable: trained parameters in per cent of the backbone's plus
            the trained ones.
        stored_bytes: size of the adapter's file of tensors.
        flops_forward: of one image, from the pixels to the logits.
        flops_training: of one image in a training step above the cut, forward and backward; 0
            where nothing is trained by gradient.
        peak_memory_mb: median over runs of the largest memory while training.
        seconds: median time of training, s.
        gain: this row minus the baseline row; ``None`` for the baseline itself.
        versus: this row minus the reference row; ``None`` for the reference itself.
        published: published accuracy in per cent.
        published_costs: as printed there: ``percent`` of trained parameters, ``gflops``.
    """

    name: str
    label: str
    method: str
    accuracy: Interval
    over_splits: Interval
    by_split: list[float]
    macro: Interval
    ece: float
    trainable: int
    inference: int
    percent_of_backbone_and_trainable: float
    stored_bytes: int
    flops_forward: int
    flops_training: int
    peak_memory_mb: float
    seconds: float
    gain: PairedContrast | None
    versus: PairedContrast | None
    published: float | None
    published_costs: dict[str, float | str]


@dataclass(frozen=True)
class ComparisonSummary:
    """The table.

    Attributes:
        title: of the comparison.
        rows: in the comparison's order.
        split_seeds, seeds: runs of a row.
        shots: target images of each class; ``None`` for all.
        images: test images.
        reference, baseline, headline: names of rows.
        margin: within which a difference does not matter, a fraction.
        uneven: whether the test images of the classes are, so that their mean accuracy comes first.
    """

    title: str
    rows: list[SummaryRow]
    split_seeds: int
    seeds: int
    shots: int | None
    images: int
    reference: str
    baseline: str
    headline: str
    margin: float
    uneven: bool = False

    def row(self, name: str) -> SummaryRow:
        """Return the row called ``name``."""
        return next(row for row in self.rows if row.name == name)


def summarise(folder: Path) -> ComparisonSummary:
    """Compute the table of a comparison folder from its records.

    Raises:
        RunError: a run is missing, damaged, or was tested on other images.
    """
    return summarise_results(read_results(folder))


def summarise_results(results: Results) -> ComparisonSummary:
    """Compute the table of runs that are already read."""
    c = results.comparison
    gains = _contrasts(results, c.baseline)
    versus = _contrasts(results, c.reference)
    return ComparisonSummary(
        title=c.title,
        rows=[
            _row(row, gains.get(name), versus.get(name), c)
            for row in results.rows
            for name in [row.row.name]
        ],
        split_seeds=c.split_seeds,
        seeds=c.seeds,
        shots=c.shots,
        images=len(results.runs[0].labels),
        reference=c.reference,
        baseline=c.baseline,
        headline=c.headline,
        margin=c.margin,
        uneven=uneven(results.runs[0].labels),
    )


def _row(
    runs: RowRuns,
    gain: PairedContrast | None,
    versus: PairedContrast | None,
    comparison: Comparison,
) -> SummaryRow:
    ledger = runs.runs[0].record.ledger
    by_split = runs.correct_by_split.mean(axis=1)
    return SummaryRow(
        name=runs.row.name,
        label=runs.row.label,
        method=runs.row.method,
        accuracy=over_splits_and_images(runs.correct_by_split),
        over_splits=t_interval(by_split),
        by_split=by_split.tolist(),
        macro=t_interval(runs.by_split(lambda r: r.main["macro_accuracy"])),
        ece=float(runs.by_split(lambda r: r.main["ece"]).mean()),
        trainable=ledger.trainable,
        inference=ledger.inference,
        percent_of_backbone_and_trainable=ledger.trainable_percent_of_backbone_and_trainable,
        stored_bytes=runs.runs[0].record.costs.adapter_bytes,
        flops_forward=ledger.flops_forward,
        flops_training=ledger.flops_training,
        peak_memory_mb=runs.median(lambda r: r.costs.peak_memory_mb),
        seconds=runs.median(lambda r: r.costs.train_seconds),
        gain=gain,
        versus=versus,
        published=comparison.claims.get(runs.row.name),
        published_costs=comparison.claimed_costs.get(runs.row.name, {}),
    )


def over_splits_and_images(values: Floats) -> Interval:
    """Interval of the mean of ``values`` (splits, images): over both, or over images for one split."""
    if len(values) == 1:
        return bootstrap_interval(values[0], seed=SEED)
    return hierarchical_interval(values, seed=SEED)


def _contrasts(results: Results, against: str) -> dict[str, PairedContrast]:
    """Every other row minus the row ``against``, by name, Holm-adjusted together."""
    other = results.row(against)
    rows = [row for row in results.rows if row.row.name != against]
    tests, margin = [_tests(row, other) for row in rows], results.comparison.margin
    adjusted = holm([(by_split or by_image).p for by_split, by_image, _ in tests])
    return {
        row.row.name: PairedContrast(*test, p, verdict(test[2].low, test[2].high, p, margin))
        for row, test, p in zip(rows, tests, adjusted, strict=True)
    }


def _tests(a: RowRuns, b: RowRuns) -> tuple[Paired | None, Paired, Interval]:
    mine, theirs = a.correct_by_split, b.correct_by_split
    by_split = paired_by_seed(mine.mean(axis=1), theirs.mean(axis=1)) if a.split_seeds > 1 else None
    by_image = paired_by_image(a.correct, b.correct, seed=SEED)
    return by_split, by_image, over_splits_and_images(mine - theirs)

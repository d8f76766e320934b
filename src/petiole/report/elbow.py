"""The elbow of a sweep: accuracy by rank and share of the images, every rule, and what to do.

The rules are those of ``petiole.metrics.elbow``. Every error is over seeds and validation images;
how sure the headline rule is of its rank is told by drawing both anew. Fewer than three seeds, accuracy at chance, and
training that was not done decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from petiole.engine.model_card import read_kept
from petiole.metrics import elbow as rules
from petiole.metrics.elbow import Curve, Growth, Trend
from petiole.metrics.statistics import Interval, t_interval
from petiole.metrics.training_curve import still_falls
from petiole.protocols.rank_sweep import RankSweep, place
from petiole.report.formatting import join
from petiole.report.runs import Results, read_results
from petiole.tasks.classification.spectrum import SPECTRUM, ShiftSpectrum

SEEDS = 3
"""Fewer say nothing: two cannot tell what they share from what they are."""


@dataclass(frozen=True)
class SpectrumPrediction:
    """What a shift's spectrum says for one number of training images.

    Attributes:
        threshold: r* with n the images.
        threshold_tokens: the same with n all of their tokens, as if these were independent; the truth
            lies between.
        bound: excess-risk bound for r = 1, 2, ... up to the largest rank of the sweep, with n the
            images, as a share of no adaptation at all.
    """

    threshold: int
    threshold_tokens: int
    bound: list[float]


@dataclass(frozen=True)
class FractionElbow:
    """One share of the training images.

    Attributes:
        fraction: the share.
        images: training images.
        accuracies: by rank, a fraction with sd and t interval over seeds.
        errors: standard errors over seeds, by rank.
        best: rank of the highest mean.
        one_se: the headline.
        likely: ranks between which 95 % of the resampled headlines lie.
        marginal, kneedle: the other measured rules; ``None`` where they find nothing.
        trend: whether accuracy falls anywhere with rank.
        predicted: ``None`` without a spectrum.
        untrained: why its runs say nothing of rank; empty where they do.
    """

    fraction: float
    images: int
    accuracies: list[Interval]
    errors: list[float]
    best: int
    one_se: int
    likely: tuple[int, int]
    marginal: int | None
    kneedle: int | None
    trend: Trend
    predicted: SpectrumPrediction | None
    untrained: str = ""


@dataclass(frozen=True)
class SpectrumSummary:
    """The spectrum, in short.

    Attributes:
        teacher: whose shift it is.
        images, tokens: of the probe.
        enough: whether there were 20 d tokens.
        energy: r at 90 % of the energy, all blocks together.
        gradient: the same of the first gradient.
        blocks: role, energy rank, gradient rank and tau^2 of each block.
    """

    teacher: str
    images: int
    tokens: int
    enough: bool
    energy: int
    gradient: int
    blocks: list[tuple[str, int, int, float]]


@dataclass(frozen=True)
class ElbowSummary:
    """A sweep as numbers.

    Attributes:
        method: that was swept.
        ranks: rising.
        trainable: parameters trained, by rank.
        seeds: runs of each cell.
        images: validation images.
        fractions: rising.
        growth: whether the elbow is larger on all images than on the smallest share, and in what share of
            the resamples it is; ``None`` with one share.
        shift: ``None`` where the method moves no tokens.
    """

    method: str
    ranks: list[int]
    trainable: list[int]
    seeds: int
    images: int
    fractions: list[FractionElbow]
    growth: tuple[Growth, float] | None
    shift: SpectrumSummary | None

    @property
    def whole(self) -> FractionElbow:
        """The largest share."""
        return self.fractions[-1]

    @property
    def silent(self) -> str:
        """Why nothing is advised; empty where a rank may be."""
        if self.seeds < SEEDS:
            return f"{self.seeds} seeds are too few to tell ranks from chance. Sweep with --seeds {SEEDS} or more"
        return self.whole.untrained

    def trained(self, rank: int) -> int:
        """Parameters trained at a rank."""
        return self.trainable[self.ranks.index(rank)]


def summarise(folder: Path) -> ElbowSummary:
    """Compute the elbows of a sweep folder from its runs' records.

    Raises:
        RunError: no sweep, or runs that are missing, damaged or scored on different images.
    """
    sweep = RankSweep.read(folder)
    results = [read_results(place(folder, fraction)) for fraction in sweep.fractions]
    correct = np.stack([[row.correct for row in one.rows] for one in results])
    resampled = rules.resampled_elbows(sweep.ranks, correct)
    spectrum = _spectrum(folder)
    fractions = [
        _fraction(sweep, fraction, one, elbows, spectrum)
        for fraction, one, elbows in zip(sweep.fractions, results, resampled, strict=True)
    ]
    return ElbowSummary(
        method=sweep.method,
        ranks=sweep.ranks,
        trainable=[row.runs[0].record.ledger.trainable for row in results[0].rows],
        seeds=sweep.seeds,
        images=correct.shape[-1],
        fractions=fractions,
        growth=_growth(resampled, sweep, fractions) if len(results) > 1 else None,
        shift=_shift(spectrum) if spectrum else None,
    )


def _spectrum(folder: Path) -> ShiftSpectrum | None:
    file = folder / SPECTRUM
    remedy = "Delete it, and repeat the command with --resume."
    return read_kept(file, ShiftSpectrum, remedy) if file.exists() else None


def _growth(
    resampled: NDArray[np.int64], sweep: RankSweep, fractions: Sequence[FractionElbow]
) -> tuple[Growth, float]:
    verdict, share = rules.growth(resampled, sweep.ranks[-1])
    silent = sweep.seeds < SEEDS or any(f.untrained for f in fractions)
    return ("cannot tell" if silent else verdict), share


def _fraction(
    sweep: RankSweep,
    fraction: float,
    results: Results,
    elbows: NDArray[np.int64],
    spectrum: ShiftSpectrum | None,
) -> FractionElbow:
    ranks, correct = sweep.ranks, np.stack([row.correct for row in results.rows])
    accuracies = correct.mean(axis=2)
    curve = Curve(tuple(ranks), accuracies, correct.mean(axis=1))
    untrained, trend = _untrained(results, curve), rules.trend(curve)
    if untrained or sweep.seeds < SEEDS:
        trend = replace(trend, verdict="cannot tell")
    images = results.runs[0].record.request.data.samples["train"]
    low, high = np.quantile(elbows, [0.025, 0.975], method="inverted_cdf")
    return FractionElbow(
        fraction=fraction,
        images=images,
        accuracies=[t_interval(values) for values in accuracies],
        errors=curve.error.tolist(),
        best=curve.best,
        one_se=rules.one_se(curve),
        likely=(int(low), int(high)),
        marginal=rules.marginal(curve),
        kneedle=rules.kneedle(curve),
        trend=trend,
        untrained=untrained,
        predicted=_predicted(spectrum, images, ranks) if spectrum else None,
    )


def _untrained(results: Results, curve: Curve) -> str:
    """Why these runs cannot show what a rank is good for; empty where they can."""
    labels = results.runs[0].labels
    chance = float(np.bincount(labels).max()) / len(labels)
    best = int(curve.mean.argmax())
    if curve.mean[best] - 2 * curve.error[best] <= chance:
        return (
            f"no rank is told from always saying the commonest class ({100 * chance:.1f} % of the images). Train "
            "longer or at another rate, or hold back more images"
        )
    falling = [
        rank
        for rank, row in zip(curve.ranks, results.rows, strict=True)
        if np.mean([still_falls([line["loss"] for line in run.log]) for run in row.runs]) > 0.5
    ]
    if falling:
        ranks = join([str(rank) for rank in falling])
        return f"the loss still falls at the last step (rank {ranks}), so more training may change the order. Raise steps"
    return ""


def _predicted(spectrum: ShiftSpectrum, images: int, ranks: Sequence[int]) -> SpectrumPrediction:
    terms = spectrum.values, spectrum.width, spectrum.noise
    none, *bound = rules.excess_risk(*terms, images, range(max(ranks) + 1)).total.tolist()
    return SpectrumPrediction(
        threshold=rules.threshold_rank(*terms, images),
        threshold_tokens=rules.threshold_rank(*terms, images * spectrum.tokens_per_image),
        bound=[value / none for value in bound],
    )


def _shift(spectrum: ShiftSpectrum) -> SpectrumSummary:
    return SpectrumSummary(
        teacher=spectrum.teacher,
        images=spectrum.images,
        tokens=spectrum.tokens,
        enough=spectrum.enough,
        energy=rules.energy_rank(spectrum.values),
        gradient=rules.energy_rank(spectrum.gradient),
        blocks=[
            (b.role, rules.energy_rank(b.values), rules.energy_rank(b.gradient), b.noise)
            for b in spectrum.blocks
        ],
    )


def to_dict(summary: ElbowSummary) -> dict[str, Any]:
    """Return all numbers unrounded, accuracies as fractions."""
    return asdict(summary)

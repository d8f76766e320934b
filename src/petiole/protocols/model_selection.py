"""``method="auto"``: the smallest adapter that left-out target images speak for.

It starts at the averaged ridge, which needs no training, and compares candidates on target images that each had
not seen, whole parts of one or a few images of every class at a time. A candidate takes the place of what is chosen
so far only where its log-loss (at the temperature that suits it best) is lower beyond the noise and it is right as
often; with fewer than three images a class nothing can show that, so the start is kept. Candidates that need training
are tried while the budget lasts. Test images are never looked at.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from pydantic import Field

from petiole.engine.executor import Executor
from petiole.engine.model_card import FrozenModel
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, DataError
from petiole.metrics.calibration import temperature
from petiole.metrics.intervals import Interval, t_interval
from petiole.tasks.classification.cost_estimate import seconds_of
from petiole.tasks.classification.left_out import left_out
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.task import ClassificationRun
from petiole.tasks.classification.workspace import ClassificationWorkspace

START = "averaged-ridge"
YARDSTICK = "class-means"
"""Tells whether fitting gains anything. It is not chosen: where its log-loss was lower, it was right less often."""
FREE = (YARDSTICK, "zero-shot")
"""Need no training, and say whether any is worth it."""
TRAINED = ("cls-residual-lora", "lora-qkv")
"""From the cheapest on."""
UNFIT = "it does not fit this backbone"
LEAST_SHOTS = 3
FOLDS = 5
FORECAST_FROM = 70
"""Target images; from fewer, a forecast misses by 8 to 14 points."""
HALVING = 0.84
"""err(2k) / err(k): exponent 0.25, the middle of what 18 domain shifts gave."""


class Candidate(FrozenModel):
    """A method on left-out target images.

    Attributes:
        accuracy, low, high: share that is right, with its 95 % interval over images.
        log_loss: mean, at its best temperature.
        gain: by which that is lower than the start's; with ``gain_low``, the lower bound of its 95 % interval.
        seconds: that the fits took.
    """

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    accuracy: float
    low: float
    high: float
    log_loss: float
    gain: float = 0.0
    gain_low: float = 0.0
    seconds: float


class Choice(FrozenModel):
    """What was chosen, and why.

    Attributes:
        candidates: those compared, the start first; empty where nothing could be left out.
        untried: method -> why it was not tried.
        images: target images that judged.
        forecast: accuracy with twice the images, where there are enough of them to say.
        reason: one sentence.
    """

    method: str
    settings: dict[str, Any] = Field(default_factory=dict)
    candidates: list[Candidate] = Field(default_factory=list)
    untried: dict[str, str] = Field(default_factory=dict)
    images: int
    forecast: float | None = None
    reason: str

    def lines(self) -> list[str]:
        """For people, a line each: the reason first."""
        found = [self.reason]
        for one in self.candidates:
            between = f"[{100 * one.low:.1f}, {100 * one.high:.1f}]"
            found.append(
                f"{one.method}: {100 * one.accuracy:.1f} % {between} of {self.images} left-out target images, log-loss "
                f"{one.log_loss:.3f}"
            )
        found += [f"{method}: not tried, {why}" for method, why in self.untried.items()]
        if self.forecast is not None:
            found.append(
                f"twice as many labelled images: about {100 * self.forecast:.0f} % (give or take 8 points, 80 %)"
            )
        return found


@dataclass(frozen=True)
class Judged:
    """Log-losses and hits (n,) of left-out images."""

    losses: NDArray[np.float64]
    hits: NDArray[np.float64]
    seconds: float

    @property
    def accuracy(self) -> Interval:
        """Share of right answers, over images."""
        return t_interval(self.hits)


def select_method(
    workspace: ClassificationWorkspace,
    spec: RunSpec,
    *,
    budget: float = 0.0,
    trained: Sequence[str] = TRAINED,
    executor: Executor | None = None,
) -> Choice:
    """Choose a method for the training images of a run.

    Args:
        workspace: opened.
        spec: of the run; its method is not looked at.
        budget: minutes for methods that are trained.
        trained: their names, in the order in which they are tried.
        executor: where they are trained without each part of the images; by default here.

    Raises:
        DataError: no target images.
    """
    labels = _target_labels(workspace, spec)
    counts = np.bincount(labels)
    few = int(counts[counts > 0].min())
    start = judge(workspace, spec, START)
    if start is None:
        fitting = [m for m in (*FREE, *trained) if _built(workspace, spec, m)]
        alone = f"no image can be left out of {START}, so there is nothing to set it against"
        untried = {**dict.fromkeys(trained, UNFIT), **dict.fromkeys(fitting, alone)}
        return Choice(
            method=START,
            untried=untried,
            images=len(labels),
            reason=f"{START}, because one target image a class leaves nothing to compare on.",
        )
    choosing = _Choosing(start, few)
    for method in FREE:
        choosing.consider(method, judge(workspace, spec, method))
    spent = 0.0
    for method in trained:
        if few < LEAST_SHOTS:  # nothing is timed for nothing
            choosing.untried[method] = (
                f"fewer than {LEAST_SHOTS} images a class cannot show that it is better"
            )
            continue
        minutes = _minutes(workspace, spec, method)
        if minutes is None:
            choosing.untried[method] = UNFIT
        elif spent + minutes > budget:
            choosing.untried[method] = (
                f"about {minutes:.1f} min to try (--budget {spent + minutes:.1f})"
            )
        else:
            judged = judge(workspace, spec, method, executor)
            choosing.consider(method, judged)
            spent += judged.seconds / 60 if judged else 0.0
    return choosing.choice(len(labels))


class _Choosing:
    """Candidates so far; a later one must beat what stands."""

    def __init__(self, start: Judged, shots: int) -> None:
        self.start, self.best, self.shots = start, start, shots
        self.method = START
        self.candidates = [_candidate(START, start, start)]
        self.untried: dict[str, str] = {}

    def consider(self, method: str, judged: Judged | None) -> None:
        if judged is None:
            return
        self.candidates.append(_candidate(method, judged, self.start))
        gain = t_interval(self.best.losses - judged.losses)
        as_right = judged.hits.mean() >= self.best.hits.mean()
        enough = self.shots >= LEAST_SHOTS and method != YARDSTICK
        if enough and gain.low > 0 and as_right:
            self.method, self.best = method, judged

    def choice(self, images: int) -> Choice:
        accuracy = float(self.best.hits.mean())
        enough = images >= FORECAST_FROM
        return Choice(
            method=self.method,
            candidates=self.candidates,
            untried=self.untried,
            images=images,
            forecast=1 - HALVING * (1 - accuracy) if enough else None,
            reason=self._reason(),
        )

    def _reason(self) -> str:
        others = [c for c in self.candidates if c.method != START]
        if self.method != START:
            won = next(c for c in others if c.method == self.method)
            free = "; nothing need be trained" if self.method in FREE else ""
            return (
                f"{self.method}: on left-out target images its log-loss is lower than {START}'s by {won.gain:.3f} "
                f"(at least {won.gain_low:.3f}) and it is right as often{free}."
            )
        if self.shots < LEAST_SHOTS:
            return f"{START}: fewer than {LEAST_SHOTS} target images a class cannot show that another is better."
        if not others:
            return f"{START}: nothing else was tried."
        return f"{START}: no other method that was tried is better on left-out target images beyond the noise."


def _candidate(method: str, judged: Judged, start: Judged) -> Candidate:
    hits, gain = judged.accuracy, t_interval(start.losses - judged.losses)
    return Candidate(
        method=method,
        accuracy=hits.mean,
        low=max(0.0, hits.low),
        high=min(1.0, hits.high),
        log_loss=float(judged.losses.mean()),
        gain=gain.mean,
        gain_low=gain.low,
        seconds=judged.seconds,
    )


def _target_labels(workspace: ClassificationWorkspace, spec: RunSpec) -> NDArray[np.int64]:
    data, _ = workspace.parts(spec.options)
    labels: NDArray[np.int64] = data.labels[
        np.array([domain == "target" for domain in data.domains], dtype=bool)
    ]
    if not len(labels):
        raise DataError(
            "--method auto chooses on target images, and there are none. Name a method."
        )
    return labels


def _built(
    workspace: ClassificationWorkspace, spec: RunSpec, method: str
) -> tuple[ClassificationRun, AdaptedClassifier] | None:
    """A method as it starts; ``None`` where it does not fit the backbone."""
    run = ClassificationRun(workspace, replace(spec, method=method, settings={}))
    try:
        return run, run.build()
    except ConfigError:
        return None


def judge(
    workspace: ClassificationWorkspace,
    spec: RunSpec,
    method: str,
    executor: Executor | None = None,
) -> Judged | None:
    """A method on left-out target images of a run; ``None`` where the method does not fit the backbone, or nothing can be left out."""
    began = time.perf_counter()
    built = _built(workspace, spec, method)
    found = built and left_out(*built, FOLDS, executor)
    if found is None:
        return None
    logits, labels = found.logits.double().numpy(), found.labels.numpy()
    scaled = logits / temperature(logits, labels)
    rows = np.arange(len(labels))
    losses = scipy.special.logsumexp(scaled, axis=1) - scaled[rows, labels]
    hits = (logits.argmax(1) == labels).astype(np.float64)
    return Judged(losses, hits, time.perf_counter() - began)


def _minutes(workspace: ClassificationWorkspace, spec: RunSpec, method: str) -> float | None:
    """What leaving each part out takes; ``None`` where the method does not fit the backbone."""
    if (built := _built(workspace, spec, method)) is None:
        return None
    frozen, training = seconds_of(workspace, built[0].spec)
    return (frozen + FOLDS * training) / 60

"""Settings searched by Optuna on validation only, where a grid would be too coarse.

As in ``tuning``, the validation images are held back from the training images, another share of them in every fold, and the test
set stays closed. Trials are asked for four at a time, whatever the executor, so that every place tries the same; the first is
the row's own settings. After each fold a trial ends whose log-loss on the images judged so far is higher than the best
trial's beyond the noise: the rule by which ``--method auto`` tells methods apart (the 95 % t interval of the paired differences).
The trial of the least mean log-loss over all folds wins.

    tuning/<row>/<trial>/fold-<i>/      the run folders of each trial
    tuning/optuna.jsonl                 Optuna's journal, unless another storage was named

The sampler is Optuna's TPE (Bergstra et al., NeurIPS 2011). It is seeded anew for each trial and setting, so what is tried
follows from the trials before it alone: a search that was killed goes on to the same numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import numpy as np
from numpy.typing import NDArray

from petiole.engine.record import read_record
from petiole.engine.run import RunSpec
from petiole.errors import ConfigError, boundary
from petiole.files import text_digest
from petiole.methods.registry import create, create_stated, settings_of
from petiole.metrics.intervals import t_interval
from petiole.protocols.comparison import Comparison
from petiole.protocols.jobs import Running, run_jobs
from petiole.protocols.protocol import ComparisonRow, applicable
from petiole.protocols.search_space import parse_ranges, ranges_of
from petiole.protocols.tuning import fold_folder, folds_of, trial_spec
from petiole.tasks.classification.predictions import read_predictions

if TYPE_CHECKING:
    import optuna

ROUND = 4
JOURNAL = "optuna.jsonl"


@dataclass
class Candidate:
    """A trial, its settings and what it lost on each image of the folds so far; ``trial`` is None where Optuna knows its result."""

    number: int
    trial: optuna.Trial | None
    settings: dict[str, Any]
    losses: list[NDArray[np.float64]] = field(default_factory=list)
    pruned: bool = False

    @property
    def mean(self) -> float:
        """Mean over the folds of their mean log-losses."""
        return float(np.mean([fold.mean() for fold in self.losses]))


@dataclass(frozen=True)
class Searched:
    """What a search chose for a row."""

    settings: dict[str, Any]
    note: str


def forecast(comparison: Comparison, jobs: Sequence[RunSpec], folder: Path) -> list[RunSpec]:
    """Runs as costly as those of all searches, if no trial ends early."""
    return [
        trial_spec(comparison, jobs, folder, row, trial, fold, {})
        for row in comparison.rows
        if row.ranges
        for trial in range(comparison.trials)
        for fold in range(folds_of(comparison))
    ]


def with_ranges(
    rows: Sequence[ComparisonRow], settings: Mapping[str, Any], given: Sequence[str]
) -> list[ComparisonRow]:
    """Give every row the ranges of its method and those of ``given`` that it has.

    Args:
        rows: of a comparison.
        settings: for every row whose method has them, which are not searched then.
        given: as ``parse_ranges`` takes it.

    Raises:
        ConfigError: a range of a setting that no row has, or whose ends a method refuses.
    """
    added, found = parse_ranges(given), []
    for row in rows:
        stated = {**applicable(row.method, settings), **row.settings}
        ranges = ranges_of(row.method, stated, added)
        found.append(row.model_copy(update={"ranges": ranges}))
    for name, one in added.items():
        if not any(name in row.ranges for row in found):
            create_stated(rows[0].method, {name: one.ends[0]})  # tells the nearest name
            raise ConfigError(f"--range {name}: its value is set already (--set). Leave one out.")
    return found


def search(
    comparison: Comparison,
    jobs: Sequence[RunSpec],
    folder: Path,
    storage: str | None = None,
    **running: Unpack[Running],
) -> dict[str, Searched]:
    """Search the settings of every row that has ranges.

    Args:
        comparison: its rows may have ranges.
        jobs: of the comparison, row by row.
        folder: of the comparison.
        storage: URL of an Optuna storage; by default a journal in the folder.
        running: how the runs are done.

    Raises:
        ConfigError: Optuna is not installed, or the storage cannot be used.
    """
    opened = _storage(storage, folder)
    found = {}
    for row in comparison.rows:
        if row.ranges:
            one = _Search(comparison, jobs, folder, row, running)
            found[row.name] = one.run(opened)
    return found


def _storage(url: str | None, folder: Path) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "--trials needs the library Optuna. Run `pip install 'petiole[optuna]'`."
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if url:
        with boundary(
            url,
            "Name an Optuna storage, such as sqlite:///study.db.",
            ConfigError,
            what="cannot be used",
        ):
            return optuna.storages.get_storage(url)
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    place = folder / "tuning"
    place.mkdir(parents=True, exist_ok=True)
    with boundary(place / JOURNAL, "Delete it: finished trials are kept beside it.", ConfigError):
        return JournalStorage(JournalFileBackend(str(place / JOURNAL)))


class _Search:
    """The search for one row."""

    def __init__(
        self,
        comparison: Comparison,
        jobs: Sequence[RunSpec],
        folder: Path,
        row: ComparisonRow,
        running: Running,
    ) -> None:
        self.comparison, self.jobs, self.folder, self.row = comparison, jobs, folder, row
        self.running: Running = {**running, "resume": True}  # of trials that were under way
        self.best: Candidate | None = None
        self.done: list[Candidate] = []

    def run(self, storage: Any) -> Searched:
        study = self._study(storage)
        for first in range(0, self.comparison.trials, ROUND):
            numbers = range(first, min(first + ROUND, self.comparison.trials))
            self._round(study, [self._candidate(study, number) for number in numbers])
        assert self.best is not None
        pruned = sum(one.pruned for one in self.done)
        chosen = ", ".join(
            f"{k}={v:.3g}" if isinstance(v, float) else f"{k}={v}"
            for k, v in self.best.settings.items()
        )
        listed = "; ".join(f"{name} {one}" for name, one in self.row.ranges.items())
        note = (
            f"{self.row.label}: {chosen} of ({listed}) by mean log-loss of {folds_of(self.comparison)} folds, the best of "
            f"{len(self.done)} trials by Optuna, of which {pruned} ended early."
        )
        return Searched(self.best.settings, note)

    def _study(self, storage: Any) -> optuna.Study:
        import optuna

        terms = f"{self.folder.resolve()}\n{self.comparison.model_copy(update={'notes': []}).model_dump_json()}"
        name = f"petiole-{self.row.name}-{text_digest(terms)[:12]}"
        study = optuna.create_study(study_name=name, storage=storage, load_if_exists=True)
        if not study.get_trials(deepcopy=False) and (own := self._own()):
            study.enqueue_trial(own, skip_if_exists=True)
        return study

    def _own(self) -> dict[str, Any]:
        """The row's own settings, as a trial, if all are within the ranges."""
        known = settings_of(create(self.row.method, dict(self._spec(0, 0, {}).settings)))
        own = {name: one.taking(known[name]) for name, one in self.row.ranges.items()}
        return {} if None in own.values() else own

    def _spec(self, trial: int, fold: int, settings: Mapping[str, Any]) -> RunSpec:
        spec = trial_spec(self.comparison, self.jobs, self.folder, self.row, trial, fold, settings)
        return replace(spec, resume=True)

    def _candidate(self, study: optuna.Study, number: int) -> Candidate:
        """The trial of a number: asked for, or taken up again."""
        import optuna

        trials = study.get_trials(deepcopy=False)
        known = trials[number] if number < len(trials) else None
        if known and known.state.is_finished():
            return Candidate(number, None, dict(known.params))
        began = known is not None and known.state == optuna.trial.TrialState.RUNNING
        trial = optuna.trial.Trial(study, known._trial_id) if known and began else study.ask()
        for name, one in self.row.ranges.items():
            seed = int(text_digest(f"{trial.number} {name}")[:8], 16)
            study.sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
            one.suggest(trial, name)  # what it was before, where it began before
        return Candidate(trial.number, trial, dict(trial.params))

    def _round(self, study: optuna.Study, candidates: Sequence[Candidate]) -> None:
        """Try candidates fold by fold, end those that are worse beyond the noise, and tell Optuna."""
        for fold in range(folds_of(self.comparison)):
            live = [one for one in candidates if not one.pruned]
            specs = [self._spec(one.number, fold, one.settings) for one in live]
            run_jobs(specs, f"search {self.row.name}, fold {fold}", **self.running)
            for one in live:
                one.losses.append(self._losses(one.number, fold))
            rivals = [*live, *([self.best] if self.best else [])]
            best = min(
                rivals, key=lambda one: float(np.mean([f.mean() for f in one.losses[: fold + 1]]))
            )
            for one in live:
                one.pruned = one is not best and _worse(one.losses, best.losses[: fold + 1])
        for one in candidates:
            self.done.append(one)
            if not one.pruned and (self.best is None or one.mean < self.best.mean):
                self.best = one
            self._tell(study, one)

    def _tell(self, study: optuna.Study, one: Candidate) -> None:
        from optuna.trial import TrialState

        if one.trial is None:
            return
        reported = study.get_trials(deepcopy=False)[one.number].intermediate_values
        for fold, losses in enumerate(one.losses[len(reported) :], start=len(reported)):
            one.trial.report(float(losses.mean()), fold)
        if one.pruned:
            study.tell(one.trial, state=TrialState.PRUNED)
        else:
            study.tell(one.trial, one.mean)

    def _losses(self, trial: int, fold: int) -> NDArray[np.float64]:
        """Log-losses (n,) of the validation images of a fold."""
        place = fold_folder(self.folder, self.row, trial, fold)
        read_record(place)  # its files are whole
        found = read_predictions(place)
        right = found.probabilities[range(len(found.labels)), found.labels].double()
        losses: NDArray[np.float64] = -right.clamp_min(1e-12).log().numpy()
        return losses


def _worse(losses: Sequence[NDArray[np.float64]], best: Sequence[NDArray[np.float64]]) -> bool:
    """Whether log-losses of the same images are higher beyond the noise."""
    differences = np.concatenate(losses) - np.concatenate(best)
    return len(differences) > 1 and t_interval(differences).low > 0

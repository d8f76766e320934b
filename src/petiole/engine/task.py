"""What differs between photos, texts about images, and questions over a codebook: a task.

    Task         what is opened: data and backbone, small and plain, so that it can be sent to another process
    Workspace    both of them opened, for any number of runs
    TaskRun      one method on them: what ``engine.run`` asks for, in its order

A kind of task is a package that registers itself with ``@kind(...)``; its modules are imported when the kind is used.
Third parties register a module under the entry point ``petiole.tasks``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar, cast, runtime_checkable

from petiole.engine.share import WHOLE, Share
from petiole.errors import unknown

if TYPE_CHECKING:
    import torch

    from petiole.engine.adapter import Adapter
    from petiole.engine.model_card import ModelCard
    from petiole.engine.record import DataCard
    from petiole.engine.run import RunSpec
    from petiole.engine.trainer import Callbacks
    from petiole.ledger import Ledger
    from petiole.methods.base import Method

W = TypeVar("W", bound="Workspace")
Scores = dict[str, dict[str, float]]
"""Table (test set, task or language model) -> metric -> value; the headline metric first."""


@dataclass(frozen=True)
class Task(ABC, Generic[W]):
    """Data and backbone, not yet opened. Subclasses add what they need to find both.

    Attributes:
        kind: name of the task's kind.
        quiet: no progress; tasks that differ in it alone share a workspace.
    """

    kind: ClassVar[str]
    quiet: bool = field(default=False, compare=False, kw_only=True)

    @abstractmethod
    def open(self) -> W:
        """Open both.

        Raises:
            PetioleError: what cannot be opened, by name.
        """

    def data_digest(self) -> str:
        """SHA-256 (hex) of the data, which default names of run folders begin with; empty for names without it."""
        return ""


class Workspace(ABC):
    """Data and backbone, opened.

    Attributes:
        task: what was opened.
    """

    task: Task[Any]

    @abstractmethod
    def describe(self, specs: Sequence[RunSpec]) -> list[str]:
        """What runs on it will do and cost, a line each; notes begin with ``note``.

        Raises:
            ConfigError: an unknown method or setting.
        """

    def store(self, specs: Sequence[RunSpec], share: Share = WHOLE) -> None:  # noqa: B027 - opening may store it already
        """Keep what these runs read of the frozen half, of the images of a share; it is computed ahead of them, once.

        Raises:
            PetioleError: bad images, an unknown method or setting, or a cache that cannot be written.
        """

    @abstractmethod
    def prepare(self, spec: RunSpec) -> TaskRun:
        """One run on them.

        Raises:
            ConfigError: the method or an option is not for this task.
            DataError: nothing to learn, or to score.
        """


class TaskRun(ABC):
    """One method on opened data.

    Attributes:
        method: with its settings.
        selection: which of the models that training passes through is kept.
        files: patterns of what it leaves in the folder.
    """

    method: Method
    selection: str = "last step"
    files: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where it is trained."""

    @property
    def scores_together(self) -> bool:
        """Whether scoring takes all processes that train together, because none has the whole network."""
        return False

    @property
    def feature_seconds(self) -> float:
        """Spent on the frozen half so far."""
        return 0.0

    @abstractmethod
    def backbone(self) -> ModelCard:
        """What is adapted."""

    @abstractmethod
    def data(self) -> DataCard:
        """What it is trained and scored on."""

    def options(self) -> Mapping[str, Any]:
        """What else decides the result."""
        return {}

    def begin(self, folder: Path) -> None:  # noqa: B027 - most have nothing to write
        """Write what must lie in the folder before anything depends on it."""

    @abstractmethod
    def build(self) -> Any:
        """The backbone with fresh layers, drawn from torch's generator."""

    @abstractmethod
    def train(self, adapted: Any, callbacks: Callbacks) -> float:
        """Train in place; returns the seconds that it took."""

    def training_flops(self, adapted: Any, ledger: Ledger, callbacks: Callbacks) -> float | None:  # noqa: ARG002
        """FLOPs of the steps that this process took, as the ledger counts them; ``None`` where it does not know them."""
        return None

    @abstractmethod
    def evaluate(self, adapted: Any, folder: Path) -> Scores:
        """Score what is held back, once, and leave the predictions in the folder."""

    @abstractmethod
    def adapter(self, adapted: Any) -> Adapter:
        """Describe the trained model as a file."""

    def finish(self, adapted: Any, folder: Path) -> Mapping[str, Any]:  # noqa: ARG002
        """Whatever else the record shall hold."""
        return {}


@dataclass(frozen=True)
class ScoredSet:
    """What an adapter reached on a set.

    Attributes:
        name: of the set.
        scores: metric -> value, the headline first.
        samples: how many were scored.
        digest: SHA-256 (hex) of the set.
        notes: on the data.
        images: SHA-256 (hex) of each, so that those that were trained on can be told.
    """

    name: str
    scores: dict[str, float]
    samples: int
    digest: str
    notes: tuple[str, ...] = ()
    images: tuple[str, ...] = ()


@runtime_checkable
class Serves(Protocol):
    """An adapter that ``petiole predict`` and ``petiole eval`` serve as its kind of task says."""

    def predict_rows(self, images: object) -> list[dict[str, Any]]:
        """A row an image: ``path``, ``label`` as text, and of ``labels``, ``probabilities``, ``value`` what it has."""
        ...

    def score_on(self, data: Any, *, skip_bad: bool = False) -> ScoredSet:
        """Scores on labelled images."""
        ...


_ADAPTERS: dict[str, type[Adapter]] = {}
"""Kind of task -> the class that opens its files."""


def register(name: str) -> Callable[[type[Adapter]], type[Adapter]]:
    """Class decorator: the adapter of a kind of task."""

    def add(adapter: type[Adapter]) -> type[Adapter]:
        _ADAPTERS[name] = adapter
        return adapter

    return add


def kinds() -> tuple[str, ...]:
    """Names of all kinds."""
    package = import_module("petiole.tasks")
    own = (module.name for module in iter_modules(package.__path__) if module.ispkg)
    return (*own, *(point.name for point in entry_points(group="petiole.tasks")))


def adapter_class(name: str) -> type[Adapter]:
    """The class that opens the files of a kind of task; its modules are imported.

    Raises:
        ConfigError: there is none.
    """
    if name not in _ADAPTERS:
        if name not in kinds():
            raise unknown("kind of task", name, kinds())
        points = {point.name: point for point in entry_points(group="petiole.tasks")}
        if name in points:
            points[name].load()
        else:
            import_module(f"petiole.tasks.{name}.adapter")
    return _ADAPTERS[name]


@lru_cache(maxsize=2)
def _opened(task: Task[Any]) -> Workspace:
    return cast(Workspace, task.open())


def open_workspace(task: Task[W]) -> W:
    """Open a task, once a process."""
    return cast(W, _opened(task))


def forget_workspaces() -> None:
    """Close what is open: files may have changed since an earlier call in this process."""
    _opened.cache_clear()


def reopened(task: Task[W]) -> W:
    """Open a task anew."""
    forget_workspaces()
    return open_workspace(task)

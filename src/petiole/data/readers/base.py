"""What a reader is, how one registers, and how a path finds its own.

A reader is one file of this package (or of another package, by the entry point group `petiole.readers`)
that registers an `ImageReader` or a `TextReader`. Nothing else has to be edited.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, TypeVar

from petiole.data.dataset import Dataset
from petiole.data.text_dataset import TextDataset, gather
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError, DataError

GROUP = "petiole.readers"
"""Entry points that name a reader, or a module that registers some."""

LAST = 100
"""Rank of readers that are asked when no other recognises a path."""


@dataclass(frozen=True)
class ImageParts:
    """What a layout says about who trains and who tests.

    Attributes:
        train: images from which shots are drawn; None for a layout that is a test set only.
        test: held-back images; None where the layout has none.
        source: images of the source domain, if there are any.
        sampler: (train, shots, seed) -> the drawn images, where the layout has a way of its own.
        classes: names in the order that parts from elsewhere must follow; None for any.
    """

    train: Dataset | None
    test: Dataset | None = None
    source: Dataset | None = None
    sampler: Callable[[Dataset, int, int], Dataset] | None = None
    classes: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """How one layout is recognised and opened.

    Attributes:
        name: unique among readers.
        layout: the files that make it, for errors.
        recognises: whether a path is in this layout; opens no image.
        open: path -> data set. Options by name are passed on if the function takes them:
            ``domain``, ``classes``, ``skip_bad`` to readers of images; ``task``, ``order``, ``skip_bad``
            to readers of texts.
        rank: readers of lower rank are asked first.
    """

    name: str
    layout: str
    recognises: Callable[[Path], bool]
    open: Callable[..., Any]
    rank: int = 50

    def __call__(self, path: Path, **options: Any) -> Any:
        """Open ``path`` with those of the options that the reader takes."""
        return accepted(self.open, path, options)


@dataclass(frozen=True, kw_only=True)
class ImageReader(Reader):
    """A layout of labelled images; ``open`` gives all of them as one `Dataset`.

    Attributes:
        parts: path -> `ImageParts`, with ``has_test`` and ``skip_bad`` passed on likewise; without it all images are for training
            and a test part is split off. ``has_test``: the test part is given elsewhere.
    """

    open: Callable[..., Dataset]
    parts: Callable[..., ImageParts] | None = None

    def split(self, path: Path, **options: Any) -> ImageParts:
        """Open ``path`` by what each image is for."""
        if self.parts is None:
            return ImageParts(self(path, **options))
        found: ImageParts = accepted(self.parts, path, options)
        return found


@dataclass(frozen=True, kw_only=True)
class TextReader(Reader):
    """A layout of texts about images; ``open`` gives a `TextDataset`.

    Attributes:
        task: of a layout below a folder that several tasks share: the task by which it is asked for. Empty
            for a folder of one data set, which is opened by whatever name.
        features: folders of its stored features, see `petiole.data.readers.registry.open_features`.
        video: whether its images are videos.
    """

    open: Callable[..., TextDataset]
    task: str = ""
    features: Sequence[str] = ()
    video: bool = False


R = TypeVar("R", bound=Reader)
_READERS: dict[str, Reader] = {}


def register(reader: R) -> R:
    """Add a reader.

    Raises:
        ConfigError: another reader has its name.
    """
    if _READERS.get(reader.name, reader) != reader:
        raise ConfigError(f"Two readers are called {reader.name!r}. Rename one of them.")
    _READERS[reader.name] = reader
    return reader


def readers(kind: type[R]) -> list[R]:
    """All readers of a kind, in the order in which they are asked."""
    _load()
    known = (reader for reader in _READERS.values() if isinstance(reader, kind))
    return sorted(known, key=lambda reader: (reader.rank, reader.name))


def reader_of(path: Path, kind: type[R]) -> R | None:
    """The first reader of a kind that recognises ``path``."""
    return next((reader for reader in readers(kind) if reader.recognises(path)), None)


@cache
def _load() -> None:
    """Import this package's readers, then those of others."""
    package = __name__.rpartition(".")[0]
    for module in iter_modules(import_module(package).__path__):
        if not module.ispkg:
            import_module(f"{package}.{module.name}")
    for point in entry_points(group=GROUP):
        try:
            loaded = point.load()
        except Exception as error:  # foreign code can fail in any way
            raise ConfigError(
                f"The plug-in {point.name} ({point.value}) of {GROUP} cannot be loaded: {error}. "
                "Update or uninstall its package."
            ) from error
        if isinstance(loaded, Reader):
            register(loaded)


def accepted(function: Callable[..., Any], path: Path, options: Mapping[str, Any]) -> Any:
    """Call ``function`` with a path and those options that are among its parameters."""
    known = inspect.signature(function).parameters
    return function(path, **{name: value for name, value in options.items() if name in known})


Opener = TypeVar("Opener", bound=Callable[..., Any])


def image_reader(name: str, **more: Any) -> Callable[[Opener], Opener]:
    """Register a function that opens labelled images; the rest is as of `ImageReader`."""

    def add(function: Opener) -> Opener:
        register(ImageReader(name=name, open=function, **more))
        return function

    return add


def text_reader(name: str, *files: str, **more: Any) -> Callable[[Opener], Opener]:
    """Register a function that opens texts about images; the rest is as of `TextReader`.

    Args:
        name: of the reader.
        files: any of them below a folder makes it this layout, where ``more`` does not say otherwise.
    """
    usual: dict[str, Any] = {
        "layout": ", ".join(files),
        "recognises": lambda root: any((root / file).is_file() for file in files),
    }

    def add(function: Opener) -> Opener:
        register(TextReader(name=name, open=function, **(usual | more)))
        return function

    return add


def files_reader(
    name: str, files: Mapping[str, Sequence[str]], *, scored: str, **more: Any
) -> Callable[[Callable[[Path, str], Iterable[TextSample]]], Callable[[Path], TextDataset]]:
    """Register a layout of annotation files by part; decorates (file, part) -> samples.

    Args:
        name: of the reader.
        files: part -> names below the root, joined in order.
        scored: the task of the data set.
        more: as of `text_reader`.

    Returns:
        A function that opens a root and raises DataError if none of the files exists, or a row cannot be used.
    """

    def add(read: Callable[[Path, str], Iterable[TextSample]]) -> Callable[[Path], TextDataset]:
        @text_reader(name, *(file for listed in files.values() for file in listed), **more)
        @wraps(read, assigned=("__doc__", "__name__"), updated=())
        def open_root(root: Path) -> TextDataset:
            paths = {part: [root / file for file in listed] for part, listed in files.items()}
            return gather(scored, root, paths, read)

        return open_root

    return add


def folder_needed(root: Path) -> None:
    """Check that ``root`` is a folder.

    Raises:
        DataError: it is not.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder of data. Check the path.")

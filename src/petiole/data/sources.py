"""From a path to datasets: what lies there is recognised and put together to a domain shift."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from petiole.data.checks.images import match_classes
from petiole.data.dataset import Dataset, Domain, same_classes
from petiole.data.readers.base import ImageParts, ImageReader, reader_of
from petiole.data.readers.folder import open_folder
from petiole.data.readers.table import open_table
from petiole.data.splits import draw_shots, holdout
from petiole.errors import DataError

__all__ = ["DomainShift", "open_data", "open_folder", "open_shift", "open_table"]

Part = Literal["all", "base", "novel"]


@dataclass(frozen=True)
class DomainShift:
    """The three parts of a source → target experiment, with equal classes.

    Attributes:
        source: labelled images of the source domain (synthetic, sketches, ...), if there are any.
        train: real images from which shots are drawn.
        test: real images that are looked at once, at the end.
        sampler: draws the shots, where the layout has a way of its own.
    """

    source: Dataset | None
    train: Dataset
    test: Dataset
    sampler: Callable[[Dataset, int, int], Dataset] | None = None

    def __post_init__(self) -> None:
        same_classes(self.train, self.test)
        if self.source is not None:
            same_classes(self.train, self.source)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of the labels, the same in all parts."""
        return self.train.classes

    def draw(self, shots: int, seed: int) -> Dataset:
        """The training images of a draw, ``shots`` of each class.

        Raises:
            DataError: fewer than one, or a class with too few images.
        """
        return (self.sampler or draw_shots)(self.train, shots, seed)

    def half(self, part: Part) -> "DomainShift":
        """The first half of the classes (``base``, the larger one), the rest (``novel``), or all.

        m = ceil(C / 2) base classes in the order of the labels, as CoCoOp's code divides them (Zhou et
        al., CVPR 2022); both halves are labelled from 0.

        Raises:
            DataError: fewer than two classes.
        """
        if part == "all":
            return self
        if len(self.classes) < 2:
            raise DataError(f"{self.train.name} has one class, too few for base and novel ones.")
        m = ceil(len(self.classes) / 2)
        names = self.classes[:m] if part == "base" else self.classes[m:]
        source = self.source and self.source.of_classes(names)
        train, test = self.train.of_classes(names), self.test.of_classes(names)
        return DomainShift(source, train, test, self.sampler)


def open_data(
    path: Path | str,
    *,
    domain: Domain = "target",
    classes: Sequence[str] | None = None,
    skip_bad: bool = False,
) -> Dataset:
    """Open whatever lies at ``path`` as one dataset, by the reader that recognises it.

    That is a class folder, a table, a directory in CoOp's format, or all parts of a laid-out root.

    In ``synthetic/ real_train/ real_eval/`` the first is the source domain and the others are
    target.

    Raises:
        DataError: nothing usable there; see `open_folder` and `open_table`.
    """
    path = Path(path)
    opened: Dataset = _reader(path)(path, domain=domain, classes=classes, skip_bad=skip_bad)
    return opened


def open_shift(
    images: Path | str | Dataset,
    source: Path | str | Dataset | None = None,
    *,
    test: Path | str | Dataset | None = None,
    test_fraction: float = 0.5,
    seed: int = 0,
    skip_bad: bool = False,
) -> DomainShift:
    """Open source, pool of shots and test, from one of these layouts.

        images/{synthetic,real_train,real_eval}/<class>/...      a pair; synthetic/ may be absent
        images/{train,test}/<class>/...                          a split; val/ and validation/ are
        not used images/<class>/..., or a table                           split here, stratified, by
        image content and seed

        images/split_zhou_<Name>.json, and CoOp's other ones        as ``petiole.data.readers.coop`` says

    or of another reader. A table's ``split`` column (train, test or eval, val or validation) and
    ``domain`` column are obeyed.

    Args:
        images: the real images.
        source: folder or table of the source domain; stands in for a ``synthetic/`` folder.
        test: folder or table of held-back images; stands in for the layout's own, and then nothing
            is split off. Scored are the classes that it shares with the training images; notes name the others.
        test_fraction: share of each class that is held back where the layout has no test part.
        seed: of that split.
        skip_bad: leave bad images, and classes that not all parts have, out instead of refusing; the notes name them.

    Raises:
        DataError: no such layout, differing classes, bad images, or too few images to split.
    """
    if isinstance(images, Dataset):
        found = ImageParts(images, classes=images.classes)
    else:
        reader = _reader(Path(images))
        found = reader.split(Path(images), has_test=test is not None, skip_bad=skip_bad)
    drawn, train, held = found.source, found.train, found.test
    if test is not None:
        held = _opened(test, "target", skip_bad=skip_bad)
    if train is None:
        if held is None:
            raise DataError(f"{images}: its layout ({reader.name}) has no images at all.")
        return DomainShift(None, held, held)
    if source is not None:
        drawn = _opened(source, "source", skip_bad=skip_bad)
        if found.classes:
            match_classes(drawn.name, drawn.classes, found.classes)
            drawn = drawn.of_classes(found.classes)
    if held is None:
        train, held = holdout(train, test_fraction, seed)
    if test is not None or skip_bad:
        held = held.aligned(train.classes)
    if drawn is not None and skip_bad:
        drawn = drawn.aligned(train.classes)
    return DomainShift(drawn, train, held, found.sampler)


def _opened(images: Path | str | Dataset, domain: Domain, *, skip_bad: bool) -> Dataset:
    """A part that lies elsewhere, with classes of its own."""
    if isinstance(images, Dataset):
        return images.with_domain(domain)
    return open_data(images, domain=domain, skip_bad=skip_bad).with_domain(domain)


def _reader(path: Path) -> ImageReader:
    reader = reader_of(path, ImageReader)
    if reader is None:  # not while the reader of class folders takes what is left
        raise DataError(f"{path}: no reader recognises what lies there.")
    return reader

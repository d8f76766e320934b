"""From a path to datasets: what lies there is recognised and put together to a domain shift."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Literal

from petiole.data.checks.images import build
from petiole.data.dataset import Dataset, Domain, same_classes
from petiole.data.readers import coop
from petiole.data.readers.folder import class_folders, open_folder
from petiole.data.readers.table import SUFFIXES as TABLES
from petiole.data.readers.table import open_table, read_rows
from petiole.data.splits import draw_shots, holdout
from petiole.errors import DataError

__all__ = ["DomainShift", "open_data", "open_folder", "open_shift", "open_table"]

Part = Literal["all", "base", "novel"]
_PAIR = ("synthetic", "real_train", "real_eval")
_PARTS = ("train", "test")
_UNUSED = ("val", "validation")


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
    sampler: coop.DasslSampler | None = None

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

        m = ceil(C / 2) base classes in the order of the labels, as CoOp's code divides them (spec
        prompt.md, 4.2); both halves are labelled from 0.

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
    """Open whatever lies at ``path`` as one dataset: a class folder, a table, or all parts of a laid-out root.

    In ``synthetic/ real_train/ real_eval/`` the first is the source domain and the others are
    target.

    Raises:
        DataError: nothing usable there; see `open_folder` and `open_table`.
    """
    path = Path(path)
    if _is_table(path):
        return open_table(path, domain=domain, classes=classes, skip_bad=skip_bad)
    parts = _laid_out(path, _PAIR) or _laid_out(path, _PARTS)
    if not parts:
        return open_folder(path, domain=domain, classes=classes, skip_bad=skip_bad)
    first, *others = (
        open_folder(
            p, domain="source" if n == "synthetic" else domain, classes=classes, skip_bad=skip_bad
        )
        for n, p in parts.items()
    )
    return first.concat(*others)


def open_shift(
    images: Path | str,
    source: Path | str | None = None,
    *,
    test: Path | str | None = None,
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

    A table's ``split`` column (train, test or eval, val or validation) and ``domain`` column are
    obeyed.

    Args:
        images: the real images.
        source: folder or table of the source domain; stands in for a ``synthetic/`` folder.
        test: folder or table of held-back images; stands in for the layout's own, and then nothing
            is split off.
        test_fraction: share of each class that is held back where the layout has no test part.
        seed: of that split.
        skip_bad: leave bad images out, counted in the notes, instead of refusing.

    Raises:
        DataError: no such layout, differing classes, bad images, or too few images to split.
    """
    images = Path(images)
    if images.is_dir() and (lists := coop.read(images)):
        return _listed(lists, source, test, skip_bad)
    found = (
        _from_table(images, skip_bad)
        if _is_table(images)
        else _from_folder(images, test is not None, skip_bad)
    )
    if source is not None:
        found["source"] = open_data(source, domain="source", skip_bad=skip_bad).with_domain(
            "source"
        )
    if test is not None:
        found["test"] = open_data(test, skip_bad=skip_bad)
    if "test" not in found:
        found["train"], found["test"] = holdout(found["train"], test_fraction, seed)
    return DomainShift(found.get("source"), found["train"], found["test"])


def _listed(
    lists: coop.CoopLists, source: Path | str | None, test: Path | str | None, skip_bad: bool
) -> DomainShift:
    """A directory in CoOp's format; one without training images is a test set only, and stands for both."""
    scored = lists.dataset(lists.test, "test", skip_bad=skip_bad)
    if test is not None:
        scored = open_data(test, classes=lists.classes, skip_bad=skip_bad)
    if not lists.train:
        return DomainShift(None, scored, scored)
    train = lists.dataset(lists.train, "train", skip_bad=skip_bad)
    drawn = None
    if source is not None:
        drawn = open_data(source, domain="source", classes=lists.classes, skip_bad=skip_bad)
        drawn = drawn.with_domain("source")
    return DomainShift(drawn, train, scored, coop.DasslSampler(lists))


def _from_folder(root: Path, has_test: bool, skip_bad: bool) -> dict[str, Dataset]:
    """Open the parts that ``root`` has; a test part that is given elsewhere is not opened here."""
    for layout, names in ((_PAIR, ("source", "train", "test")), (_PARTS, ("train", "test"))):
        if parts := _laid_out(root, layout, need_test=not has_test):
            roles = dict(zip(layout, names, strict=True))
            return {
                roles[n]: open_folder(
                    p, domain="source" if n == "synthetic" else "target", skip_bad=skip_bad
                )
                for n, p in parts.items()
                if not (has_test and roles[n] == "test")
            }
    return {"train": open_folder(root, skip_bad=skip_bad)}


def _from_table(path: Path, skip_bad: bool) -> dict[str, Dataset]:
    """Open a table's rows by domain and split."""
    parts: dict[str, list[int]] = {}
    rows = read_rows(path)
    for i, row in enumerate(rows):
        part = {"": "train", "train": "train", "test": "test", "eval": "test"}.get(row.split)
        if part is None and row.split not in _UNUSED:
            raise DataError(
                f"{path}: split {row.split!r} is unknown; "
                "use train, test (or eval), val or validation."
            )
        if row.entry.domain == "source":
            part = "source" if part == "train" else None
        if part:
            parts.setdefault(part, []).append(i)
    if "train" not in parts:
        raise DataError(
            f"{path}: no rows of the target domain to train on; mark some with split train."
        )
    unused = len(rows) - sum(map(len, parts.values()))
    notes = (
        [f"{unused} rows of {path.name} are not used: validation, or test rows of the source."]
        if unused
        else []
    )
    return {
        part: build(
            f"{path.stem}/{part}",
            [rows[i].entry for i in chosen],
            None,
            skip_bad=skip_bad,
            notes=notes,
        )
        for part, chosen in parts.items()
    }


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES and not path.is_dir()


def _laid_out(root: Path, layout: tuple[str, ...], *, need_test: bool = True) -> dict[str, Path]:
    """The subfolders of ``layout`` that ``root`` has; nothing when it is not laid out so.

    A layout's last two names are its train and test part. Each must hold folders itself: a class
    may be called "train".

    Raises:
        DataError: a train part without its test part, where one is needed.
    """
    parts = {f.name: f for f in class_folders(root) if f.name in layout and class_folders(f)}
    train, test = layout[-2:]
    if train not in parts:
        return {}
    if test not in parts and need_test:
        raise DataError(
            f"{root}: has {train}/ but no {test}/ with class folders. "
            "Add it, or name one with --test."
        )
    return {name: parts[name] for name in layout if name in parts}

"""Directories in CoOp's format, read as they are and never written to: the family's data sets and their splits.

    <set>/split_zhou_<Name>.json                     {"train" | "val" | "test": [[path, label, class name], ...]}
    fgvc_aircraft/variants.txt, images_variant_*.txt
    imagenet/classnames.txt, images/{train,val}/<wnid>/
    imagenetv2 | imagenet-sketch | imagenet-adversarial | imagenet-rendition: classnames.txt and folders, test only

Shots are those of Dassl's sampler (Zhou et al., IJCV 2022, whose CoOp draws by it): ``random.sample`` over the classes in the order in which they
first appear in the list, by Python's generator, seed s + 1 for our draw s = 0, 1, 2, since the papers' seeds are 1, 2, 3.
A cached ``split_fewshot/shot_K-seed_S.pkl`` beside the list wins. ImageNet's lists come unsorted from the file system
in their code; here they are sorted, so without its pickle the subset is another one than the papers'.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from petiole.data.checks.images import build
from petiole.data.dataset import Dataset
from petiole.data.image import SUFFIXES
from petiole.data.readers.base import ImageParts, image_reader
from petiole.data.readers.folder import class_folders
from petiole.data.readers.pickles import read_pickle
from petiole.data.readers.public.registry import lines_of, present
from petiole.errors import DataError, boundary

Item = tuple[Path, int, str]
"""File, label and class name, in the order of a list."""

SPLIT = "split_zhou_"

IMAGE_ROOTS = {
    "Caltech101": "101_ObjectCategories",
    "OxfordPets": "images",
    "StanfordCars": ".",
    "OxfordFlowers": "jpg",
    "Food101": "images",
    "SUN397": "SUN397",
    "DescribableTextures": "images",
    "EuroSAT": "2750",
    "UCF101": "UCF-101-midframes",
}
"""Folder of the images by the name in split_zhou_<Name>.json; other names are looked for."""


@dataclass(frozen=True)
class CoopLists:
    """What a directory lists, in its own order.

    Attributes:
        root: of the data set.
        train: empty for a test set of other images.
        test: images that are scored.
    """

    root: Path
    train: list[Item]
    test: list[Item]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names by label. ImageNet's list has a name twice; the later ones get an underscore, which is a space."""
        named = {label: name for _, label, name in (*self.test, *self.train)}
        names: list[str] = []
        for label in sorted(named):
            name = named[label]
            while name in names:
                name += "_"
            names.append(name)
        return tuple(names)

    def dataset(self, part: Sequence[Item], name: str, *, skip_bad: bool) -> Dataset:
        """Open the images of a list.

        Raises:
            DataError: images that are missing or unreadable.
        """
        labels = sorted({label for _, label, _ in (*self.test, *self.train)})
        names = dict(zip(labels, self.classes, strict=True))
        entries = present((path, names[label]) for path, label, _ in part)
        return build(f"{self.root.name}/{name}", entries, self.classes, skip_bad=skip_bad)


@dataclass(frozen=True)
class DasslSampler:
    """Dassl's draw of shots from a list.

    Attributes:
        lists: of all classes; a draw is over all of them, whichever are used afterwards.
    """

    lists: CoopLists

    def __call__(self, train: Dataset, shots: int, seed: int) -> Dataset:
        """The drawn images among those of ``train``; all of a class that has fewer."""
        chosen = set(self.files(shots, seed))
        return train.select(np.array([path in chosen for path in train.paths], dtype=bool))

    def files(self, shots: int, seed: int) -> list[Path]:
        """Paths of the draw ``seed`` = 0, 1, ..."""
        if shots < 1:
            raise DataError(f"Cannot draw {shots} shots; ask for at least 1 a class.")
        root = self.lists.root
        kept = root / "split_fewshot" / f"shot_{shots}-seed_{seed + 1}.pkl"
        if kept.is_file():
            return _from_pickle(kept, self.lists)
        classes: dict[int, list[Path]] = {}
        for path, label, _ in self.lists.train:
            classes.setdefault(label, []).append(path)
        rng = random.Random(seed + 1)
        return [
            path
            for paths in classes.values()
            for path in (rng.sample(paths, shots) if len(paths) >= shots else paths)
        ]


def read(root: Path) -> CoopLists:
    """Read a directory in CoOp's format: one that the reader recognises.

    Raises:
        DataError: its lists are damaged, or there are none.
    """
    splits = sorted(root.glob(f"{SPLIT}*.json"))
    if len(splits) > 1:
        raise DataError(
            f"{root} holds several splits: {', '.join(f.name for f in splits)}. Keep one of them."
        )
    if splits:
        return _from_split(root, splits[0])
    return _aircraft(root) if _is_aircraft(root) else _imagenet(root)


def name_of(root: Path) -> str:
    """The published data set that a directory says it is, by its list; empty for any other folder.

    It is the <Name> of a split, ``FGVCAircraft``, or ``ImageNet`` (its variants too).
    """
    for file in sorted(root.glob(f"{SPLIT}*.json")):
        return file.stem.removeprefix(SPLIT)
    if (root / "variants.txt").is_file():
        return "FGVCAircraft"
    return "ImageNet" if (root / "classnames.txt").is_file() else ""


def _from_split(root: Path, file: Path) -> CoopLists:
    remedy = 'It holds "train", "val" and "test", each a list of [path, label, class name].'
    with boundary(file, remedy, what="is no split file"):
        stated = json.loads(file.read_text(encoding="utf-8"))
        parts = {
            part: [(str(path), int(label), str(name)) for path, label, name in stated[part]]
            for part in ("train", "test")
        }
    listed = [*parts["train"], *parts["test"]]
    if not parts["train"] or not parts["test"]:
        raise DataError(f"{file} lists no training or no test images.")
    images = _image_root(root, file.stem.removeprefix(SPLIT), listed[0][0])
    train, test = (
        [(images / PurePosixPath(path), label, name) for path, label, name in parts[part]]
        for part in ("train", "test")
    )
    return CoopLists(root, train, test)


def _image_root(root: Path, name: str, example: str) -> Path:
    """Where a split's relative paths begin."""
    stated = [root / IMAGE_ROOTS[name]] if name in IMAGE_ROOTS else []
    for place in (*stated, root, *sorted(f for f in root.iterdir() if f.is_dir())):
        if (place / example).is_file():
            return place
    return stated[0] if stated else root


def _is_aircraft(root: Path) -> bool:
    return (root / "variants.txt").is_file() and (root / "images_variant_train.txt").is_file()


def _aircraft(root: Path) -> CoopLists:
    names = lines_of(root / "variants.txt")
    labels = {name: i for i, name in enumerate(names)}

    def part(name: str) -> list[Item]:
        rows = [line.partition(" ") for line in lines_of(root / f"images_variant_{name}.txt")]
        if unknown := [variant for _, _, variant in rows if variant not in labels]:
            raise DataError(f"{root}: variants.txt lacks {unknown[0]!r}. Unpack the archive again.")
        return [(root / "images" / f"{i}.jpg", labels[v], v) for i, _, v in rows]

    return CoopLists(root, part("train"), part("test"))


def _imagenet(root: Path) -> CoopLists:
    """ImageNet, or one of its variants: whatever holds folders called by wnid or by line number."""
    names = dict(line.split(" ", 1) for line in lines_of(root / "classnames.txt") if " " in line)
    wnids = list(names)
    train = root / "images" / "train"
    if train.is_dir():
        return CoopLists(
            root, _walk(train, names, wnids), _walk(root / "images" / "val", names, wnids)
        )
    for place in (root / "images", *class_folders(root)):
        if place.is_dir() and (test := _walk(place, names, wnids)):
            return CoopLists(root, [], test)
    raise DataError(f"{root} has classnames.txt but no folder with ImageNet's classes.")


def _walk(place: Path, names: dict[str, str], wnids: Sequence[str]) -> list[Item]:
    """Images by folder, sorted; labels count the folders that are there."""
    found: list[Item] = []
    folders = {f.name: f for f in class_folders(place)} if place.is_dir() else {}
    if folders and all(name.isdigit() for name in folders):  # ImageNetV2: numbers of lines
        chosen = [(wnids[int(name)], folders[name]) for name in sorted(folders, key=int)]
    else:
        chosen = [(name, folders[name]) for name in sorted(folders) if name in names]
    for label, (wnid, folder) in enumerate(chosen):
        files = sorted(f for f in folder.iterdir() if _is_image(f))
        found += [(file, label, names[wnid]) for file in files]
    return found


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _from_pickle(file: Path, lists: CoopLists) -> list[Path]:
    """Paths of a cached draw, which states absolute ones of another machine: matched by their ends."""
    content: Any = read_pickle(file)
    try:
        stated = [PurePosixPath(str(row["_impath"]).replace("\\", "/")) for row in content["train"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is no few-shot draw of Dassl ({error}). Delete it.") from error
    ends = _by_end(path for path, _, _ in lists.train)
    chosen = []
    for path in stated:
        match = next((ends[end] for end in _ends(path) if end in ends), None)
        if match is None:
            raise DataError(
                f"{file} names {path}, which {lists.root} does not list. Delete the file."
            )
        chosen.append(match)
    return chosen


def _ends(path: PurePosixPath) -> Iterable[str]:
    """The path's ends, longest first."""
    parts = path.parts
    return ("/".join(parts[i:]) for i in range(len(parts)))


def _by_end(paths: Iterable[Path]) -> dict[str, Path]:
    """Every end that belongs to one file alone."""
    found: dict[str, Path | None] = {}
    for path in paths:
        for end in _ends(PurePosixPath(path.as_posix())):
            found[end] = None if end in found else path
    return {end: path for end, path in found.items() if path is not None}


def _recognised(root: Path) -> bool:
    names = (root / "classnames.txt").is_file() or _is_aircraft(root)
    return root.is_dir() and (names or any(root.glob(f"{SPLIT}*.json")))


def open_parts(root: Path, has_test: bool = False, skip_bad: bool = False) -> ImageParts:
    """Open a directory with Dassl's sampler; one without training images is a test set only.

    Raises:
        DataError: damaged lists, or missing or unreadable images.
    """
    lists = read(root)
    train = lists.dataset(lists.train, "train", skip_bad=skip_bad) if lists.train else None
    test = None if has_test else lists.dataset(lists.test, "test", skip_bad=skip_bad)
    return ImageParts(train, test, None, DasslSampler(lists), lists.classes)


@image_reader(
    "coop",
    layout=f"{SPLIT}<Name>.json, variants.txt or classnames.txt, as CoOp has them",
    recognises=_recognised,
    parts=open_parts,
    rank=20,
)
def open_all(root: Path, classes: Sequence[str] | None = None, skip_bad: bool = False) -> Dataset:
    """Open all listed images, those of train and test, as one dataset.

    Raises:
        DataError: damaged lists, missing or unreadable images, or a name of ``classes`` that is none.
    """
    lists = read(root)
    data = lists.dataset([*lists.train, *lists.test], "all", skip_bad=skip_bad)
    return data if classes is None else data.of_classes(classes)

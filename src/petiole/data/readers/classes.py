"""Class folders asked as questions: "What is shown?" of every image, its class as the answer.

    root/{train,val,test}/<class>/**/*.jpg    val (or valid, validation) and test may be absent
    root/<class>/**/*.jpg                     split here

Below the root may lie the folders in which PlantVillage and EuroSAT are published (`WRAPPERS`), if nothing
else does. With at most 40 classes the question lists them all (our choice: CRAFT's paper, 2026, does not say how it
asks). ``classes.json`` in the root may state the whole question, words, and what is known of each image in words:

    {"question": "Which disease has this leaf: {classes}?", "names": {"Tomato___Late_blight": "late blight"},
     "caption": "a leaf with {class}."}

Class names become words: no WordNet number in front (``n02085620-Chihuahua``), spaces for underscores and
commas, lower case; CamelCase is parted where all folders are in it (EuroSAT's ``AnnualCrop``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from petiole.data.dataset import Dataset, listed
from petiole.data.image import SUFFIXES
from petiole.data.readers.base import LAST, text_reader
from petiole.data.readers.folder import class_folders, open_folder, part_folders, visible_files
from petiole.data.readers.json_rows import read_object
from petiole.data.splits import holdout
from petiole.data.text_dataset import PARTS, TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import DataError, unknown
from petiole.printable import composed

TASK = "question"
QUESTION = "What is shown?"
CAPTION = "a photo of {class}."
LISTED = 40
"""Classes that a question lists at most."""

WRAPPERS = ("PlantVillage", "plantvillage dataset", "raw", "color", "EuroSAT", "2750")
"""Folders around the class folders, in any case; the first that is there is entered."""

_BESIDE = ("grayscale", "segmented", "eurosatallbands")  # other versions of the same images
_PART_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_CAMEL = re.compile(r"(?:[A-Z][a-z]+)+")
_WORDNET = re.compile(r"n\d{8}-")


def has_classes(root: Path) -> bool:
    """Say whether `open_classes` would find an image in a class folder; none is opened."""
    inside = _entered(root)
    parts = _part_folders(inside)
    folders = [f for part in parts.values() for f in class_folders(part)] or class_folders(inside)
    return any(f.suffix.lower() in SUFFIXES for folder in folders for f in visible_files(folder))


@text_reader(
    "class folders",
    layout="images in <class>/ or train/<class>/",
    recognises=has_classes,
    task=TASK,
    rank=LAST,
)
def open_classes(
    root: Path, *, val: float = 0.1, test: float = 0.2, seed: int = 0, skip_bad: bool = False
) -> TextDataset:
    """Open class folders as the task ``question``.

    Text is the question, answer the class in words, label the class, caption ``a photo of {class}.``. Image
    names are paths below ``root``, and so are the keys. Every image is decoded once, as
    `petiole.data.readers.folder.open_folder` does it. Parts that have to be drawn are drawn for each class by the
    content of the images and the seed, so that renamed files stay in their part.

    Args:
        root: the folder.
        val: share of each class for validation, where there are no part folders; at least one image.
        test: likewise for test.
        seed: of that split.
        skip_bad: leave unreadable and contradicting images out instead of refusing.

    Raises:
        DataError: no class folders, bad images, parts of differing classes, a class too small to split, shares
            that leave nothing, a ``classes.json`` that cannot be used, or two classes with the same words.
    """
    inside = _entered(root)
    datasets, notes = _parts(inside, val, test, seed, skip_bad)
    classes = next(iter(datasets.values())).classes
    question, words, caption = _question_and_words(root, classes)
    parts = {
        part: tuple(
            _sample(root, question, words, caption, s.path, classes[s.label])
            for s in dataset.samples
        )
        for part, dataset in datasets.items()
    }
    return TextDataset(TASK, root, parts, tuple(notes))


def words_of(classes: tuple[str, ...]) -> dict[str, str]:
    """Return the words that each class folder's name stands for."""
    camel = all(_CAMEL.fullmatch(name) for name in classes)
    return {name: _words(name, camel) for name in classes}


def _words(name: str, camel: bool) -> str:
    if camel:
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return " ".join(re.sub(r"[_,]", " ", _WORDNET.sub("", name)).lower().split())


def _entered(root: Path) -> Path:
    """The folder that holds part or class folders: ``root``, or within published wrappers."""
    while True:
        here = {folder.name.lower(): folder for folder in class_folders(root)}
        known = [name.lower() for name in WRAPPERS]
        inner = [here[name] for name in known if name in here]
        if not inner or not here.keys() <= {*known, *_BESIDE} or not class_folders(inner[0]):
            return root
        root = inner[0]


def _part_folders(root: Path) -> dict[str, Path]:
    """The part folders in order, if there is a train among them."""
    found = {_PART_NAMES[name]: folder for name, folder in part_folders(root, _PART_NAMES).items()}
    return {part: found[part] for part in PARTS if part in found and "train" in found}


def _parts(
    root: Path, val: float, test: float, seed: int, skip_bad: bool
) -> tuple[dict[str, Dataset], list[str]]:
    folders = _part_folders(root)
    if not folders:
        everything = open_folder(root, skip_bad=skip_bad)
        note = (
            f"{root} has no part folders: {1 - val - test:.0%} of each class trains, {val:.0%} validates, "
            f"{test:.0%} tests, by image content and seed {seed}."
        )
        return _drawn(everything, val, test, seed), [*everything.notes, note]
    datasets: dict[str, Dataset] = {}
    notes: list[str] = []
    for part, folder in folders.items():
        classes = datasets["train"].classes if datasets else None
        datasets[part] = open_folder(folder, classes=classes, skip_bad=skip_bad)
        notes += datasets[part].notes
        again = len(set(datasets[part].ids) & set(datasets["train"].ids)) if part != "train" else 0
        if again:
            notes.append(f"{again} images of {folder} are in train as well, byte for byte.")
    return datasets, notes


def _drawn(data: Dataset, val: float, test: float, seed: int) -> dict[str, Dataset]:
    if not (val > 0 and test > 0 and val + test < 1):
        raise DataError(
            f"{data.name}: shares of {val} for val and {test} for test leave a part empty. "
            "Both must be above 0, and together below 1."
        )
    if short := [name for name, n in data.counts().items() if n < 3]:
        raise DataError(
            f"{data.name}: class {listed(short)} has fewer than 3 images, too few for train, val and test. "
            "Add images, or lay out train/, val/ and test/ folders."
        )
    rest, tested = holdout(data, test, seed)
    train, validated = holdout(rest, val / (1 - test), seed)
    return {"train": train, "val": validated, "test": tested}


def _question_and_words(root: Path, classes: tuple[str, ...]) -> tuple[str, Mapping[str, str], str]:
    """The question, the words of each class, and the captions' template."""
    question, words, caption = QUESTION, words_of(classes), CAPTION
    if len(classes) <= LISTED:
        question = f"{question} Answer with one of: {{classes}}."
    path = root / "classes.json"
    if path.is_file():
        row = read_object(path)
        question = row.name("question") if "question" in row else question
        caption = row.name("caption") if "caption" in row else caption
        names = row.values.get("names") or {}
        if not isinstance(names, dict) or not all(
            isinstance(v, str) and v.strip() for v in names.values()
        ):
            raise row.wrong(
                "names", 'must give class folders their words, like {"Forest": "forest"}'
            )
        names = {composed(name): text for name, text in names.items()}
        if strange := sorted(names.keys() - words.keys()):
            raise unknown(f"class folder in {path}", strange[0], classes, DataError)
        words |= {name: " ".join(text.split()) for name, text in names.items()}
    counts = Counter(text.lower() for text in words.values())
    if same := [name for name, text in words.items() if counts[text.lower()] > 1]:
        raise DataError(
            f"{root}: the classes {listed(same)} are not all told apart by their words, "
            f"like {words[same[0]]!r}. Give each its own in classes.json."
        )
    return question.replace("{classes}", ", ".join(words.values())), words, caption


def _sample(
    root: Path, question: str, words: Mapping[str, str], caption: str, path: Path, label: str
) -> TextSample:
    name, answer = path.relative_to(root).as_posix(), words[label]
    return TextSample(
        name,
        question,
        (name,),
        {answer: 1.0},
        (answer,),
        caption=caption.replace("{class}", answer),
        label=label,
    )

"""Class folders and VQA-RAD as questions, and which of the layouts is found in a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petiole.data.readers.classes import has_classes, open_classes, words_of
from petiole.data.readers.registry import open_questions, open_task
from petiole.data.readers.vqa_rad import ANNOTATIONS, FOLDER, open_vqa_rad
from petiole.data.text_sample import TextSample
from petiole.errors import DataError

Write = Callable[[str, Any], Path]


def fill(root: Path, classes: Sequence[str], count: int = 10, start: int = 0) -> Path:
    """Distinct images in class folders."""
    for c, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = np.full((4, 4, 3), (start + i, c, 7), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


# --- class folders ---------------------------------------------------------------------------


def test_an_image_is_asked_what_it_shows(tmp_path: Path) -> None:
    fill(tmp_path / "train", ["Tomato___Late_blight", "Pepper,_bell___healthy"], 2)
    fill(tmp_path / "test", ["Tomato___Late_blight", "Pepper,_bell___healthy"], 1, start=50)
    data = open_classes(tmp_path)
    assert data.task == "question"
    assert {part: len(samples) for part, samples in data.parts.items()} == {"train": 4, "test": 2}
    name = "test/Tomato___Late_blight/0.png"
    assert data["test"][1] == TextSample(
        name,
        "What is shown? Answer with one of: pepper bell healthy, tomato late blight.",
        (name,),
        {"tomato late blight": 1.0},
        ("tomato late blight",),
        caption="a photo of tomato late blight.",
        label="Tomato___Late_blight",
    )
    assert data.missing() == ()
    assert data.notes == ()


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_parts_may_be_called_as_people_call_them(tmp_path: Path, validation: str) -> None:
    for start, part in enumerate(["train", validation]):
        fill(tmp_path / part, "ab", 1, start)
    assert list(open_classes(tmp_path).parts) == ["train", "val"]


def test_one_folder_is_split_by_class_content_and_seed(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", "abc", 10)
    data = open_classes(root)
    for part, count in {"train": 7, "val": 1, "test": 2}.items():
        labels = [s.label for s in data[part]]
        assert {c: labels.count(c) for c in "abc"} == dict.fromkeys("abc", count)
    images = [set(s.images) for samples in data.parts.values() for s in samples]
    assert len(set().union(*images)) == 30
    assert "70% of each class trains, 10% validates, 20% tests" in data.notes[0]
    assert open_classes(root).digest() == data.digest() != open_classes(root, seed=1).digest()
    content = {(root / s.images[0]).read_bytes() for s in data["test"]}
    for path in sorted(root.rglob("*.png")):
        path.rename(path.with_name(f"x{9 - int(path.stem)}.png"))
    renamed = open_classes(root)
    assert {(root / s.images[0]).read_bytes() for s in renamed["test"]} == content


@pytest.mark.parametrize(
    "inside",
    [
        "2750",
        "EuroSAT/2750",
        "plantvillage",
        "plantvillage dataset/color",
        "PlantVillage/raw/color",
    ],
)
def test_published_wrappers_are_entered(tmp_path: Path, inside: str) -> None:
    folder = fill(tmp_path / inside, ["AnnualCrop", "SeaLake"], 3)
    (folder.parent / "grayscale").mkdir()
    data = open_questions(tmp_path)
    assert data["train"][0].images[0].startswith(f"{inside}/AnnualCrop/")
    assert data["train"][0].references == ("annual crop",)
    assert data.missing() == ()


def test_a_class_that_is_called_like_a_wrapper_stays_a_class(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", ["color", "raw", "test"], 3)
    assert {s.label for s in open_classes(root)["train"]} == {"color", "raw", "test"}


def test_class_names_become_words() -> None:
    assert words_of(("AnnualCrop", "Forest")) == {"AnnualCrop": "annual crop", "Forest": "forest"}
    assert words_of(("n02085620-Chihuahua", "iPhone_4", "McDonald")) == {
        "n02085620-Chihuahua": "chihuahua",
        "iPhone_4": "iphone 4",
        "McDonald": "mcdonald",
    }
    assert words_of(("Corn_(maize)___Common_rust_",)) == {
        "Corn_(maize)___Common_rust_": "corn (maize) common rust"
    }


def test_many_classes_are_not_listed(tmp_path: Path) -> None:
    names = [f"kind_{i:02}" for i in range(41)]
    for part in ("train", "test"):
        fill(tmp_path / part, names[:40], 1, start=ord(part[0]))
    assert open_classes(tmp_path)["train"][0].text.count("kind") == 40
    for part in ("train", "test"):
        (tmp_path / part / "kind_40").mkdir()
        colour = (ord(part[0]), 99, 1)
        Image.new("RGB", (4, 4), colour).save(tmp_path / part / "kind_40" / "0.png")
    assert {s.text for s in open_classes(tmp_path)["test"]} == {"What is shown?"}


def test_question_and_words_may_be_stated(write: Write, tmp_path: Path) -> None:
    fill(tmp_path, ["1", "2"], 3)
    stated = {"question": "Which flower: {classes}?", "names": {"1": "pink  primrose"}}
    write("classes.json", stated)
    sample = open_classes(tmp_path)["train"][0]
    assert sample.text == "Which flower: pink primrose, 2?"
    assert (sample.references, sample.label) == (("pink primrose",), "1")
    assert sample.caption == "a photo of pink primrose."
    write("classes.json", {"question": "Which flower?", "caption": "the flower {class}"})
    sample = open_classes(tmp_path)["train"][0]
    assert (sample.text, sample.caption) == ("Which flower?", "the flower 1")
    for wrong, message in [
        ({"names": {"3": "rose"}}, r"Unknown class folder in .*classes\.json '3'"),
        ({"names": {"1": ""}}, "field 'names' must give class folders their words"),
        ({"names": ["rose"]}, "field 'names' must give class folders their words"),
        ({"names": {"1": "2"}}, "classes 1, 2 are not all told apart by their words, like '2'"),
        ({"question": ["?"]}, "field 'question' must be a text"),
    ]:
        write("classes.json", wrong)
        with pytest.raises(DataError, match=message):
            open_classes(tmp_path)


def test_class_folders_that_cannot_be_used(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", "ab", 3)
    (root / "a" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a.0\.png: not an image"):
        open_classes(root)
    with pytest.raises(DataError, match="class a has fewer than 3 images"):
        open_classes(root, skip_bad=True)
    (root / "a" / "0.png").unlink()
    with pytest.raises(DataError, match="class a has fewer than 3 images"):
        open_classes(root)
    for val, test in [(0, 0.2), (0.5, 0.5), (0.1, float("nan"))]:
        with pytest.raises(DataError, match="leave a part empty"):
            open_classes(root, val=val, test=test)
    parts = tmp_path / "parts"
    fill(parts / "train", "ab", 1)
    fill(parts / "test", "abc", 1)
    with pytest.raises(DataError, match="Unknown class in test 'c'"):
        open_classes(parts)
    (fill(tmp_path / "empty", "a", 1) / "b").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        open_questions(tmp_path / "empty")


def test_an_image_in_two_parts_is_noted(tmp_path: Path) -> None:
    fill(tmp_path / "train", "ab", 2)
    fill(tmp_path / "test", "ab", 1)
    assert "2 images of" in open_classes(tmp_path).notes[0]
    assert "are in train as well" in open_classes(tmp_path).notes[0]


# --- VQA-RAD ---------------------------------------------------------------------------------


def row(qid: int, phrase: str = "freeform", **values: Any) -> dict[str, Any]:
    asked = {"image_name": "a.jpg", "question": "Is this  an MRI ?", "answer": f"Yes {qid}\t"}
    return {"qid": qid, "phrase_type": phrase, "answer_type": "CLOSED"} | asked | values


def test_vqa_rad_is_split_by_phrase_type_and_repeats_are_dropped(
    write: Write, tmp_path: Path
) -> None:
    rows = [
        row(1),
        row(2, "para", answer="Yes 1\t"),  # as 1
        row(3, answer="Yes 6\t"),  # as 6, of test
        row(4, image_name="b.jpg", answer=1.5),
        row(5, "test_para", answer=2),
        row(6, "test_freeform"),
        row(7, answer="yes 1"),  # as 1 only when cleaned
    ]
    write(ANNOTATIONS, rows)
    data = open_task("question", tmp_path)
    assert data["train"][0] == TextSample(
        "1", "is this an mri?", (f"{FOLDER}/a.jpg",), {"yes 1": 1.0}, ("yes 1",)
    )
    assert [s.key for s in data["train"]] == ["1", "4", "7"]
    assert [(s.key, s.references) for s in data["test"]] == [("5", ("2",)), ("6", ("yes 6",))]
    assert data["train"][1].references == ("1.5",)
    assert data.notes[0].startswith("1 of 1 test images are asked about in train")
    assert data.notes[1].startswith("2 training questions left out")
    assert open_questions(tmp_path).digest() == data.digest()
    assert open_task("answers", tmp_path).task == "answers"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(1, "rephrased")], "item 0: field 'phrase_type' must be one of 'freeform'"),
        ([row(1, image_name=None)], "item 0: field 'image_name' is missing"),
        ([row(1, answer=" ")], "item 0: field 'answer' must be a text that is not empty"),
        ([row(1)], "no row of test"),
        ([row(1), row(1, answer="no"), row(2, "test_para")], "train has id '1' twice"),
        ({}, "must hold a JSON list"),
    ],
)
def test_vqa_rad_that_cannot_be_used(write: Write, tmp_path: Path, rows: Any, message: str) -> None:
    write(ANNOTATIONS, rows)
    with pytest.raises(DataError, match=message):
        open_vqa_rad(tmp_path)


# --- any of them -----------------------------------------------------------------------------


def test_lines_come_first_and_must_say_their_task(write: Write, tmp_path: Path) -> None:
    fill(tmp_path, "ab", 3)
    assert len(open_task("question", tmp_path)["train"]) == 2
    write("val.jsonl", [{"image": "a/0.png", "question": "Who?", "answer": "I"}])
    with pytest.raises(DataError, match="says no task"):
        open_questions(tmp_path)
    write("task.json", {"task": "question"})
    assert open_questions(tmp_path)["val"][0].text == "Who?"


def test_what_was_looked_for_is_named(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").touch()
    assert not has_classes(tmp_path)
    for opened in (open_questions, lambda root: open_task("question", root)):
        with pytest.raises(
            DataError, match=r"(?s)train\.jsonl.*VQA_RAD.*train/<class>/.*It holds texts\."
        ):
            opened(tmp_path)
        with pytest.raises(DataError, match="no such folder"):
            opened(tmp_path / "nowhere")

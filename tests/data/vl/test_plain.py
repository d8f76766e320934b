"""One's own data as JSON Lines: what a line means, and that writing and reading are inverse."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from petiole.data.readers.jsonl import open_plain, write_jsonl
from petiole.data.readers.registry import open_task
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import DataError

Write = Callable[[str, Any], Path]

words = st.text(st.characters(codec="utf-8"), min_size=1).map(str.strip).filter(bool)
samples = st.builds(
    TextSample,
    text=words,
    images=st.lists(words.filter(lambda w: "\0" not in w and len(w) < 20), max_size=2).map(tuple),
    targets=st.dictionaries(words, st.floats(0.01, 1), max_size=3) | words.map(lambda w: {w: 1.0}),
    references=st.lists(words, max_size=10).map(tuple),
    group=words | st.just(""),
    key=words,
    caption=words | st.just(""),
    label=words | st.just(""),
    facts=st.lists(words, max_size=2).map(tuple),
)


def read(write: Write, tmp_path: Path, part: str, *lines: dict[str, Any]) -> tuple[TextSample, ...]:
    write(f"{part}.jsonl", lines)
    return open_plain(tmp_path, "vqa")[part]


def test_every_form_of_line_is_read(write: Write, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("images/a.png", "b.png"):
        (tmp_path / name).touch()
    ten = ["2"] * 6 + ["two"] * 3 + ["3"]
    got = read(
        write,
        tmp_path,
        "val",
        {"image": "a.png", "question": " What? ", "answer": "red", "id": "x", "group": "g"},
        {"images": ["a.png", "b.png"], "question": "How many?", "answers": ten},
        {"image": "a.png", "captions": ["A ring.", "One ring."]},
        {"video": "clips/7", "question": "Which way?"},
        {"question": "Two and two?", "answer": 4},
        {"image": "stored name", "targets": {"p": 0.5}, "references": ["p", "q"]},
    )
    assert got == (
        TextSample("x", "What?", ("images/a.png",), {"red": 1.0}, ("red",), "g"),
        TextSample(
            "2",
            "How many?",
            ("images/a.png", "b.png"),
            {"2": 1.0, "two": 0.9, "3": 0.3},
            tuple(ten),
        ),
        TextSample(
            "3",
            "",
            ("images/a.png",),
            {"A ring.": 1.0, "One ring.": 1.0},
            ("A ring.", "One ring."),
        ),
        TextSample("4", "Which way?", ("clips/7",)),
        TextSample("5", "Two and two?", (), {"4": 1.0}, ("4",)),
        TextSample("6", "", ("stored name",), {"p": 0.5}, ("p", "q")),
    )


def test_a_line_may_tell_of_its_image(write: Write, tmp_path: Path) -> None:
    about = {"caption": " A ring. ", "label": 3, "facts": ["there is a ring "]}
    train = read(
        write,
        tmp_path,
        "train",
        {"image": "a", "question": "What?", "answer": "ring"} | about,
        {"image": "a", "captions": ["One.", "Two."]} | about,
        {"image": "a", "answer": "ring", "facts": [], "caption": None},
    )
    told = [(s.caption, s.label, s.facts) for s in train]
    assert told == [("A ring.", "3", ("there is a ring",))] * 3 + [("", "", ())]


def test_the_digest_is_that_of_before_where_nothing_is_told() -> None:
    plain = TextSample("1", "Who?", ("a",), {"I": 1.0}, ("I",), "g")
    data = TextDataset("vqa", Path(), {"train": (plain,)})
    assert data.digest() == ("eefd7b8c9f12b3715aa54d927d9de57889b2ee7e6521e259ebe5e84a86a9eab6")
    changed = (
        replace(plain, caption="x"),
        replace(plain, label="x"),
        replace(plain, facts=("x",)),
    )
    digests = {TextDataset("vqa", Path(), {"train": (s,)}).digest() for s in (plain, *changed)}
    assert len(digests) == 4


def test_captions_train_one_by_one(write: Write, tmp_path: Path) -> None:
    got = read(write, tmp_path, "train", {"id": 7, "image": "a", "captions": ["A ring.", "Two."]})
    assert [(s.key, dict(s.targets)) for s in got] == [
        ("7-0", {"A ring.": 1.0}),
        ("7-1", {"Two.": 1.0}),
    ]
    assert {s.references for s in got} == {("A ring.", "Two.")}


@settings(max_examples=40, deadline=None)  # it writes and syncs files
@given(st.lists(samples, max_size=4, unique_by=lambda s: s.key), st.booleans())
def test_what_was_written_is_read_back_equal(written: list[TextSample], video: bool) -> None:
    with TemporaryDirectory() as folder:
        for part in ("train", "test"):
            write_jsonl(Path(folder) / f"{part}.jsonl", written, video=video)
        data = open_plain(Path(folder), "vqa")
        assert data["train"] == data["test"] == tuple(written)


def test_a_written_line_is_short_and_readable(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    ten = ("2",) * 6 + ("two",) * 3 + ("3",)
    given = [
        TextSample("1", "Größe?", ("a.png",), {"12 µm": 1.0}, ("12 µm",)),
        TextSample("2", "How many?", ("a", "b"), {"2": 1.0, "two": 0.9, "3": 0.3}, ten),
    ]
    write_jsonl(path, given)
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert first == '{"id": "1", "image": "a.png", "question": "Größe?", "answer": "12 µm"}'
    assert json.loads(second)["answers"] == list(ten)
    write_jsonl(path, [TextSample("1", "", ("clips/1",), {"a": 1.0}, ("a",))], video=True)
    assert json.loads(path.read_text())["video"] == "clips/1"


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "val.jsonl"
    write_jsonl(path, [TextSample("1", "Who?")])
    before = path.read_bytes()

    def broken() -> Any:
        yield TextSample("2", "Who?")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_jsonl(path, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_task_comes_from_the_caller_or_from_the_folder(write: Write, tmp_path: Path) -> None:
    write("test.jsonl", [{"question": "Who?"}])
    with pytest.raises(DataError, match=r"says no task\. Name one, or write .*task\.json"):
        open_plain(tmp_path)
    write("task.json", {"task": "gqa"})
    assert open_plain(tmp_path).task == "gqa"
    assert open_task("vqa", tmp_path).task == "vqa"
    write("task.json", {"tusk": "gqa"})
    with pytest.raises(DataError, match=r"task\.json: field 'task' is missing; it has tusk"):
        open_plain(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            {"question": "Who?", "anwser": "I"},
            r"line 2: says nothing to learn.*it has question, anwser",
        ),
        (
            {"image": "a", "images": ["b"], "answer": "x"},
            r"line 2: has image and images\. Keep one",
        ),
        ({"image": "a", "answer": "x", "captions": ["y"]}, r"line 2: has answer and captions"),
        (
            {"image": "a", "answer": ["x"]},
            r"line 2: field 'answer' must be a text.*it is \[\"x\"\]",
        ),
        ({"image": "a", "answer": " "}, r"line 2: field 'answer' must be a text that is not empty"),
        ({"image": "a", "answers": ["x", 3]}, r"line 2: field 'answers' must be a list of strings"),
        ({"image": "a", "answers": []}, r"line 2: field 'answers' must hold at least one text"),
        ({"image": "a", "captions": ["x", " "]}, r"line 2: field 'captions' .*no empty one"),
        ({"image": "a", "targets": {"x": -1}}, r"line 2: field 'targets' must give each answer"),
        ({"image": ["a"], "answer": "x"}, r"line 2: field 'image' must be a text"),
        (
            {"answer": "x", "question": "?", "caption": ["y"]},
            r"line 2: field 'caption' must be a str",
        ),
        ({"answer": "x", "question": "?", "label": True}, r"line 2: field 'label' must be a text"),
        (
            {"answer": "x", "question": "?", "facts": "y"},
            r"line 2: field 'facts' must be a list of",
        ),
        ({"answer": "x", "question": "?", "facts": [" "]}, r"line 2: field 'facts' .*no empty one"),
        ({"answer": "x"}, r"line 2: has neither an image nor a question\. Add one"),
        ([1], r"line 2: must be a JSON object"),
    ],
)
def test_a_wrong_line_is_named_with_line_and_field(
    write: Write, tmp_path: Path, line: Any, message: str
) -> None:
    write("train.jsonl", [{"question": "Who?", "answer": "I"}, line])
    with pytest.raises(DataError, match=rf"train\.jsonl, {message}"):
        open_plain(tmp_path, "vqa")


def test_a_line_that_is_no_json_is_counted_with_the_empty_ones(tmp_path: Path) -> None:
    (tmp_path / "val.jsonl").write_text('\ufeff{"question": "Who?"}\n\n{"question"\n', "utf-8")
    with pytest.raises(DataError, match=r"val\.jsonl, line 3: not JSON"):
        open_plain(tmp_path, "vqa")


def test_line_separators_inside_a_string_do_not_end_the_line(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "val.jsonl", [TextSample("1", "one\u2028two\x85three")])
    assert open_plain(tmp_path, "vqa")["val"][0].text == "one\u2028two\x85three"


def test_a_folder_without_parts_and_names_without_files_are_told(
    write: Write, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"no annotations of vqa.*train\.jsonl.*test\.jsonl"):
        open_plain(tmp_path, "vqa")
    (tmp_path / "clips" / "1").mkdir(parents=True)
    write("val.jsonl", [{"video": "clips/1"}, {"image": "b.png"}, {"image": "a.png"}])
    data = open_plain(tmp_path, "vqa")
    assert data.images == ("a.png", "b.png", "clips/1")
    assert data.missing() == ("a.png", "b.png")
    absolute = str(tmp_path / "clips" / "1")
    write("val.jsonl", [{"video": absolute}, {"image": "x" * 300}, {"image": "a\0"}])
    data = open_plain(tmp_path, "vqa")
    assert [s.images for s in data["val"]] == [(absolute,), ("x" * 300,), ("a\0",)]
    assert data.missing() == ("a\0", "x" * 300)


def test_ids_must_be_unique_in_their_part_only() -> None:
    one = TextSample("1", "Who?")
    TextDataset("vqa", Path(), {"train": (one,), "val": (one,)})
    with pytest.raises(DataError, match=r"train has id '1' twice"):
        TextDataset("vqa", Path(), {"train": (one, one)})

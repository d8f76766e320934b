"""The reference's annotation files: which row becomes which sample of which part."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from petiole.data.readers.registry import open_features, open_task
from petiole.data.readers.vqa import soft_targets
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError, DataError

Write = Callable[[str, Any], Path]


def vqa_item(key: int, **more: Any) -> dict[str, Any]:
    image = f"COCO_val2014_{key:012d}"
    return {"question_id": key, "img_id": image, "sent": f"What is {key}? "} | more


def humans(*answers: str) -> list[dict[str, Any]]:
    return [
        {"answer": a, "answer_confidence": "yes", "answer_id": i} for i, a in enumerate(answers)
    ]


def test_vqa_learns_soft_labels_and_is_scored_against_the_published_answers(
    write: Write, tmp_path: Path
) -> None:
    own, published = ["no"] * 10, ["red"] * 6 + ["dark red"] * 4
    write("vqa/karpathy_train.json", [vqa_item(1, label={"net": 1, "nets": 0.3}), vqa_item(2)])
    write(
        "vqa/karpathy_val.json",
        [vqa_item(3, answers=humans(*own)), vqa_item(4, answers=humans(*own))],
    )
    write(
        "vqa/v2_mscoco_val2014_annotations.json",
        {"annotations": [{"question_id": 3, "answers": humans(*published)}]},
    )
    data = open_task("vqa", tmp_path)
    assert list(data.parts) == ["train", "val"]
    assert data["train"] == (
        TextSample("1", "What is 1?", ("COCO_val2014_000000000001",), {"net": 1.0, "nets": 0.3}),
        TextSample("2", "What is 2?", ("COCO_val2014_000000000002",)),
    )
    assert data["val"][0].references == tuple(published)
    assert data["val"][1].references == tuple(own)
    with pytest.raises(DataError, match=r"vqa has no part 'test'; it has train, val"):
        data["test"]


@pytest.mark.parametrize(("people", "score"), [(1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_soft_targets_are_the_mean_over_the_ten_leave_one_out_subsets(
    people: int, score: float
) -> None:
    answers = ("red",) * people + tuple(f"other {i}" for i in range(10 - people))
    naive = 0.0
    for left_out in range(10):
        others = [a for i, a in enumerate(answers) if i != left_out]
        naive += min(1.0, others.count("red") / 3) / 10
    assert soft_targets(answers)["red"] == pytest.approx(naive, abs=1e-12)
    assert soft_targets(answers)["red"] == score


def test_other_than_ten_answers_are_weighed_by_their_share() -> None:
    assert soft_targets(("a", "b", "a", "a")) == {"a": 0.75, "b": 0.25}
    assert soft_targets(()) == {}


def test_gqa_trains_on_train_and_valid_and_reports_testdev(write: Write, tmp_path: Path) -> None:
    def item(key: str, answer: str) -> dict[str, Any]:
        return {"img_id": "2375429", "label": {answer: 1.0}, "question_id": key, "sent": "Who?"}

    write("GQA/train.json", [item("01", "pipe")])
    write("GQA/valid.json", [item("02", "cat")])
    write("GQA/testdev.json", [item("03", "dog")])
    data = open_task("gqa", tmp_path)
    assert [s.key for s in data["train"]] == ["01", "02"]
    assert data["test"] == (TextSample("03", "Who?", ("2375429",), {"dog": 1.0}, ("dog",)),)
    assert set(data.parts) == {"train", "test"}


def test_nlvr2_has_two_images_and_groups_the_pairs_of_a_sentence(
    write: Write, tmp_path: Path
) -> None:
    def item(key: str, label: int) -> dict[str, Any]:
        images = {f"img{i}": f"{key[:-2]}-img{i}" for i in (0, 1)}
        return {"identifier": key, "label": label, "sent": "Two dogs.", "uid": key} | images

    rows = [item("dev-7-0-0", 1), item("dev-7-1-0", 0), item("dev-7-0-1", 0)]
    write("nlvr/valid.json", rows)
    first, second, third = open_task("nlvr", tmp_path)["val"]
    assert first == TextSample(
        "dev-7-0-0",
        "Two dogs.",
        ("dev-7-0-img0", "dev-7-0-img1"),
        {"true": 1.0},
        ("true",),
        "dev-7-0",
    )
    assert second.targets == {"false": 1.0}
    assert first.group == second.group != third.group
    write("nlvr/valid.json", [item("7-0", 1)])
    with pytest.raises(
        DataError, match=r"valid\.json, item 0: field 'identifier' must be split-set"
    ):
        open_task("nlvr", tmp_path)
    write("nlvr/valid.json", [item("dev-7-0-0", 2)])
    with pytest.raises(DataError, match=r"'label' must be one of 0, 1, .*it is 2"):
        open_task("nlvr", tmp_path)


def test_coco_trains_on_every_caption_of_train_and_restval(write: Write, tmp_path: Path) -> None:
    def image(split: str, number: int) -> dict[str, Any]:
        sentences = [{"raw": f" Caption {c} of {number}. "} for c in "ab"]
        return {"filename": f"COCO_x_{number}.jpg", "split": split, "sentences": sentences}

    rows = [image("train", 1), image("restval", 2), image("val", 3), image("test", 4)]
    write("COCO/dataset_coco.json", {"images": rows, "dataset": "coco"})
    data = open_task("caption", tmp_path)
    both = ("Caption a of 1.", "Caption b of 1.")
    assert [s.key for s in data["train"]] == [
        "COCO_x_1-0",
        "COCO_x_1-1",
        "COCO_x_2-0",
        "COCO_x_2-1",
    ]
    assert data["train"][1] == TextSample("COCO_x_1-1", "", ("COCO_x_1",), {both[1]: 1.0}, both)
    [val] = data["val"]
    assert (val.key, len(val.references), len(data["test"])) == ("COCO_x_3", 2, 1)
    assert set(val.targets) == set(val.references)


def tvqa_item(key: int, **more: Any) -> dict[str, Any]:
    choices = {f"a{i}": f"Choice {i}. " for i in range(5)}
    row = {"qid": key, "q": " Why? ", "ts": "20.16-25.12", "vid_name": "s03", "show_name": "S"}
    return row | choices | more


def test_a_video_question_is_written_as_the_reference_writes_it(
    write: Write, tmp_path: Path
) -> None:
    lines = [
        {"text": " Sheldon : Hi. ", "start": 0.1, "end": 1},
        {"text": "Bye.", "start": 2, "end": 3},
    ]
    write("video/ann/tv_subtitles.jsonl", [{"vid_name": "s03", "sub": lines}])
    write("video/ann/tvqa/tvqa_train.jsonl", [tvqa_item(1, answer_idx=4)])
    write("video/ann/tvqa/tvqa_test_release.jsonl", [tvqa_item(2)])
    [sample] = open_task("tvqa", tmp_path)["train"]
    assert sample.text == (
        "[Subs] Sheldon : Hi. Bye. [Q] Why? [TS] (20.16-25.12) [Choices] a0: Choice 0. "
        "a1: Choice 1. a2: Choice 2. a3: Choice 3. a4: Choice 4."
    )
    assert (sample.images, sample.targets, sample.references) == (("s03",), {"a4": 1.0}, ("a4",))
    data = open_task("tvqa", tmp_path, order="safe")
    assert data["train"][0].text == (
        "[Q] Why? [Choices] a0: Choice 0. a1: Choice 1. a2: Choice 2. a3: Choice 3. a4: Choice 4. "
        "[TS] (20.16-25.12) [Subs] Sheldon : Hi. Bye."
    )
    assert data["test"][0].targets == {}
    with pytest.raises(ConfigError, match=r"Unknown order 'best'"):
        open_task("tvqa", tmp_path, order="best")  # type: ignore[arg-type]
    write("video/ann/tvqa/tvqa_train.jsonl", [tvqa_item(1, answer_idx=5)])
    with pytest.raises(
        DataError, match=r"train\.jsonl, line 1: field 'answer_idx' must be one of 0"
    ):
        open_task("tvqa", tmp_path)
    write("video/ann/tvqa/tvqa_train.jsonl", [tvqa_item(1, vid_name="s04")])
    with pytest.raises(DataError, match=r"line 1: video 's04' has no subtitles\. Add it"):
        open_task("tvqa", tmp_path)


def test_how2qa_has_four_choices_and_prefers_the_public_test(write: Write, tmp_path: Path) -> None:
    write("video/ann/how2_subtitles.jsonl", [{"vid_name": "s03", "sub": []}])
    for part, key in (("test_private", 1), ("test_public_release", 2)):
        write(f"video/ann/how2qa/how2qa_{part}.jsonl", [tvqa_item(key, answer_idx=3)])
    [sample] = open_task("how2qa", tmp_path)["test"]
    assert sample.key == "2"
    assert sample.text.endswith("a3: Choice 3.")
    assert sample.targets == {"a3": 1.0}


@pytest.mark.parametrize(
    ("task", "source", "text"),
    [("tvc", "tv", "[Subs] Hi. [TS] ([35.73, 40.9])"), ("yc2c", "yc2", "[Subs] Hi.")],
)
def test_a_clip_is_described_once_a_description_in_training_and_once_in_evaluation(
    write: Write, tmp_path: Path, task: str, source: str, text: str
) -> None:
    descs = [
        {"desc": f"Meredith {w}.", "desc_id": i, "type": "v"} for i, w in enumerate(("a", "b"))
    ]
    clip = {"vid_name": "g", "duration": 94, "ts": [35.73, 40.9], "clip_id": 9}
    write(f"video/ann/{source}_subtitles.jsonl", [{"vid_name": "g", "sub": [{"text": "Hi."}]}])
    for part in ("train", "val"):
        write(f"video/ann/{task}/{task}_{part}_release.jsonl", [clip | {"descs": descs}])
    write(f"video/ann/{task}/{task}_test_release.jsonl", [clip])
    data = open_task(task, tmp_path)
    assert [s.key for s in data["train"]] == ["9-0", "9-1"]
    assert [dict(s.targets) for s in data["train"]] == [{"Meredith a.": 1.0}, {"Meredith b.": 1.0}]
    [val], [test] = data["val"], data["test"]
    assert (val.text, val.references) == (text, ("Meredith a.", "Meredith b."))
    assert (test.key, test.text, test.references) == ("9", text, ())


def test_what_is_not_there_is_named(write: Write, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no annotations of gqa\. Expected .*GQA.train\.json"):
        open_task("gqa", tmp_path)
    with pytest.raises(DataError, match=r"dataset_coco\.json: no such file"):
        open_task("caption", tmp_path)
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        open_task("gqa", tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"Unknown task 'gpa'\. Did you mean gqa"):
        open_task("gpa", tmp_path)
    write("vqa/karpathy_val.json", [vqa_item(1), vqa_item(1)])
    with pytest.raises(DataError, match=r"val has id '1' twice"):
        open_task("vqa", tmp_path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({}, r"karpathy_val\.json, item 0: field 'question_id' is missing; it has none\. Add it"),
        (
            vqa_item(1, label={"a": 0}),
            r"item 0: field 'label' must give each answer a weight above 0",
        ),
        (vqa_item(1, label=["a"]), r"'label' must give each answer a weight"),
        (vqa_item(1, sent=3), r"'sent' must be a string; it is 3\. Correct it there"),
        (vqa_item(1, img_id=True), r"'img_id' must be a text that is not empty"),
        (vqa_item(1, answers=["red"]), r"'answers' must be a list of objects"),
        (vqa_item(1, answers=[{}]), r"item 0, answers\[0\]: field 'answer' is missing"),
        ([1], r"item 0: must be a JSON object"),
    ],
)
def test_a_wrong_row_is_named_with_place_field_and_value(
    write: Write, tmp_path: Path, row: Any, message: str
) -> None:
    write("vqa/karpathy_val.json", [row])
    with pytest.raises(DataError, match=message):
        open_task("vqa", tmp_path)


@pytest.mark.parametrize(
    ("content", "message"), [("{", "not JSON"), ("{}", "must hold a JSON list")]
)
def test_a_file_of_another_form_is_named(
    write: Write, tmp_path: Path, content: str, message: str
) -> None:
    write("vqa/karpathy_val.json", []).write_text(content)
    with pytest.raises(DataError, match=rf"karpathy_val\.json: {message}"):
        open_task("vqa", tmp_path)
    (tmp_path / "vqa/karpathy_val.json").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not readable as UTF-8"):
        open_task("vqa", tmp_path)


def test_the_digest_depends_on_samples_and_task_but_not_on_the_place(tmp_path: Path) -> None:
    one, two = TextSample("1", "Who?", ("a",)), TextSample("2", "Who?", ("a",))
    data = TextDataset("vqa", tmp_path, {"val": (one, two)})
    assert TextDataset("vqa", tmp_path / "b", {"val": (one, two)}).digest() == data.digest()
    others = [("gqa", (one, two)), ("vqa", (two, one)), ("vqa", (one,))]
    digests = {TextDataset(task, tmp_path, {"val": s}).digest() for task, s in others}
    assert len(digests | {data.digest()}) == 4


def test_features_are_found_where_the_reference_keeps_them(write: Write, tmp_path: Path) -> None:
    folder = write("video/vis_features/how2/clip-vit/x.json", 0).parent
    np.savez(folder / "v.npz", features=np.ones((3, 512), np.float16))
    assert open_features("how2qa", tmp_path)("v").tokens.shape == (3, 512)
    with pytest.raises(
        DataError, match=r"no features of gqa\. Expected one of " + re.escape(str(tmp_path))
    ):
        open_features("gqa", tmp_path)
    for task in ("how2q", "question"):  # the latter has no stored features
        with pytest.raises(ConfigError, match=rf"Unknown task '{task}'"):
            open_features(task, tmp_path)

"""Datasets of a few samples that are no files: parts, halves, draws, targets, and what is said of what they lack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from petiole.data import label_safe, sources, typiclust
from petiole.data.checks import leaks
from petiole.data.checks.images import build, match_classes
from petiole.data.checks.leaks import LeakPair, LeakReport, find_leaks
from petiole.data.checks.thumbnails import Thumbnails, perceptual_hash
from petiole.data.dataset import Dataset, Sample, bullets, listed, resolve_duplicates, same_classes
from petiole.data.labels import are_labels, are_numbers, class_names, is_label, unique
from petiole.data.sources import DomainShift, open_shift
from petiole.data.splits import class_folds, draw_fraction, draw_shots, holdout
from petiole.data.targets import (
    IMAGE,
    TargetImages,
    label_matrix,
    labels_text,
    names_in,
    unknown_labels,
    value_matrix,
    value_names,
    value_text,
)
from petiole.data.task_batches import TaskBatches
from petiole.errors import DataError


def data(name: str = "d", counts: dict[str, int] | None = None, domain: Any = "target") -> Dataset:
    """Samples called ``a0``, ``a1``, ``b0``, ..."""
    counts = counts or {"a": 3, "b": 2}
    samples = [
        Sample(Path(f"{name}/{c}{i}"), label, f"{domain}{c}{i}", domain)
        for label, (c, n) in enumerate(counts.items())
        for i in range(n)
    ]
    return Dataset(name, tuple(counts), tuple(samples))


def test_halves_of_the_classes() -> None:
    three = {"a": 1, "b": 2, "c": 3}
    whole = DomainShift(data("s", three, "source"), data("t", three), data("e", three), draw_shots)
    assert whole.half("all") is whole
    base, novel = whole.half("base"), whole.half("novel")
    assert (base.classes, novel.classes) == (("a", "b"), ("c",))
    assert novel.source is not None
    assert [len(one) for one in (novel.source, novel.train, novel.test, base.test)] == [3, 3, 3, 3]
    assert set(novel.test.labels.tolist()) == {0}
    assert novel.sampler is draw_shots
    none = DomainShift(None, data("t", three), data("e", three)).half("base")
    assert none.source is None
    with pytest.raises(DataError, match="t has one class, too few for base and novel ones"):
        DomainShift(None, data("t", {"a": 1}), data("e", {"a": 1})).half("base")
    with pytest.raises(DataError, match="t and s must have the same classes"):
        DomainShift(data("s", {"a": 1}, "source"), data("t"), data("e"))
    drawn = whole.draw(1, 0)
    assert drawn.counts() == {"a": 1, "b": 1, "c": 1}
    own = replace(whole, sampler=lambda d, shots, seed: d.select([shots + seed]))
    assert own.draw(1, 2).samples == whole.train.samples[3:4]


def test_parts_that_are_given_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a reader finds, beside a test set and a source of other classes."""
    found: dict[str, Any] = {"source": None, "train": None, "test": None, "sampler": None, "classes": None}  # fmt: skip
    reader = SimpleNamespace(name="odd", split=lambda _, **how: SimpleNamespace(**found, how=how))  # fmt: skip
    monkeypatch.setattr(sources, "reader_of", lambda *_: reader)
    with pytest.raises(DataError, match=r"x: its layout \(odd\) has no images at all"):
        open_shift("x")
    only = data("test only")
    found["test"] = only
    shift = open_shift("x")
    assert shift == DomainShift(None, only, only)
    found |= {"train": data("train"), "test": None}
    split = open_shift("x", test_fraction=0.4, seed=3)
    assert (split.train, split.test) == holdout(found["train"], 0.4, 3)
    other = data("more", {"b": 1, "z": 4})
    shift = open_shift("x", test=other)
    assert (shift.classes, len(shift.test), shift.test.classes) == (("a", "b"), 1, ("a", "b"))
    assert any("other classes and not scored" in note for note in shift.test.notes)
    with pytest.raises(DataError, match="must have the same classes"):
        open_shift("x", other)
    kept = open_shift("x", other, skip_bad=True).source
    assert kept is not None
    assert (kept.classes, kept.domains) == (("a", "b"), ("source",))
    found["classes"] = ("b", "a")
    given = open_shift("x", data("s"), test=data("e"), skip_bad=True).source
    assert given is not None
    with pytest.raises(DataError, match="class in more"):
        open_shift("x", other)
    monkeypatch.setattr(sources, "reader_of", lambda *_: None)
    with pytest.raises(DataError, match="x: no reader recognises what lies there"):
        open_shift("x")


def test_shares_and_folds_of_each_class() -> None:
    ten = data("ten", {"a": 10, "b": 4})
    assert draw_fraction(ten, 1, 0) == ten
    assert draw_fraction(ten, 0.26, 0).counts() == {"a": 3, "b": 2}
    for fraction in (0, 1.01, -0.5, float("nan")):
        with pytest.raises(DataError, match=rf"training images is {fraction}; it must lie in"):
            draw_fraction(ten, fraction, 0)
    for fraction in (0, 1):
        with pytest.raises(DataError, match=f"held-back fraction {fraction} must lie strictly"):
            holdout(ten, fraction, 0)
    sizes = [holdout(ten, fraction, 0)[1].counts() for fraction in (0.01, 0.25, 0.35, 0.99)]
    assert sizes == [{"a": 1, "b": 1}, {"a": 3, "b": 1}, {"a": 4, "b": 1}, {"a": 9, "b": 3}]
    with pytest.raises(DataError, match="d: class b has fewer than 2 images: no split"):
        holdout(data(counts={"a": 2, "b": 1}), 0.5, 0)
    parts = [set(holdout(ten, 0.5, 0, fold)[1].ids) for fold in range(3)]
    assert not parts[0] & parts[1]
    assert parts[2] == parts[0]
    labels = np.array([1, 0, 0, 1, 0, 2])
    assert class_folds(labels, 2).tolist() == [0, 0, 1, 1, 0, 0]
    assert class_folds(labels, 9).tolist() == [0, 0, 1, 1, 2, 0]
    assert class_folds(np.zeros(0, np.int64), 2).tolist() == []
    with pytest.raises(DataError, match=r"left out of 1 fold\(s\)"):
        class_folds(labels, 1)
    with pytest.raises(DataError, match="Cannot draw 0 shots"):
        draw_shots(ten, 0, 0)
    short = draw_shots(ten, 5, 0)
    assert short.counts() == {"a": 5, "b": 4}
    assert short.notes == ("1 of 2 classes have fewer than 5 images to train on, and all of them are taken: b 4.",)  # fmt: skip
    assert draw_shots(ten, 4, 0).notes == ()


def test_a_dataset_holds_names_that_files_can_hold() -> None:
    for classes, words in (
        (("a", "a"), "d: a class name occurs twice in"),
        (("a", "x" * 1001), "d: a class name has 1,001 characters and begins with 'x{40}'"),
        (("a", "\ud800"), "holds half a surrogate pair"),
        ((), r"labels \[0\] have no class; there are 0 classes"),
    ):
        with pytest.raises(DataError, match=words):
            Dataset("d", classes, (Sample(Path("p"), 0, "i"),))
    with pytest.raises(DataError, match=r"labels \[-1, 1\] have no class; there are 1 classes"):
        Dataset("d", ("a",), tuple(Sample(Path("p"), label, "i") for label in (-1, 0, 1)))


def test_a_part_is_chosen_by_increasing_numbers_or_a_mask() -> None:
    five = data()
    assert five.select([0, 4]).paths == (five.paths[0], five.paths[4])
    assert len(five.select([])) == 0
    assert five.select(np.array([True, False, False, False, True])).ids == five.select([0, 4]).ids
    for bad in ([-1, 0], [0, 5], [1, 1], [2, 1]):
        with pytest.raises(DataError, match=r"indices must increase strictly within 0\.\.4"):
            five.select(bad)
    with pytest.raises(DataError, match=r"a mask of shape \(4,\) does not fit 5 samples"):
        five.select(np.zeros(4, bool))
    with pytest.raises(DataError, match="d has no class 'z'"):
        five.of_classes(["a", "z"])
    turned = five.of_classes(["b", "a"])
    assert (turned.classes, turned.labels.tolist()) == (("b", "a"), [0, 0, 1, 1, 1])


def test_classes_that_others_know() -> None:
    aligned = data(counts={"b": 2, "z": 3, "y": 0}).aligned(["a", "b", "c"])
    assert (aligned.classes, aligned.labels.tolist()) == (("a", "b", "c"), [1, 1])
    assert aligned.notes == (
        "3 images of d are of 1 other classes and not scored: z 3.",
        "2 of 3 classes have no images in d, so scores are of the other 1: a, c.",
    )
    assert data().aligned(["a", "b"]).notes == ()
    with pytest.raises(DataError, match="d: has images of a, b, and none of the classes that are known: x"):  # fmt: skip
        data().aligned(["x"])
    with pytest.raises(DataError, match="same classes in another order; pass classes="):
        same_classes(data(), data("e", {"b": 1, "a": 1}))
    with pytest.raises(DataError, match=r"Only in d: a\. Only in e: c\."):
        same_classes(data(), data("e", {"b": 1, "c": 1}))
    match_classes("d", ["b", "a"], ["a", "b"])
    with pytest.raises(DataError, match="d: no images of class b, c; it has a"):
        match_classes("d", ["a"], ["a", "b", "c"])
    with pytest.raises(DataError, match="class in d"):
        match_classes("d", ["a", "z"], ["a"])


def test_lists_say_how_many_more() -> None:
    names = [str(i) for i in range(11)]
    assert listed(names[:10]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert listed(names).endswith("8, 9, and 1 more")
    assert (listed([]), listed(["a", "b"], 1)) == ("none", "a, and 1 more")
    assert bullets(names[:10]).splitlines()[-1] == "  9"
    assert bullets(names).splitlines()[-2:] == ["  9", "  ... and 1 more"]


def test_the_same_image_twice() -> None:
    rows = [("b", 0, "i"), ("a", 0, "i"), ("c", 1, "j"), ("d", 0, "j"), ("e", 0, "k")]
    samples = [Sample(Path(path), label, of) for path, label, of in rows]
    with pytest.raises(DataError, match=r"two labels, 1 time\(s\):\n  c \(y\) = d \(x\)"):
        resolve_duplicates(samples, ("x", "y"))
    kept, notes = resolve_duplicates(samples, ("x", "y"), skip_bad=True)
    assert sorted(str(s.path) for s in kept) == ["a", "e"]
    assert notes == (
        "2 files left out: the same image under two labels.",
        "1 files left out: byte-equal to another of the same class.",
    )
    other = replace(samples[0], domain="source")
    assert len(resolve_duplicates([samples[1], other], ("x",))[0]) == 2
    with pytest.raises(DataError, match="d: no images found"):
        build("d", [], None, skip_bad=True)


def said(*texts: str, outputs: tuple[str, ...] = ()) -> TargetImages:
    images = data(counts={IMAGE: len(texts)})
    return TargetImages(images, dict(zip(images.ids, texts, strict=True)), outputs)


def test_labels_of_images() -> None:
    part = said("cat|dog", "", "ant")
    assert names_in([part, said("bee")]) == ("ant", "bee", "cat", "dog")
    assert label_matrix(part, ("dog", "ant")).tolist() == [[1, 0], [0, 0], [0, 1]]
    assert label_matrix(part.select(part.images.select([])), ("a", "b")).shape == (0, 2)
    assert labels_text("dog | cat ||cat", "") == "cat|dog"
    (note,) = unknown_labels(part, ("cat",))
    assert note == "2 labels of d are not trained on and not scored: ant, dog."
    assert unknown_labels(part, ("cat", "dog", "ant")) == ()


def test_numbers_of_images() -> None:
    assert value_text(" 1.50|2e0", "row 1") == "1.5|2.0"
    for bad in ("x", "", "nan", "1|inf"):
        with pytest.raises(DataError, match=r"row 1: .* is no finite number"):
            value_text(bad, "row 1")
    assert value_names(said("1.0", "2.0")) == ("value",)
    assert value_names(said("1.0", outputs=("height",))) == ("height",)
    assert value_names(said("1.0|2.0")) == ("value 1", "value 2")
    assert value_matrix(said("1.0|2.0", "3.0|4.0"), ("value 1", "value 2")).tolist() == [[1, 2], [3, 4]]  # fmt: skip
    odd = TargetImages(data(), {"targeta0": "1|2", "targeta1": "3"})
    with pytest.raises(DataError, match=r"a1: 1 number\(s\) are said of this image, and 2 of others"):  # fmt: skip
        value_names(odd)
    with pytest.raises(DataError, match="d has the numbers value, and those of the training are height"):  # fmt: skip
        value_matrix(said("1.0"), ("height",))


def test_targets_are_joined_where_they_agree() -> None:
    one = TargetImages(data(), dict.fromkeys(data().ids, "x"))
    few = one.select(one.images.select([0]))
    assert few.said == {"targeta0": "x"}
    assert one.joined(few).said == one.said
    assert one.digest() != few.digest()
    third = replace(few, images=data("e").select([1]), said={"targeta1": "y"})
    with pytest.raises(DataError, match=r"e/a1: d says 'x' of this image, and e 'y'"):
        one.joined(third)


def test_labels_are_names_or_numbers() -> None:
    assert class_names([1, 0], None, None, "list") == (["1", "0"], ("0", "1"), [])
    assert class_names([10, 9], None, None, "list")[1] == ("9", "10")
    assert class_names(["b", "a"], None, None, "list") == (["b", "a"], None, [])
    named, order, notes = class_names([2, 0], None, ("x", "y", "z"), "list")
    assert (named, order) == (["z", "x"], ("x", "z"))
    assert notes == ["1 classes have no image and are left out: y."]
    assert class_names([1], ("x", "y"), None, "list") == (["y"], ("x", "y"), [])
    for number in (-1, 2):
        with pytest.raises(DataError, match=rf"item 0 of the list: label {number}, but there are 2 classes, 0 to 1"):  # fmt: skip
            class_names([number], ("x", "y"), None, "list")
    for bad in (1.5, None, " ", (1,)):
        with pytest.raises(DataError, match="is neither a name nor a whole number"):
            class_names([bad], None, None, "list")
    with pytest.raises(DataError, match="class"):
        class_names(["q"], ("x",), None, "list")
    assert are_numbers([np.int64(3)])
    assert not are_numbers(["a"])
    assert not are_numbers([])
    assert [is_label(v) for v in ("a", 1, 1.5, None, np.float32(1), np.zeros(2), [1])] == [True] * 5 + [False] * 2  # fmt: skip
    assert [are_labels(v) for v in ([1, "a"], np.zeros(3), np.zeros((3, 1)), [[1]], "ab")] == [True, True, False, False, False]  # fmt: skip
    unique(["a", "b"], "dict")
    with pytest.raises(DataError, match="dict: the class name 'b' occurs twice"):
        unique(["b", "a", "b"], "dict")


def test_leaks_of_features_are_at_the_cosine_itself_and_told_once() -> None:
    train, test = data("p", {"a": 2}), data("q", {"a": 2}, "source")
    blank = Thumbnails(np.zeros(2, np.uint64), np.zeros(2, bool), np.zeros((2, 1024), np.uint8))
    a, b = np.array([[1.0, 0], [0, 2]]), np.array([[3.0, 4], [0, 0]])
    found = find_leaks(train, test, features=(a, b), thumbnails=(blank, blank), cosine=np.float32(0.6))  # fmt: skip
    assert [(p.train.name, p.test.name, p.how, round(p.value, 4)) for p in found.pairs] == [("a0", "a0", "cosine", 0.6), ("a1", "a0", "cosine", 0.8)]  # fmt: skip
    assert found.counts() == {"sha256": 0, "phash": 0, "cosine": 2}
    assert found.notes == ("4 of 4 images are too small (under 32 px) or too flat for a perceptual hash and were compared by the other means only.",)  # fmt: skip
    none = find_leaks(train, test, thumbnails=(blank, blank))
    assert none.notes[1] == "Features were not compared."
    assert none.summary().startswith("No image of the training side was found on the test side. 4")
    for wrong in (np.zeros(2), np.zeros((3, 2))):
        with pytest.raises(DataError, match=r"q: features of shape .* do not fit 2 images"):
            find_leaks(train, test, features=(a, wrong), thumbnails=(blank, blank))


def test_leaks_are_said_from_the_folder_that_all_share() -> None:
    pair = LeakPair(Path("/x/train/a"), Path("/x/test/b"), "phash", 3)
    said = LeakReport((pair,), ("Note.",), {"sha256": 0, "phash": 1200, "cosine": 1}).summary()
    assert said.splitlines() == [
        "1,201 pair(s) of training and test images look the same: 1,200 by phash, 1 by cosine.",
        "  train/a ~ test/b (phash 3)",
        "Note.",
    ]
    for paths in (["/x/a", "b"], ["in memory/list/0", "in memory/list/1"]):
        given = [Path(p.replace("in memory", leaks.MEMORY)) for p in paths]
        assert leaks._from_common_folder(given) == {path: str(path) for path in given}
    assert leaks._from_common_folder([Path("x/a"), Path("x/b")]) == {Path("x/a"): "a", Path("x/b"): "b"}  # fmt: skip


@pytest.mark.parametrize(("tiles", "quiet", "hidden"), [(19, False, True), (20, False, False), (20, True, True)])  # fmt: skip
def test_a_bar_is_shown_where_one_can_read_it(
    tiles: int, quiet: bool, hidden: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(leaks, "_TILE", 1)
    monkeypatch.setattr(leaks, "track", lambda steps, _, total, **how: seen.append((total, how["disable"])) or steps)  # fmt: skip
    leaks._search(tiles, 1, {}, quiet)
    assert seen == [(tiles, hidden)]
    monkeypatch.setattr(Thumbnails, "of", lambda samples, shown: list(shown(samples)))
    for count, disabled in ((499, True), (500, quiet)):
        images: Any = type("Images", (), {"samples": [1], "__len__": lambda _, n=count: n})()
        seen.clear()
        leaks._read(images, quiet)
        assert seen == [(count, disabled)]


def test_a_hash_leaves_the_mean_out_of_its_median() -> None:
    """A ramp, whose lowest frequencies are the largest: beside the mean, half of 63 coefficients are above their median."""
    ramp = np.linspace(250, 5, 40)[None, :] + np.linspace(0, 3, 40)[:, None]
    noise = np.random.default_rng(0).normal(0, 3, (40, 40))
    found = perceptual_hash(Image.fromarray((ramp + noise).clip(0, 255).astype(np.uint8)))
    assert found is not None
    bits = f"{found:064b}"
    assert bits[:2] == "11"
    assert bits.count("1") == 32


def test_a_folder_states_which_views_keep_its_labels(tmp_path: Path) -> None:
    assert label_safe.stated_augmentation(tmp_path) == ""
    assert label_safe.stated_augmentation([1]) == ""
    label_safe.state_augmentation(tmp_path, "digits")
    assert label_safe.stated_augmentation(tmp_path) == "digits"
    for text, words in (
        ('{"augmentation": "digit"}', r"views\.json: .*digits"),
        ("{}", "does not say which views keep the labels"),
        ("[", "does not say which views keep the labels"),
    ):
        (tmp_path / label_safe.VIEWS).write_text(text)
        with pytest.raises(DataError, match=words):
            label_safe.stated_augmentation(tmp_path)


def test_images_to_label_are_of_those_without_a_label() -> None:
    vectors = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]])
    free = np.array([False, True, True, True])
    for budget in (0, 4):
        with pytest.raises(DataError, match=rf"{budget} images cannot be chosen of 3 without a label\. Ask for 1 to 3"):  # fmt: skip
            typiclust.typiclust(vectors, ~free, budget)
    assert {one.row for one in typiclust.typiclust(vectors, ~free, 3)} == {1, 2, 3}
    assert len(typiclust.typiclust(vectors, ~free, 1)) == 1
    assert typiclust._typicality(np.ones((1, 2), np.float32)).tolist() == [0]
    line = np.arange(23, dtype=np.float32)[:, None]
    far = typiclust._typicality(line)
    assert far[11] == pytest.approx(1 / (2 * sum(range(1, 11)) / 20))  # twenty of 22 others
    assert far[0] == pytest.approx(1 / (sum(range(1, 21)) / 20))
    assert typiclust._typicality(line[:3])[1] == pytest.approx(1.0)
    assert typiclust._typicality(np.zeros((2, 1), np.float32)).tolist() == [1e6, 1e6]


def test_mixed_batches_stand_by_the_shares_of_their_passes() -> None:
    """Sample k of task t at (k + u_t) / n_t."""
    batches = TaskBatches({"a": 3, "b": 5}, {"a": 2, "b": 2}, 7, "mixed")
    u = batches._rng(4, 1).random(2)
    line = sorted(((k + u[t]) / n, t, k) for t, n in enumerate((3, 5)) for k in range(n))
    task, rank = batches._merge(4)
    assert list(zip(task.tolist(), rank.tolist(), strict=True)) == [(t, k) for _, t, k in line]
    assert len(batches) == 2 + 3
    assert [sum(len(rows) for _, rows in batches(5 * 4 + i)) for i in range(5)] == [1, 2, 1, 2, 2]

"""Draws are a function of content and seed; the split file brings them back or says why not."""

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.data.dataset import Dataset, Sample
from petiole.data.sources import open_folder
from petiole.data.splits import draw_shots, holdout, image_ids, read_split, write_split
from petiole.errors import DataError

MakeFolder = Callable[..., Path]


def dataset(counts: list[int], salt: str = "", paths: random.Random | None = None) -> Dataset:
    """A dataset without files; ids are hashes of (class, number), paths are arbitrary."""
    samples = [
        Sample(
            Path(str(paths.random()) if paths else f"{c}/{i}"),
            c,
            hashlib.sha256(f"{salt}{c}/{i}".encode()).hexdigest(),
        )
        for c, n in enumerate(counts)
        for i in range(n)
    ]
    if paths:
        paths.shuffle(samples)
    return Dataset("d", tuple(f"class {c}" for c in range(len(counts))), tuple(samples))


counts = st.lists(st.integers(5, 12), min_size=1, max_size=4)
seeds = st.integers(0, 2**40)


@given(counts, seeds, st.integers(1, 5))
def test_a_draw_is_the_naive_ranking(sizes: list[int], seed: int, shots: int) -> None:
    d = dataset(sizes)
    expected = set()
    for c in range(len(sizes)):
        mine = [s.id for s in d.samples if s.label == c]
        expected |= set(
            sorted(mine, key=lambda i: hashlib.sha256(f"{seed}:{i}".encode()).digest())[:shots]
        )
    drawn = draw_shots(d, shots, seed)
    assert set(drawn.ids) == expected
    assert set(drawn.counts().values()) == {shots}


@given(counts, seeds, st.integers(1, 4))
def test_more_shots_contain_fewer(sizes: list[int], seed: int, shots: int) -> None:
    d = dataset(sizes)
    assert set(draw_shots(d, shots, seed).ids) < set(draw_shots(d, shots + 1, seed).ids)


@given(counts, seeds, st.randoms(use_true_random=False))
def test_names_and_order_of_files_do_not_matter(
    sizes: list[int], seed: int, rng: random.Random
) -> None:
    a, b = dataset(sizes), dataset(sizes, paths=rng)
    assert draw_shots(a, 3, seed).digest() == draw_shots(b, 3, seed).digest()
    assert [d.digest() for d in holdout(a, 0.4, seed)] == [
        d.digest() for d in holdout(b, 0.4, seed)
    ]


@given(seeds)
def test_another_class_changes_nothing_and_another_image_at_most_one(seed: int) -> None:
    small, wide, tall = dataset([10, 10]), dataset([10, 10, 8]), dataset([10, 11])
    drawn = set(draw_shots(small, 5, seed).ids)
    assert drawn < set(draw_shots(wide, 5, seed).ids)
    assert len(drawn - set(draw_shots(tall, 5, seed).ids)) <= 1


def test_draws_are_uniform_over_seeds() -> None:
    """Each of ten images is in a 3-shot draw 3 times in 10; 2,000 seeds, five sigma."""
    d = dataset([10])
    times = Counter(i for seed in range(2000) for i in draw_shots(d, 3, seed).ids)
    assert len(times) == 10
    sigma = (2000 * 0.3 * 0.7) ** 0.5
    assert all(abs(n - 600) < 5 * sigma for n in times.values())


@given(counts, seeds, st.floats(0.05, 0.95))
def test_holdout_partitions_every_class(sizes: list[int], seed: int, fraction: float) -> None:
    d = dataset(sizes)
    kept, held = holdout(d, fraction, seed)
    assert sorted(kept.ids + held.ids) == sorted(d.ids)
    for n, h, k in zip(sizes, held.counts().values(), kept.counts().values(), strict=True):
        assert h >= 1
        assert k >= 1
        assert abs(h - n * fraction) <= 1


def test_folds_hold_every_image_back_once() -> None:
    d = dataset([8, 4])
    parts = [holdout(d, 0.25, 0, fold) for fold in range(4)]
    assert sorted(i for _, held in parts for i in held.ids) == sorted(d.ids)
    assert all({*kept.ids, *held.ids} == set(d.ids) for kept, held in parts)
    assert holdout(d, 0.25, 0, 4)[1].digest() == parts[0][1].digest()


def test_small_classes_give_all_that_they_have() -> None:
    d = dataset([5, 2, 9])
    drawn = draw_shots(d, 5, 0)
    assert list(drawn.counts().values()) == [5, 2, 5]
    assert drawn.notes == (
        "1 of 3 classes have fewer than 5 images to train on, and all of them are taken: class 1 2.",
    )
    assert draw_shots(d, 2, 0).notes == ()


def test_impossible_draws_name_class_count_and_remedy() -> None:
    d = dataset([5, 2, 9])
    with pytest.raises(DataError, match="at least 1"):
        draw_shots(d, 0, 0)
    with pytest.raises(DataError, match="class 0 has fewer than 2"):
        holdout(dataset([1, 4]), 0.5, 0)
    for fraction in (0.0, 1.0, -1.0):
        with pytest.raises(DataError, match="strictly between"):
            holdout(d, fraction, 0)


def test_split_file_round_trip(make_folder: MakeFolder, tmp_path: Path) -> None:
    real = open_folder(make_folder("real"))
    parts = {
        "shots": draw_shots(real, 2, 0),
        "source": open_folder(make_folder("fake, or\nnot", start=99), domain="source"),
    }
    path = write_split(tmp_path / "run" / "split.csv", parts, meta={"seed": 0, "shots": 2})
    split = read_split(path)
    assert split.meta == {"seed": 0, "shots": 2}
    assert list(split.parts) == ["shots", "source"]
    for name, part in parts.items():
        assert split.parts[name].digest() == part.digest()
        assert split.parts[name].paths == part.paths
    assert [p.name for p in path.parent.iterdir()] == ["split.csv"]  # no temporary file stays


def test_split_file_is_the_same_wherever_the_images_lie(
    make_folder: MakeFolder, tmp_path: Path
) -> None:
    root = make_folder("real")
    first = write_split(tmp_path / "1.csv", {"all": open_folder(root)})
    moved = Path(shutil.copytree(root, tmp_path / "deep" / "copy"))
    second = write_split(tmp_path / "2.csv", {"all": open_folder(moved)})
    differing = [
        a
        for a, b in zip(
            first.read_text().splitlines(), second.read_text().splitlines(), strict=True
        )
        if a != b
    ]
    assert [line.split(":")[0] for line in differing] == ["# root", "# sha256"]
    shutil.rmtree(root)
    with pytest.raises(DataError, match=r"(?s)8 of 8 images.*0\.png: missing"):
        read_split(first)
    assert read_split(first, root=moved).parts["all"].digest() == open_folder(moved).digest()


def test_changed_images_are_named(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder("real")
    path = write_split(tmp_path / "split.csv", {"all": open_folder(root)})
    shutil.copy(root / "a" / "0.png", root / "b" / "1.png")
    with pytest.raises(DataError, match=r"(?s)1 of 8 images.*b/1\.png: changed since"):
        read_split(path)
    assert len(read_split(path, verify=False).parts["all"]) == 8


def test_wrong_split_files(make_folder: MakeFolder, tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    with pytest.raises(DataError, match="no such file"):
        read_split(path)
    good = write_split(path, {"all": open_folder(make_folder("real"))}).read_text()
    for bad in (
        "",
        "part,class\n",
        good.replace("# classes", "# klasses"),
        good.replace(",b,", ",c,"),
    ):
        path.write_text(bad)
        with pytest.raises(DataError, match="not a readable split file"):
            read_split(path)
    with pytest.raises(DataError, match="same classes"):
        write_split(path, {})
    with pytest.raises(DataError, match="JSON"):
        write_split(path, {"all": open_folder(make_folder("real"))}, meta={"x": {1, 2}})


def test_a_sealed_file_of_other_columns_is_refused(make_folder: MakeFolder, tmp_path: Path) -> None:
    good = write_split(tmp_path / "split.csv", {"all": open_folder(make_folder("real"))})
    head, _, body = good.read_text().partition("# sha256: ")
    forged = body.partition("\n")[2].replace(",id,", ",name,", 1)
    seal = hashlib.sha256((head + forged).encode()).hexdigest()
    good.write_text(f"{head}# sha256: {seal}\n{forged}")
    for read in (read_split, lambda path: image_ids(path, "all")):
        with pytest.raises(DataError, match="its columns are not part, class, domain, id, path"):
            read(good)


def test_a_failed_write_leaves_the_old_file(
    make_folder: MakeFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = open_folder(make_folder("real"))
    path = write_split(tmp_path / "run" / "split.csv", {"all": d})
    before = path.read_text()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_split(path, {"other": d})
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["split.csv"]

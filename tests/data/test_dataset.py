"""A dataset's identity is its content."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petiole.data.dataset import Dataset, Sample, resolve_duplicates
from petiole.errors import DataError

CLASSES = ("cat", "dog", "eel")


def sample(number: int, label: int = 0, domain: str = "target", path: str = "") -> Sample:
    return Sample(Path(path or f"{number}.png"), label, f"{number:064x}", domain)  # type: ignore[arg-type]


def dataset(*samples: Sample, name: str = "d", classes: tuple[str, ...] = CLASSES) -> Dataset:
    return Dataset(name, classes, samples)


numbered = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 2)), unique_by=lambda t: t[0], min_size=1
)


@given(numbered, st.randoms())
def test_order_and_place_of_files_do_not_matter(
    rows: list[tuple[int, int]], rng: random.Random
) -> None:
    a = dataset(*(sample(n, c) for n, c in rows))
    rng.shuffle(rows)
    b = dataset(*(sample(n, c, path=f"/elsewhere/{rng.random()}") for n, c in rows), name="other")
    assert a.ids == b.ids
    assert a.labels.tolist() == b.labels.tolist() == sorted(c for _, c in rows)
    assert a.digest() == b.digest()


def test_digest_sees_content_label_domain_and_classes() -> None:
    base = dataset(sample(1), sample(2, 1))
    others = [
        dataset(sample(1), sample(3, 1)),
        dataset(sample(1), sample(2, 2)),
        dataset(sample(1)),
        base.with_domain("source"),
        dataset(sample(1), sample(2, 1), classes=("cat", "dog", "ewe")),
        dataset(sample(1), sample(2, 1), classes=("cat", "eel", "dog")),
    ]
    assert len({d.digest() for d in [base, *others]}) == 7


def test_columns() -> None:
    d = dataset(sample(5, 2, "source"), sample(4, 0))
    assert len(d) == 2
    assert d.labels.dtype == np.int64
    assert d.labels.tolist() == [0, 2]
    assert d.domains == ("target", "source")
    assert d.paths == (Path("4.png"), Path("5.png"))
    assert d.counts() == {"cat": 1, "dog": 0, "eel": 1}
    with pytest.raises(ValueError, match="read-only"):
        d.labels[0] = 1


@given(numbered, st.data())
def test_select_stays_aligned_with_features(
    rows: list[tuple[int, int]], data: st.DataObject
) -> None:
    d = dataset(*(sample(n, c) for n, c in rows))
    features = np.array([int(i, 16) for i in d.ids])
    chosen = np.array(sorted(data.draw(st.sets(st.integers(0, len(d) - 1)))), dtype=int)
    assert [int(i, 16) for i in d.select(chosen).ids] == features[chosen].tolist()
    mask = np.isin(np.arange(len(d)), chosen)
    assert d.select(mask).ids == d.select(chosen).ids


@pytest.mark.parametrize("bad", [[1, 0], [0, 0], [-1], [3], np.ones(2, bool)])
def test_select_refuses_what_would_misalign(bad: object) -> None:
    d = dataset(sample(1), sample(2), sample(3))
    with pytest.raises(DataError):
        d.select(bad)  # type: ignore[arg-type]


def test_labels_without_class_and_repeated_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"labels \[3\]"):
        dataset(sample(1, 3))
    with pytest.raises(DataError, match="twice"):
        dataset(classes=("cat", "cat"))


def test_concat() -> None:
    a, b = dataset(sample(1), name="a"), dataset(sample(2, 1), sample(1), name="b")
    both = a.concat(b)
    assert [int(i, 16) for i in both.ids] == [1, 2]
    assert any("byte-equal" in n for n in both.notes)
    apart = a.concat(b.with_domain("source"))  # one image may be in both domains
    assert [int(i, 16) for i in apart.ids] == [1, 1, 2]
    assert apart.domains == ("source", "target", "source")
    with pytest.raises(DataError, match=r"two labels.*\n.*cat.*dog"):
        a.concat(dataset(sample(1, 1, path="x.png")))
    with pytest.raises(DataError, match=r"Only in a: eel\. Only in c: ewe"):
        a.concat(dataset(name="c", classes=("cat", "dog", "ewe")))
    with pytest.raises(DataError, match="another order"):
        a.concat(dataset(name="c", classes=("dog", "cat", "eel")))


@given(numbered, st.randoms())
def test_duplicates_resolve_the_same_in_any_order(
    rows: list[tuple[int, int]], rng: random.Random
) -> None:
    samples = [sample(n, c, path=f"{i}/{n}.png") for n, c in rows for i in range(rng.randint(1, 3))]
    kept, notes = resolve_duplicates(samples, CLASSES)
    rng.shuffle(samples)
    again, notes_again = resolve_duplicates(samples, CLASSES)
    assert set(kept) == set(again)
    assert notes == notes_again
    assert sorted((int(s.id, 16), s.label) for s in kept) == sorted(rows)
    assert all(s.path.parts[0] == "0" for s in kept)  # the first path stays
    dropped = len(samples) - len(rows)
    assert notes == (
        (f"{dropped} files left out: byte-equal to another of the same class.",) if dropped else ()
    )


def test_contradicting_labels() -> None:
    samples = [sample(1, 0, path="a.png"), sample(1, 1, path="b.png"), sample(2, 1)]
    with pytest.raises(DataError, match=r"a\.png \(cat\) = b\.png \(dog\)"):
        resolve_duplicates(samples, CLASSES)
    kept, notes = resolve_duplicates(samples, CLASSES, skip_bad=True)
    assert [int(s.id, 16) for s in kept] == [2]
    assert notes == ("2 files left out: the same image under two labels.",)

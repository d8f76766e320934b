"""Cached and live features agree, whatever the views, the dtype and the cut."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from builders.processes import start
from petiole.backbones.base import State
from petiole.backbones.joined import JoinedBackbone
from petiole.backbones.registry import load
from petiole.backbones.vision.cnn import ConvNet
from petiole.data.dataset import Sample
from petiole.data.inputs import as_images
from petiole.data.preprocessing import Augmentation
from petiole.data.sources import open_data
from petiole.device import Precision
from petiole.engine import feature_table
from petiole.engine.feature_extractor import Features, padded, views_of
from petiole.engine.feature_store import FeatureCache
from petiole.engine.feature_table import LiveTable, SideBySide, StoredTable
from petiole.engine.share import Share
from petiole.errors import ConfigError
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.tasks.classification.adapter import logits_of
from petiole.tasks.classification.model import AdaptedClassifier

Tiny = Callable[..., ConvNet]
CUTS = [("final.pooled",), ("final.map",), ("final.pooled", "final.map")]


def fetch_all(features: Features, root: Path, cut: tuple[str, ...], views: int = 2):
    data = open_data(root)
    table = features.table(data, cut, views, Augmentation())
    rows = torch.arange(len(data)).repeat(views + 1)
    index = torch.arange(views + 1).repeat_interleave(len(data))
    return table, table.fetch(rows, index)


@pytest.mark.parametrize("cut", CUTS, ids="+".join)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_cached_equals_live(
    tmp_path: Path, photos: Path, tiny: Tiny, cut: tuple[str, ...], dtype: str
) -> None:
    backbone = tiny()
    live, wanted = fetch_all(Features(backbone, None, dtype=dtype, quiet=True), photos, cut)
    assert isinstance(live, LiveTable)
    for _ in range(2):
        cache = FeatureCache(tmp_path)
        stored, got = fetch_all(Features(backbone, cache, dtype=dtype, quiet=True), photos, cut)
        assert isinstance(stored, StoredTable)
        for role in cut:
            assert got[role].dtype == wanted[role].dtype == torch.float32
            assert torch.equal(got[role], wanted[role])
    _, again = fetch_all(Features(backbone, FeatureCache(tmp_path), dtype=dtype), photos, cut)
    for role in cut:
        assert torch.equal(again[role], got[role])


def test_half_precision_rounds_with_and_without_a_cache(photos: Path, tiny: Tiny) -> None:
    _, half = fetch_all(Features(tiny(), None, dtype="float16", quiet=True), photos, CUTS[0])
    _, full = fetch_all(Features(tiny(), None, quiet=True), photos, CUTS[0])
    assert torch.equal(half["final.pooled"], full["final.pooled"].half().float())
    assert not torch.equal(half["final.pooled"], full["final.pooled"])


def test_random_views_differ_from_each_other(tmp_path: Path, photos: Path, tiny: Tiny) -> None:
    features = Features(tiny(), FeatureCache(tmp_path), quiet=True)
    _, state = fetch_all(features, photos, ("final.pooled",))
    views = state["final.pooled"].view(3, -1, 8)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert bool((views[a] != views[b]).any(dim=1).all())
    _, plain = fetch_all(features, photos, ("final.pooled",), views=0)
    assert torch.equal(plain["final.pooled"], views[0])


VIEWS = """
import hashlib, sys
from pathlib import Path
from petiole.data.image import read_image
from petiole.data.preprocessing import Augmentation, Preprocessing, view
half = (0.5, 0.5, 0.5)
p = Preprocessing(size=(16, 16), crop=1.0, interpolation="bilinear", mean=half, std=half)
for path, name in zip(sys.argv[1::2], sys.argv[2::2]):
    pixels = view(read_image(Path(path)), p, Augmentation(), name, 2)
    print(hashlib.sha256(pixels.numpy().tobytes()).hexdigest())
"""


def test_random_views_are_the_same_in_another_process(photos: Path, tiny: Tiny) -> None:
    samples = open_data(photos).samples[::7]
    arguments = [part for s in samples for part in (str(s.path), s.id)]
    said, _ = start(VIEWS, *arguments).communicate()
    chosen = [(s, 2) for s in samples]
    images = Features(tiny(), quiet=True).compute(chosen, ("images",), Augmentation())["images"]
    sums = [hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in images]
    assert said.split() == sums
    assert len(set(sums)) == len(samples)


def test_only_what_is_missing_is_computed(
    tmp_path: Path, photos: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    read = Features.read
    monkeypatch.setattr(
        Features, "read", lambda s, c, *rest: (seen.append(len(c)), read(s, c, *rest))[1]
    )
    features = Features(tiny(), FeatureCache(tmp_path), quiet=True)
    data = open_data(photos)
    features.table(data.select(range(7)), ("final.pooled",))
    features.table(data, ("final.pooled",))
    features.table(data, ("final.pooled",))
    assert seen == [7, len(data) - 7]


def test_other_weights_have_other_keys(tiny: Tiny) -> None:
    keys = {
        Features(tiny(seed)).key(("final.pooled",), 0, Augmentation()).digest for seed in (0, 1)
    }
    assert len(keys) == 2


def test_the_evaluation_view_does_not_depend_on_the_augmentation(tiny: Tiny) -> None:
    features = Features(tiny())
    a, b = Augmentation(), Augmentation(jitter=0.0)
    assert features.key(CUTS[0], 0, a) == features.key(CUTS[0], 0, b)
    assert features.key(CUTS[0], 1, a) != features.key(CUTS[0], 1, b)
    assert features.key(CUTS[0], 1, Augmentation.none()) == features.key(CUTS[0], 0, a)
    views = [features.key(CUTS[0], index, a) for index in range(3)]
    assert [key.view for key in views] == [0, 1, 2]
    assert [bool(key.augmentation) for key in views] == [False, True, True]


def test_views_are_those_of_a_recipe_that_changes_images() -> None:
    assert views_of(None) == (0, Augmentation.none())
    assert views_of(Recipe(views=0)) == (0, Augmentation.none())
    assert views_of(Recipe(views=3, augmentation="none")) == (0, Augmentation.none())
    count, spec = views_of(Recipe(views=3))
    assert (count, spec.identity) == (3, False)


def test_bf16_has_its_own_key_and_is_close(photos: Path, tiny: Tiny) -> None:
    mixed = Features(tiny(), None, precision="bf16", quiet=True)
    _, got = fetch_all(mixed, photos, CUTS[0])
    _, want = fetch_all(Features(tiny(), None, quiet=True), photos, CUTS[0])
    torch.testing.assert_close(got["final.pooled"], want["final.pooled"], rtol=0.05, atol=0.02)
    assert mixed.key(CUTS[0], 0, Augmentation()) != Features(tiny()).key(CUTS[0], 0, Augmentation())


def test_batches_walk_the_rows_in_order(tmp_path: Path, photos: Path, tiny: Tiny) -> None:
    data = open_data(photos)
    table = Features(tiny(), FeatureCache(tmp_path), quiet=True).table(data, ("final.map",))
    parts = [b["final.map"] for b in table.batches(len(data), 7)]
    whole = table.fetch(torch.arange(len(data)), torch.zeros(len(data), dtype=torch.long))
    assert [len(p) for p in parts] == [7, 7, 7, 7, 2]
    assert torch.equal(torch.cat(parts), whole["final.map"])


def test_what_is_asked_for_again_is_read_twice_at_most(
    photos: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is room: for five images here."""
    features, data = Features(tiny(), None, quiet=True), open_data(photos)
    size = features.views([(data.samples[0], 0)], Augmentation.none())[0].nbytes
    monkeypatch.setattr(feature_table, "KEPT", 5 * size)
    table = features.table(data, CUTS[0])
    reads: Counter[str] = Counter()
    bare = Features.views

    def counted(self: Features, chosen: Sequence[tuple[Sample, int]], spec: Augmentation):
        reads.update(sample.id for sample, _ in chosen)
        return bare(self, chosen, spec)

    monkeypatch.setattr(Features, "views", counted)
    rows = torch.arange(7)
    first = table.fetch(rows, torch.zeros_like(rows))
    for _ in range(4):
        again = table.fetch(rows.flip(0), torch.zeros_like(rows))
        assert torch.equal(again[CUTS[0][0]].flip(0), first[CUTS[0][0]])
    assert sorted(reads.values()) == [2] * 5 + [5] * 2
    table.fetch(rows, torch.ones_like(rows))
    assert sum(reads.values()) == 20 + 7, "another view is another image"


def test_the_next_batch_is_read_meanwhile(photos: Path, tiny: Tiny) -> None:
    data = open_data(photos)
    table = Features(tiny(), None, quiet=True).table(data, CUTS[0])
    assert isinstance(table, LiveTable)
    for count, state in enumerate(table.batches(10, 4)):
        expected = table._expected
        left = [(sample, 0) for sample in data.samples[4 * (count + 1) : 10]]
        assert (expected and expected[0]) == (left[:4] or None)
        assert len(state[CUTS[0][0]]) == (4, 4, 2)[count]
    assert not list(table.batches(0))


def of_tiny_vit(root: Path, precision: Precision) -> tuple[Features, list[Sample]]:
    backbone = load("petiole/tiny-vit")
    return Features(backbone, None, precision, quiet=True), list(open_data(root).samples)[:20]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_images_beside_one_decide_no_bit_of_it(photos: Path, precision: Precision) -> None:
    features, samples = of_tiny_vit(photos, precision)
    cut = ("final.cls", "final.patches")

    def values(chosen: Sequence[Sample]) -> dict[str, State]:
        state = features.compute([(s, 0) for s in chosen], cut, Augmentation.none())
        return {s.id: {role: state[role][i] for role in cut} for i, s in enumerate(chosen)}

    whole = values(samples)
    for part in (samples[:1], samples[:8:-1]):
        for image, state in values(part).items():
            for role in cut:
                assert torch.equal(state[role], whole[image][role])


def test_what_is_predicted_of_several_images_does_not_change_with_the_others(photos: Path) -> None:
    features, samples = of_tiny_vit(photos, "fp32")
    with torch.random.fork_rng():
        plan = create("linear-probe").plan(features.backbone, 3)
        torch.nn.init.normal_(plan.head.weight)  # type: ignore[arg-type]
    adapted = AdaptedClassifier(features.backbone, plan)
    refs = as_images([sample.path for sample in samples[:5]])
    whole, part = logits_of(adapted, refs), logits_of(adapted, refs[:2:-1])
    assert torch.equal(part, whole[[4, 3]])
    torch.testing.assert_close(logits_of(adapted, refs[:1]), whole[:1], rtol=1e-4, atol=1e-4)


def test_shares_have_every_image_once_and_write_what_one_writer_writes(
    tmp_path: Path, photos: Path, tiny: Tiny
) -> None:
    data, cut = open_data(photos), ("final.pooled",)
    shares = [Share(i, 3) for i in (1, 2, 3)]
    assert all(sum(share.takes(image) for share in shares) == 1 for image in data.ids)
    alone = Features(tiny(), FeatureCache(tmp_path / "alone"), quiet=True)
    reader = Features(tiny(), FeatureCache(tmp_path / "shared"), quiet=True)
    assert set(reader.missing(cut, 0, Augmentation.none(), data.ids)) == set(data.ids)
    for share in shares:
        writer = Features(tiny(), FeatureCache(tmp_path / "shared"), quiet=True)
        writer.store(data.samples, cut, share=share)
    assert not reader.missing(cut, 0, Augmentation.none(), data.ids), "it sees what others wrote"
    rows = torch.arange(len(data))
    one, other = (f.table(data, cut).fetch(rows, rows * 0) for f in (alone, reader))
    assert torch.equal(one[cut[0]], other[cut[0]])


def test_each_view_is_stored_under_its_own_key_and_no_other(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled: list[Any] = []

    def fill(_: FeatureCache, key: Any, ids: list[str], *__: Any, label: str, quiet: bool) -> None:
        filled.append((key, ids, label, quiet))

    monkeypatch.setattr("petiole.engine.feature_extractor.fill", fill)
    features, spec = Features(tiny(), FeatureCache(tmp_path), quiet=True), Augmentation()
    samples: Any = [SimpleNamespace(id=name) for name in "ba"]
    features.store(samples, CUTS[0], 2, spec, name="leaves")
    labels = ["features of leaves", "features of leaves, view 1", "features of leaves, view 2"]
    keys = [features.key(CUTS[0], index, spec) for index in range(3)]
    assert filled == [
        (key, ["a", "b"], label, True) for key, label in zip(keys, labels, strict=True)
    ]


class Two(JoinedBackbone):
    """Two backbones side by side, as far as features ask."""

    finals = ("final.joined",)  # type: ignore[assignment]

    def __init__(self) -> None: ...


def test_each_of_joined_backbones_has_features_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def part(vector: str, missing: list[str]) -> Any:
        return SimpleNamespace(
            backbone=SimpleNamespace(vector=vector),
            store=lambda *of, **how: told.append(("store", of, how)),
            missing=lambda *of: (told.append(("missing", of)), missing)[1],
            table=lambda *of: of[1],
        )

    parts = [part("a", ["x", "y"]), part("b", ["z", "x"])]
    monkeypatch.setattr(Features, "_parts", lambda _: parts)
    features, none, data = Features(Two()), Augmentation.none(), open_nothing()
    features.store(data, ("final.joined",), 2, none, share=Share(2, 3), name="made")
    how = {"share": Share(2, 3), "name": "made"}
    assert told == [("store", (data, (v,), 2, none), how) for v in "ab"]
    told.clear()
    assert features.missing(("final.joined",), 1, none, ["x", "y", "z"]) == ["x", "y", "z"]
    assert told == [("missing", ((v,), 1, none, ["x", "y", "z"])) for v in "ab"]
    table = features.table(data, ("final.joined",), 2, none)
    assert isinstance(table, SideBySide)
    assert table.tables == [("a",), ("b",)]
    told.clear()
    features.store(data, ("images",))  # which are no features of any
    assert told == []


def open_nothing() -> Any:
    return SimpleNamespace(samples=())


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "-1/3", "1/0"])
def test_a_share_that_there_is_not_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="from 1/8 to 8/8"):
        Share.parse(text)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 33])
@pytest.mark.parametrize(("device", "size"), [("cpu", 16), ("meta", 64)])
def test_images_go_through_in_chunks_of_one_size(count: int, device: str, size: int) -> None:
    images = torch.rand(count, 3, 2, 5, device=device)
    chunks = list(padded(images))
    assert {tuple(chunk.shape) for chunk, _ in chunks} == {(size, 3, 2, 5)}
    kept = [n for _, n in chunks]
    assert kept == [size] * (count // size) + [count % size] * (count % size > 0)
    if device == "cpu":
        assert torch.equal(torch.cat([chunk[:n] for chunk, n in chunks]), images)
        last, filled = chunks[-1]
        assert torch.equal(last[filled:], images[-1:].expand(size - filled, 3, 2, 5))

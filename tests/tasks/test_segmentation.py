"""A class for every pixel: masks are read, learned on patches, and come back at the size of the image."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import jaccard_score

from builders.cli import say
from builders.known import check_run
from builders.sized_data import SizedData
from petiole.backbones.registry import load_backbone
from petiole.data.masks import fineness, finer, shares
from petiole.data.readers.masks import UNKNOWN
from petiole.data.synthetic.scenes.masks import write_masks
from petiole.engine.record import read_log, read_record
from petiole.engine.run import RunSpec
from petiole.engine.run import run as run_one
from petiole.layers.moment_ridge import Moments, solve
from petiole.layers.solved import balanced_weights
from petiole.layers.standardise import Standardise
from petiole.methods.registry import create
from petiole.metrics.segmentation import confusion, ious, mask_scores
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.workspace import Subset
from petiole.tasks.segmentation import task as segmentation
from petiole.tasks.segmentation.adapter import SegmentationAdapter
from petiole.tasks.segmentation.dense import dense
from petiole.tasks.segmentation.task import of_shares
from petiole.tasks.segmentation.workspace import Segmentation

NAME = "petiole/tiny-vit"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_masks(tmp_path_factory.mktemp("masks") / "world", train=6, test=2)


@pytest.fixture(scope="module")
def run(world: Path) -> Path:
    out = world.parent / "run"
    done = say("fit", world, "--backbone", NAME, "--out", out, "--no-cache", "--quiet")
    assert not done.code, done.err
    assert "miou" in done.out
    return out


def test_from_fit_to_masks(world: Path, run: Path, tmp_path: Path) -> None:
    check_run(Path(__file__).with_name("known_segmentation.json"), run)
    record = read_record(run)
    assert (record.request.kind, record.request.method) == ("segmentation", "ridge")
    scored = say("eval", run, world, "--json").json["scores"]["test"]
    assert scored == pytest.approx(record.scores["test"], abs=1e-6)
    pictures = sorted((world / "test" / "images").iterdir())
    told = say("predict", run, world / "test" / "images", "--masks", tmp_path / "m", "--json").json
    counts = np.zeros((7, 7), dtype=np.int64)
    for picture, row in zip(pictures, told["predictions"], strict=True):
        mask = np.asarray(Image.open(tmp_path / "m" / picture.name))
        assert sum(row["shares"].values()) == pytest.approx(1)
        assert row["shares"]["background"] == pytest.approx((mask == 0).mean())
        counts += confusion(
            np.asarray(Image.open(world / "test" / "masks" / picture.name)), mask, 7
        )
    assert mask_scores(counts, 2)["miou"] == pytest.approx(scored["miou"], abs=1e-6)
    page = (run / "report.html").read_text()
    assert page.count("data:image/webp") == 2
    assert "IoU" in page
    assert len(list((run / "overlays").iterdir())) == 2


@pytest.mark.parametrize("method", ["linear-probe", "lora-qkv"])
def test_methods_train_inside_the_blocks_and_come_back(
    world: Path, tmp_path: Path, method: str
) -> None:
    task = Segmentation(NAME, world, quiet=True)
    record = run_one(RunSpec(task, method, tmp_path, {"steps": "6", "views": "0"}, Subset(2)))
    assert record.scores["test"]["miou"] > 0
    again = SegmentationAdapter.load(tmp_path / "adapter").score_on(world).scores
    assert again == pytest.approx(record.scores["test"], abs=1e-6)
    first, last = read_log(tmp_path)[0], read_log(tmp_path)[-1]
    assert last["loss"] < first["loss"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--method", "knn"), "solved for classes of images"),
        (("--method", "cls-residual-lora"), "losses on the classes of images"),
        (("--method", "lora-qkv", "--set", "views=2"), "which masks have not"),
        (("--backbone", "petiole/tiny-vit+petiole/tiny-clip"), "nothing else in common"),
    ],
)
def test_what_has_no_use_for_masks_is_refused(
    world: Path, more: tuple[str, ...], words: str
) -> None:
    done = say("fit", world, "--no-cache", "--quiet", *more)
    assert done.code
    assert words in " ".join(done.err.split())


def test_ridge_by_moments_is_scikit_learns() -> None:
    from sklearn.linear_model import Ridge

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 5, generator=generator)
    t = x @ torch.randn(5, 2, generator=generator) + torch.randn(60, 2, generator=generator)
    w = torch.rand(60, generator=generator)
    parts = [Moments.of(x[i::3], t[i::3], w[i::3]) for i in range(3)]
    weight, bias, alpha = solve(parts, (0.1, 3.0, 1e4))
    theirs = Ridge(alpha).fit(x.numpy(), t.numpy(), w.numpy())
    np.testing.assert_allclose(weight.numpy(), theirs.coef_, rtol=1e-4)
    np.testing.assert_allclose(bias.numpy(), theirs.intercept_, rtol=1e-4)
    errors = []
    for penalty in (0.1, 3.0, 1e4):
        errors.append(0.0)
        for i in range(3):
            kept = [j for j in range(60) if j % 3 != i]
            one = Ridge(penalty).fit(x[kept].numpy(), t[kept].numpy(), w[kept].numpy())
            residual = (torch.from_numpy(one.predict(x[i::3].numpy())) - t[i::3]) ** 2
            errors[-1] += float((w[i::3, None] * residual).sum())
    assert alpha == (0.1, 3.0, 1e4)[errors.index(min(errors))]


def test_a_fit_is_scikit_learns_ridge_of_cells_with_classes_alike(world: Path, run: Path) -> None:
    from sklearn.linear_model import Ridge

    backbone, head = load_backbone(NAME), SegmentationAdapter.load(run).adapted.head
    p, grid, k = (
        backbone.preprocessing,
        backbone.grid,
        fineness(backbone.preprocessing, backbone.grid),
    )
    x, s = [], []
    for picture in sorted((world / "train" / "images").iterdir()):
        with torch.no_grad():
            image = backbone.preprocess(Image.open(picture).convert("RGB"))[None]
            tokens = backbone.features(image, (backbone.patches,))[backbone.patches]
        x.append(finer(tokens, grid, k)[0].numpy())
        mask = np.asarray(Image.open(world / "train" / "masks" / picture.name))
        s.append(shares(mask, 7, p, (grid[0] * k, grid[1] * k)))
    x, s = np.concatenate(x), np.concatenate(s).astype(float)
    weights = sum(s[:, c] / s[:, c].sum() for c in range(7) if s[:, c].any())
    weights *= s.sum() / weights.sum()
    assert weights.std() > 0.5
    theirs = Ridge(float(head.chosen_alpha)).fit(x, 2 * s / s.sum(1, keepdims=True) - 1, weights)
    np.testing.assert_allclose(head.weight.numpy(), theirs.coef_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(head.bias.numpy(), theirs.intercept_, rtol=1e-3, atol=1e-3)


def test_classes_without_pixels_weigh_nothing() -> None:
    shares = torch.zeros(2, 5, 4)
    shares[:, :, 0], shares[0, 0, 0] = 1.0, 0.5
    shares[0, 0, 3] = 0.5
    wanted = torch.tensor([10 / (2 * 9.5), 0, 0, 10 / (2 * 0.5)])
    torch.testing.assert_close(balanced_weights(shares.sum((0, 1))), wanted)
    assert float((shares @ wanted).sum()) == pytest.approx(10)


def test_scores_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    truth, found = (rng.integers(0, 4, 500).astype(np.uint8) for _ in range(2))
    counts = confusion(truth, found, 5)
    want = jaccard_score(truth, found, average=None, labels=[0, 1, 2, 3])
    np.testing.assert_allclose(ious(counts)[:4], want)
    assert np.isnan(ious(counts)[4])
    assert mask_scores(counts, 1)["miou"] == pytest.approx(want.mean())
    one = np.zeros(1, np.uint8)
    assert mask_scores(confusion(one, one, 2), 1)["pixel_accuracy"] == 1
    truth[:100] = UNKNOWN
    assert confusion(truth, found, 4).sum() == 400


def test_loss_of_shares_is_that_of_pixels() -> None:
    """Ten pixels of one patch: the mean of their cross-entropies."""
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 0])
    z = torch.randn(1, 1, 3, generator=torch.Generator().manual_seed(0))
    share = torch.bincount(labels).float()[None, None] / 10
    want = torch.nn.functional.cross_entropy(z[0].expand(10, 3), labels)
    torch.testing.assert_close(of_shares(z, share), want)


def test_tokens_are_standardised_before_a_trained_head_and_a_constant_channel_stays_finite() -> (
    None
):
    tokens = torch.cat([5 + 9 * torch.randn(400, 3), torch.full((400, 1), 7.0)], dim=1)
    layer = Standardise(4)
    assert torch.equal(layer(tokens), tokens)
    layer.see(tokens)
    seen = layer(tokens)
    torch.testing.assert_close(seen.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(seen[:, :3].std(0, correction=0), torch.ones(3))


def test_a_plan_reads_patches_and_keeps_what_is_inside() -> None:
    backbone = load_backbone(NAME, device="meta")
    plan = dense(create("lora-qkv"), backbone, 3, "lora-qkv")
    assert plan.attach
    adapted = AdaptedClassifier(backbone, plan).to("meta")
    image = torch.zeros(2, 3, *backbone.preprocessing.size, device="meta")
    assert adapted({"images": image}).logits.shape == (2, backbone.local_tokens, 3)


def test_every_scored_image_has_a_row_and_the_first_are_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    samples = [SimpleNamespace(path=Path(f"{n}.png"), id=f"i{n}") for n in range(10)]
    truth, found = np.array([[0, 1]]), np.array([[0, 0]])
    shown: list[Any] = []
    counted: list[Any] = []
    patch = lambda name, what: monkeypatch.setattr(segmentation, name, what)  # noqa: E731
    patch("masked", lambda part: part)
    patch("count_test_evaluation", lambda *given, **how: counted.append((*given, how)))
    patch("load", lambda sample: SimpleNamespace(size=(2, 1), of=sample.id))
    patch("patch_scores", lambda adapted, table, count: [f"{adapted} {table}"] * count)
    patch("pixels_of", lambda *given: found if given == ("adapted table", (2, 1), "how", (7, 7)) else None)  # fmt: skip
    patch("write_overlay", lambda file, image, *masks: shown.append((file, image.of, masks)))
    test = SimpleNamespace(
        mask=lambda one, size, names: truth if (one in said, size, names) == (True, (2, 1), ["a", "b"]) else None,
        digest=lambda: "digest", said=(said := {f"i{n}": f"m{n}" for n in range(10)}), masks={f"m{n}": f"masks/{n}.png" for n in range(10)},
    )  # fmt: skip
    workspace = SimpleNamespace(
        targets={"test": test}, table=lambda scored, cut: "table" if (scored, cut) == (run.scored, "cut") else None,
        backbone=SimpleNamespace(preprocessing="how", grid=(7, 7)),
    )  # fmt: skip
    run: Any = SimpleNamespace(
        workspace=workspace, scored=SizedData(SimpleNamespace(samples=samples, classes=[]), 10), names=["a", "b"],
        subset=SimpleNamespace(scored="test"),
    )  # fmt: skip

    class Adapted(SimpleNamespace):
        def __str__(self) -> str:
            return "adapted"

    scores = segmentation.SegmentationRun.evaluate(run, Adapted(cut="cut"), tmp_path)  # type: ignore[arg-type]
    assert counted == [(tmp_path, "digest", 10, "end of training", {"once": True})]
    assert run.counts.tolist() == [[10, 0], [10, 0]]
    assert scores["test"]["pixel_accuracy"] == 0.5
    head, *rows = (tmp_path / segmentation.TABLE).read_text().splitlines()
    assert head == "path,sha256,mask,miou,pixel_accuracy"
    assert rows == [f"{n}.png,i{n},masks/{n}.png,0.250000,0.500000" for n in range(10)]
    assert shown == [(tmp_path / f"overlays/{n}.webp", f"i{n}", (truth, found)) for n in range(segmentation.SHOWN)]  # fmt: skip

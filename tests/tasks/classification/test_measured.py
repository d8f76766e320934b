"""What is measured of an adapter and its training views, by hand; what folding keeps, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from builders.comparisons import images
from builders.images import write_images
from petiole.backbones.hooks import observed
from petiole.data.dataset import Dataset
from petiole.data.image import load
from petiole.data.preprocessing import evaluate_transform
from petiole.data.sources import open_data
from petiole.errors import AdapterError
from petiole.methods.recipe import Recipe
from petiole.methods.registry import create
from petiole.metrics.reduced_rank import effective_rank
from petiole.tasks.classification import fold, spectrum, view_check
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.export.plain import linear_head
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.spectrum import BlockSpectrum, Moments, ShiftSpectrum
from petiole.tasks.classification.view_check import FALL, check_views, warning
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips
from petiole.testing.random_weights import images as pixels
from petiole.testing.random_weights import seeded, shaken


def adapted(method: str, backbone: Any, **settings: Any) -> AdaptedClassifier:
    with seeded():
        made = AdaptedClassifier(backbone, create(method, settings).plan(backbone, 3))
        shaken(made)
    return made.eval()


# --- how far tokens are moved ------------------------------------------------------------------------


def test_how_far_each_block_is_moved_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of an adapter with prompts, whose tokens stand behind the image's own; seven of nine images, in three batches."""
    data = open_data(write_images(tmp_path, 3, 0, classes=("a", "b", "c"), side=28))
    monkeypatch.setattr(spectrum, "IMAGES", 7)
    monkeypatch.setattr(spectrum, "BATCH", 3)
    for method in ("adaptertune", "vpt-deep"):
        model = adapted(method, backbone := tiny.plain(), rank=2) if method == "adaptertune" else adapted(method, backbone := tiny.plain())  # fmt: skip
        found = spectrum.changes(model, data)
        roles = [f"block.{i}.out" for i in range(tiny.DEPTH)]
        assert [one.role for one in found] == roles
        kept = [data.samples[i] for i in (0, 1, 3, 4, 5, 7, 8)]
        pixels = torch.stack([evaluate_transform(backbone.preprocessing)(load(s)) for s in kept])
        with torch.no_grad():
            with observed(backbone, roles) as seen:
                backbone.upper({"images": pixels}, (backbone.vector,))
                bare = {role: seen[role].double() for role in roles}
            with model.attached(), observed(backbone, roles) as seen:
                model({"images": pixels})
                moved = {role: seen[role].double() for role in roles}
        for one in found:
            x = bare[one.role]
            shift = moved[one.role][:, : x.shape[1]] - x
            moments = Moments(backbone.width)
            moments.add(x.flatten(0, 1), shift.flatten(0, 1))
            values = np.array(moments.spectrum()[0])
            assert one.energy == pytest.approx(np.linalg.norm(values), rel=1e-3)
            assert one.effective_rank == pytest.approx(effective_rank(values), rel=1e-3)
            assert one.energy > 0


def test_nothing_is_told_where_no_token_moves_or_there_are_too_few(tmp_path: Path) -> None:
    data = open_data(write_images(tmp_path, 1, 0, side=28))
    assert spectrum.changes(adapted("linear-probe", tiny.plain()), data) == []
    model = adapted("adaptertune", tiny.plain(), rank=2)
    assert spectrum.changes(model, data) == [], "15 tokens in 24 dimensions"


def test_a_spectrum_over_blocks() -> None:
    blocks = [
        BlockSpectrum(role="block.0.out", values=[3.0, 0.0], noise=0.25, gradient=[6.0, 8.0]),
        BlockSpectrum(role="block.1.out", values=[4.0, 2.0], noise=0.75, gradient=[0.0, 2.0]),
    ]
    whole = ShiftSpectrum(teacher="t", width=2, images=8, tokens=40, blocks=blocks)
    assert whole.enough
    assert not whole.model_copy(update={"tokens": 39}).enough
    assert whole.tokens_per_image == 5
    assert whole.values == pytest.approx([12.5**0.5, 2**0.5])
    assert whole.noise == 0.5
    assert whole.gradient == pytest.approx([(0.36 / 2) ** 0.5, ((0.64 + 1) / 2) ** 0.5])


# --- training views ----------------------------------------------------------------------------------


class Views:
    """Vectors of images in their evaluation view and in a random one, and what was asked for."""

    def __init__(self, backbone: Any, vectors: list[Tensor]) -> None:
        self.backbone, self.features = backbone, SimpleNamespace(device=torch.device("cpu"))
        self.vectors, self.asked = vectors, list[Any]()

    def table(self, data: Dataset, cut: tuple[str, ...], recipe: Recipe) -> Any:
        self.asked.append((data.ids, cut, recipe))
        return self

    def fetch(self, rows: Tensor, views: Tensor) -> dict[str, Tensor]:
        [view] = set(views.tolist())
        return {self.backbone.vector: self.vectors[view][rows]}


def test_views_are_judged_by_class_means_of_the_target_s_images(monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(view_check, "IMAGES", 4)
    own = images("t", [0, 0, 0, 1, 1, 1, 1])
    both = images("s", [0, 1], domain="source").concat(own)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    calm = torch.stack([right, right, wrong, wrong])
    views = torch.stack([right, right, wrong, right])
    recipe = Recipe(views=2)
    workspace: Any = Views(tiny.resnet(), [calm, views])
    found = check_views(workspace, both, recipe)
    assert found == {"class means, evaluation view": 100.0, "class means, training views": 75.0}
    [(ids, cut, used)] = workspace.asked
    assert ids == tuple(own.ids[i] for i in (0, 2, 4, 6))
    assert (cut, used) == ((workspace.backbone.vector,), recipe)
    check_views(workspace, both, Recipe(views=2, train_on="source"))
    assert set(workspace.asked[-1][0]) & set(both.ids[:2])
    count = len(workspace.asked)
    assert check_views(workspace, both, Recipe(views=0)) == {}
    assert len(workspace.asked) == count
    one_each: Any = Views(tiny.resnet(), [calm, views])
    assert check_views(one_each, images("t", [0, 1]), recipe) == {}


def test_a_dual_encoder_judges_views_by_its_class_names() -> None:
    towers = clips.towers()
    data = images("pets", [0, 1, 2, 0], ("cat", "dog", "fish"))
    zero = AdaptedClassifier(towers, create("zero-shot").plan(towers, 3)).eval()
    zero.name(data.classes, data.name)
    with seeded():
        vectors = torch.randn(4, towers.width)
    workspace: Any = Views(towers, [vectors, -vectors])
    found = check_views(workspace, data, Recipe(views=1))
    with torch.no_grad():
        right = [(zero({towers.vector: v}).logits.argmax(1) == torch.tensor(data.labels.copy())).float().mean() for v in (vectors, -vectors)]  # fmt: skip
    assert list(found) == ["zero-shot, evaluation view", "zero-shot, training views"]
    assert list(found.values()) == [pytest.approx(100 * float(share)) for share in right]
    scores = view_check._zero_shot(workspace, data)
    assert scores is not None
    assert not scores(vectors.requires_grad_()).requires_grad


@pytest.mark.parametrize(("fall", "told"), [(FALL, False), (FALL + 0.5, True)])
def test_a_fall_of_five_points_is_none(fall: float, told: bool) -> None:
    checked = {"a, evaluation view": 80.0, "a, training views": 80.0 - fall}
    assert bool(warning(checked, Recipe())) == told


# --- folding -----------------------------------------------------------------------------------------


def named(method: str, towers: Any, **settings: Any) -> ClassificationAdapter:
    model = adapted(method, towers, **settings)
    classes = ["cat", "dog", "fish"]
    model.name(classes)
    return ClassificationAdapter.of(model, method=method, settings=settings, classes=classes)


@pytest.mark.parametrize(("method", "settings"), [("ivlp", {"depth": 2})])
def test_a_folded_adapter_gives_the_same_logits_without_a_text_tower(
    method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    towers = clips.towers()
    adapter = named(method, towers, **settings)
    with torch.no_grad():
        wanted = adapter.adapted({"images": pixels(towers)}).logits
    folded = fold.fold(adapter)
    for name in ("text", "encode_text"):
        monkeypatch.delattr(type(towers), name, raising=False)
    with torch.no_grad():
        found = folded.adapted({"images": pixels(towers)}).logits
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert not folded.adapted.training
    assert not any(name.startswith("attach.text") for name in folded.adapted.state_dict())
    assert folded.manifest.settings == {"method": method, "settings": settings}
    assert not any(p.requires_grad and p.grad_fn for p in folded.adapted.parameters())


def test_what_has_no_one_vector_a_class_is_not_folded() -> None:
    backbone = tiny.plain()
    model = adapted("linear-probe", backbone)
    adapter = ClassificationAdapter.of(model, method="linear-probe", settings={}, classes=["a", "b", "c"])  # fmt: skip
    with pytest.raises(AdapterError, match="linear-probe has no one vector for each class name"):
        fold.fold(adapter)


@pytest.mark.parametrize(("change", "refused"), [(0.9e-5, False), (1.1e-5, True)])
def test_folding_may_change_logits_by_rounding_alone(change: float, refused: bool) -> None:
    def of(golden: list[float]) -> Any:
        return SimpleNamespace(manifest=SimpleNamespace(golden=golden))

    after = of([1.0, 3.0 - 4 * change])
    if refused:
        with pytest.raises(AdapterError, match=r"differ by 1\.1e-05"):
            fold._check(of([1.0, 3.0]), after)
    else:
        fold._check(of([1.0, 3.0]), after)


# --- plain forms -------------------------------------------------------------------------------------


def test_only_a_linear_map_of_the_image_vector_has_a_plain_form() -> None:
    weight, bias = linear_head(adapted("linear-probe", backbone := tiny.plain()))
    with seeded():
        x = torch.randn(5, backbone.width)
    model = adapted("linear-probe", backbone)
    with torch.no_grad():
        wanted = model.head(model.refine(model.pool(x)))
    torch.testing.assert_close(x @ weight.T + bias, wanted, rtol=1e-4, atol=1e-5)
    assert not weight.requires_grad
    with pytest.raises(AdapterError, match=r"\(.*\) is no linear map of the image vector"):
        linear_head(adapted("cosine", backbone))
    model.plan = replace(model.plan, reads=(backbone.vector, backbone.patches))
    with pytest.raises(AdapterError, match=r"an ordinary classifier reads .* alone"):
        linear_head(model)

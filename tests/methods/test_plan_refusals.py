"""What a method says of a backbone that it does not fit, of settings that contradict each other, and whether its plan begins at the frozen model."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from petiole.backbones.base import Backbone
from petiole.errors import ConfigError
from petiole.layers.heads import CosineHead, LinearHead
from petiole.methods.codebook.base import CaptioningMethod
from petiole.methods.codebook.craft import FeatureAnchor, VisionFT
from petiole.methods.path_search import PathSearch
from petiole.methods.peft import library
from petiole.methods.peft.cls_residual import _at_class_means
from petiole.methods.peft.lora import rows_of
from petiole.methods.prompt_learning.ogen import FeatureGenerator, UnknownClasses, _nearest
from petiole.methods.recipe import Recipe
from petiole.methods.registry import check_read, create, create_stated
from petiole.methods.self_distillation import SelfDistillation
from petiole.methods.test_time.affine import Affine
from petiole.methods.test_time.lora_ttt import LoRATTT
from petiole.methods.text import encoder_decoder_of
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips
from petiole.testing.text_methods import TextCase


@pytest.fixture(scope="module")
def towers() -> Backbone:
    return clips.towers()


@pytest.fixture(scope="module")
def vit() -> Backbone:
    return tiny.plain()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("maple", {"text_prompts": 3}, "equally many in both towers, not 3 and 2"),
        ("coop+ogen", {"host": "zero-shot-ensemble", "neighbours": 0}, "neighbours=0"),
        ("coop+ogen", {"host": "linear-probe"}, "reads the name of any class; linear-probe does not"),
        ("folded", {"method": "linear-probe"}, "linear-probe has no class vectors to store"),
        ("coop+textrefiner", {"host": "linear-probe"}, "one vector for each class name; linear-probe has none"),
        ("carot", {"host": "linear-probe"}, "classes are sentences; those of linear-probe are not"),
        ("vl-adapter", {}, "adapts a language model, and test/clip has none"),
        ("vl-compacter", {"drawn": "factors"}, "adapts a language model"),
        ("lora-qkv", {"targets": "q,x"}, "LoRA target"),
        ("advclip-lora", {"perturbation": "each", "compat": True}, "set perturbation=shared"),
        ("glora", {"paths": "a,b"}, "paths has 2 paths, and test/clip has 15 layers for them"),
        ("peft:lora", {"r": 0}, "peft:lora"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    towers: Backbone, name: str, settings: dict[str, Any], words: str
) -> None:
    if name == "maple":
        words = words.replace("and 2", f"and {create('maple').image_prompts}")  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=words):
        create(name, settings).plan(towers, 3)


def test_one_class_has_no_unknown_ones(towers: Backbone) -> None:
    with pytest.raises(ConfigError, match="it needs two"):
        create("coop+ogen").plan(towers, 1)
    assert create("coop+ogen").plan(towers, 2).losses


@pytest.mark.parametrize(
    ("name", "settings", "identity"),
    [
        ("ssf", {"std": 0}, True),
        ("ssf", {}, False),
        ("vpt-deep", {}, False),
        ("lora-qkv", {}, True),
        ("full", {}, True),
        ("peft:lora", {}, None),
    ],
)
def test_whether_a_plan_begins_at_the_frozen_model(
    vit: Backbone, name: str, settings: dict[str, Any], identity: bool | None
) -> None:
    assert create(name, settings).plan(vit, 3).identity is identity


def test_prompts_begin_elsewhere(towers: Backbone) -> None:
    assert create("maple").plan(towers, 3).identity is False
    own = SimpleNamespace(depth=2, takes_tokens=False, name="naflex")
    with pytest.raises(ConfigError, match="blocks of naflex take the image's own tokens only"):
        create("vpt-deep").plan(own, 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="adapts a language model, and vit has none"):
        encoder_decoder_of(SimpleNamespace(name="vit"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "identity"),
    [("vl-adapter", False), ("vl-compacter", False), ("vl-hyperformer", False), ("vl-lora", True), ("vl-prompt", False), ("vl-prefix", False)],
)  # fmt: skip
def test_whether_a_plan_for_texts_begins_at_the_frozen_model(name: str, identity: bool) -> None:
    model = TextCase("vl-adapter", "bart").model
    assert create(name).plan(model).identity is identity


def test_rows_of_a_layer_are_read_where_they_are_floats() -> None:
    layer = nn.Linear(3, 4)
    rows, bias = rows_of(SimpleNamespace(module=layer, columns=slice(1, 3)), "dora")  # type: ignore[arg-type]
    assert torch.equal(rows, layer.weight[1:3])
    assert torch.equal(bias, layer.bias[1:3])  # type: ignore[arg-type]
    plain = nn.Linear(3, 4, bias=False)
    whole, none = rows_of(SimpleNamespace(module=plain, columns=None), "dora")  # type: ignore[arg-type]
    assert torch.equal(whole, plain.weight)
    assert none is None
    plain.weight = nn.Parameter(torch.zeros(4, 3, dtype=torch.uint8), requires_grad=False)
    for module, words in (
        (nn.ReLU(), "dora needs a linear layer, not ReLU"),
        (plain, "dora reads the frozen weights, which bitsandbytes has packed"),
    ):
        with pytest.raises(ConfigError, match=words):
            rows_of(SimpleNamespace(module=module, columns=None), "dora")  # type: ignore[arg-type]


def test_class_means_are_of_the_target_and_for_cosines() -> None:
    refine: Any = nn.Identity()
    h, labels = torch.eye(4)[:, :3] + 1, torch.tensor([0, 1, 0, 1])
    for target, chosen in ((labels < 9, 4), (torch.tensor([True, True, False, False]), 2), (labels > 9, 4)):  # fmt: skip
        head = CosineHead(3, 2)
        seen: list[Any] = []
        head.imprint = lambda *given: seen.append(given)  # type: ignore[method-assign]  # noqa: B023
        _at_class_means(refine, head, h, labels, target)
        assert torch.equal(seen[0][0], h[:chosen])
        assert torch.equal(seen[0][1], labels[:chosen])
    with pytest.raises(ConfigError, match="start=class-means is of a cosine head"):
        _at_class_means(refine, LinearHead(3, 2), h, labels, labels < 9)


def test_ways_to_adapt_need_their_places() -> None:
    for way, words in (
        (Affine(), r"needs the norms of a ViT's blocks, and odd has no block\.0\.mlp\.in"),
        (LoRATTT(blocks="all"), "attention of a plain ViT, and odd has none"),
    ):
        odd = SimpleNamespace(depth=1, roles=["block.0.attn.in"], name="odd")
        with pytest.raises(ConfigError, match=words):
            way.check(SimpleNamespace(backbone=odd))  # type: ignore[arg-type]
    roles = ["block.0.attn.in", "block.0.mlp.in", "block.0.attn.q", "block.0.in"]
    for way in (Affine(), LoRATTT(blocks="all")):
        fits = SimpleNamespace(depth=1, roles=roles, name="fits")
        way.check(SimpleNamespace(backbone=fits))  # type: ignore[arg-type]
        for lost in {Affine: ["block.0.attn.in"], LoRATTT: ["block.0.in", "block.0.attn.q"]}[type(way)]:  # fmt: skip
            less = SimpleNamespace(depth=1, roles=[r for r in roles if r != lost], name="odd")
            with pytest.raises(ConfigError, match="and odd has no"):
                way.check(SimpleNamespace(backbone=less))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"average_mean": 1, "average_decay": 0.5}, "average_mean and average_decay are 2 averages .* set average_mean to 0"),
        ({"average_mean": 1, "average_decay": 0.5, "average_window": 2}, "are 3 averages .* set all but one to 0"),
        ({"average_rise": 0.1}, "average_rise=0.1 is of a moving average"),
        ({"patience": 1}, "patience=1 ends a training whose best step is kept"),
        ({"min_steps": 3, "max_steps": 2}, "min_steps=3 is more than max_steps=2"),
        ({"schedule": "epochs", "epochs": 0.5, "batch_size": 2}, r"set epochs \\(now 0.5\\) and batch_size \\(now 2\\)"),
        ({"schedule": "epochs", "epochs": 1.5, "batch_size": 2}, "count whole epochs"),
        ({"average_mean": 1, "epochs": 1, "batch_size": 0}, "count whole epochs"),
        ({"schedule": "epochs", "epochs": 2, "batch_size": 2, "min_steps": 1}, "count 2 epochs, and min_steps=1 or"),
        ({"schedule": "epochs", "epochs": 2, "batch_size": 2, "max_steps": 1}, "max_steps=1 would end"),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("\\\\", "\\")):
        Recipe(**settings)


def test_what_a_recipe_can_be() -> None:
    whole = {"epochs": 1, "batch_size": 1}
    for settings in ({"average_mean": 1, **whole}, {"average_decay": 0.5, "average_rise": 0.1}, {"patience": 1, "select": "best"}, {"min_steps": 2, "max_steps": 2}, {"min_steps": 3}, {"schedule": "epochs", **whole}):  # fmt: skip
        assert Recipe(**settings)  # type: ignore[arg-type]


def test_the_length_of_a_training() -> None:
    assert Recipe(steps=7).length(3.0) == 7
    assert Recipe(steps=7).resolved(10, 2).steps == 7
    counted = Recipe(epochs=2.5, min_steps=4, max_steps=9)
    assert [counted.length(a_pass) for a_pass in (1.0, 2.0, 2.1, 3.9)] == [4, 5, 6, 9]
    assert Recipe(epochs=0.01).length(1.0) == 1
    a_class = Recipe(source_per_class=3, target_per_class=2, classes_per_batch=4)
    assert [a_class.images_per_step(classes) for classes in (3, 4, 5)] == [15, 20, 20]
    assert a_class.a_pass(50, 4) == 2.5
    assert a_class.a_pass(5, 4) == 1
    shuffled = {drop: Recipe(batch_size=4, drop_last=drop) for drop in (False, True)}
    assert [shuffled[drop].a_pass(10, 3) for drop in (False, True)] == [3, 2]
    assert [shuffled[drop].a_pass(3, 3) for drop in (False, True)] == [1, 1]
    assert Recipe(epochs=3, batch_size=4).resolved(10, 3).steps == 9


def test_a_stated_setting_that_no_training_reads_is_refused() -> None:
    assert create("zero-shot", {"lr": 0.5}).recipe.lr == 0.5
    with pytest.raises(ConfigError, match=r"nothing would use lr\. Leave it out\.$"):
        create_stated("zero-shot", {"lr": 0.5})
    with pytest.raises(
        ConfigError,
        match=r"nothing would use lr\. .* Of a recipe it reads class_weight, train_on\.",
    ):
        check_read("averaged-ridge", {"lr": 0.5})
    check_read("zero-shot", {"templates": ("{}",)})
    check_read("lora-qkv", {"lr": 0.5, "rank": 2})
    check_read("averaged-ridge", {"train_on": "target"})
    assert create_stated("lora-qkv", {"lr": 0.5}).recipe.lr == 0.5


def test_a_length_in_steps_replaces_one_in_epochs() -> None:
    for name in ("lora-qkv", "coop"):
        recipe = create(name, {"steps": 7}).recipe
        assert (recipe.steps, recipe.epochs, recipe.schedule) == (7, 0, "steps")
    both = create("lora-qkv", {"steps": 7, "epochs": 2}).recipe
    assert (both.steps, both.epochs) == (7, 2)


def test_a_run_that_teaches_itself_needs_a_teacher() -> None:
    loss = SelfDistillation(temperature=2.0, measure="mse")
    logits = torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    step: Any = SimpleNamespace(logits=logits, again=lambda: (None, logits + 4))
    with pytest.raises(ConfigError, match="SelfDistillation has no teacher"):
        loss(step)
    from contextlib import nullcontext

    loss.learn_from(SimpleNamespace(weights=nullcontext))  # type: ignore[arg-type]
    assert float(loss(step)) == 16 / 4
    soft = SelfDistillation(temperature=2.0)
    soft.learn_from(SimpleNamespace(weights=nullcontext))  # type: ignore[arg-type]
    assert float(soft(step)) == pytest.approx(float(-(logits / 2).softmax(1).mul((logits / 2).log_softmax(1)).sum(1).mean()) * 4, abs=3)  # fmt: skip
    step.again = None
    with pytest.raises(ConfigError, match="SelfDistillation has no teacher"):
        loss(step)


@pytest.mark.parametrize(("depth", "ends"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (12, [3, 6, 9, 12]), (6, [2, 3, 4, 6])])  # fmt: skip
def test_features_are_anchored_after_each_quarter(
    depth: int, ends: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CaptioningMethod, "losses", lambda *_: ("captions",))
    model: Any = SimpleNamespace(tower=SimpleNamespace(image_backbone=SimpleNamespace(depth=depth)))
    captions, anchor = VisionFT(anchor=1.0).losses(model)
    assert captions == "captions"
    assert isinstance(anchor, FeatureAnchor)
    assert anchor.studies == tuple(f"block.{end - 1}.out" for end in ends)
    assert VisionFT(anchor=0.0).losses(model) == ("captions",)


class Layer:
    """Paths of three sizes."""

    paths = ("a", "bb", "ccc")

    def size(self, path: str) -> int:
        return len(path)


def test_a_search_finds_the_smallest_of_the_best_and_asks_once() -> None:
    asked: list[Any] = []
    layers: Any = (Layer(), Layer(), Layer())
    search = PathSearch(layers, population=9, rounds=6, parents=3, mutation=0.4)
    found = search.best(lambda paths: asked.append(paths) or float(paths[0] != "a"))  # type: ignore[func-returns-value]
    assert found == ("bb", "a", "a")
    assert len(asked) == len(set(asked)) <= 27
    assert asked[:3] == [("bb", "bb", "a"), ("bb", "ccc", "bb"), ("bb", "bb", "bb")]
    one = PathSearch((layers[0],), population=50, rounds=2, parents=1, mutation=1.0)
    assert one.best(lambda paths: -len(paths[0])) == ("a",)  # a space that is exhausted
    for settings in ({"population": 0}, {"rounds": 0}, {"parents": 0}, {"mutation": 0}, {"mutation": 1.1}):  # fmt: skip
        with pytest.raises(ConfigError, match=next(iter(settings))):
            PathSearch(layers, **settings)  # type: ignore[arg-type]


def test_the_nearest_classes_are_others() -> None:
    mean = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, 0.1]])
    assert _nearest(mean, 2).tolist() == [[1, 2], [0, 2], [1, 3], [2, 1]]


def test_means_and_spreads_of_classes_are_of_unit_vectors() -> None:
    host: Any = SimpleNamespace(names=("a", "b", "c"), width=2)
    loss = UnknownClasses(host, 5, (), 0.2)
    assert loss.k == 2
    loss.know(torch.tensor([[2.0, 0.0], [0.0, 3.0], [5.0, 0.0]]), torch.tensor([0, 0, 2]))
    assert loss.mean.tolist() == [[0.5, 0.5], [0, 0], [1, 0]]
    assert loss.spread.tolist() == [[0.5, 0.5], [0, 0], [0, 0]]
    assert loss.neighbours[0].tolist() == [2, 1]
    assert [FeatureGenerator(width).attention.num_heads for width in (8, 6, 5, 9)] == [4, 3, 1, 3]


def test_values_of_peft_as_text() -> None:
    assert [library._parsed(text) for text in ("True", "False", "None", "[1]", "a.b", 3)] == [True, False, None, [1], "a.b", 3]  # fmt: skip
    assert library._is_plain({"a": [1, None]})
    assert not library._is_plain({1, 2})
    kind = create("peft:lora")
    with pytest.raises(FrozenInstanceError):
        kind.r = 3  # type: ignore[attr-defined]

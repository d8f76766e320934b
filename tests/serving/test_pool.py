"""A mixed batch is what every row's own adapter gives alone, whatever shares it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import Attach
from petiole.backbones.vision import vit
from petiole.errors import AdapterError, ConfigError
from petiole.layers.affine import Affine
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.heads import LinearHead
from petiole.methods.base import Plan
from petiole.methods.registry import create, settings_of
from petiole.serving.pool import AdapterPool
from petiole.tasks.classification.adapter import ClassificationAdapter
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny

KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "tuned": ("adaptertune", {"rank": 4}),
    "tuned again": ("adaptertune", {"rank": 4}),
    "thin": ("adaptertune", {"rank": 1, "blocks": "last:1"}),
    "pre": ("adaptertune", {"rank": 3, "placement": "pre"}),
    "parallel": ("adaptformer", {"rank": 3}),
    "houlsby": ("houlsby", {"rank": 2}),
    "lora": ("lora-qkv", {"rank": 2}),
    "lora on q, v": ("lora-qkv", {"rank": 3, "targets": "q,v", "blocks": "0,2"}),
    "dora": ("dora", {"rank": 2}),
    "ssf": ("ssf", {}),
    "shallow": ("vpt-shallow", {"prompts": 2}),
    "shallow again": ("vpt-shallow", {"prompts": 2}),
    "more prompts": ("vpt-shallow", {"prompts": 3}),
    "deep": ("vpt-deep", {"prompts": 2}),
    "biases": ("bitfit", {}),
    "residual": ("cls-residual-lora", {"representation": "cls+patch"}),
    "pooled": ("linear-probe", {"representation": "attention", "attention_heads": 3}),
    "probe": ("linear-probe", {}),
    "peft": ("peft:lora", {"r": 2}),
}
ALONE = {"biases", "peft"}


def build(backbone: Backbone, kind: str, classes: int = 3, seed: int = 0) -> AdaptedClassifier:
    """An adapter none of whose numbers is as it started."""
    name, chosen = KINDS[kind]
    with tiny.seeded(seed):
        adapted = AdaptedClassifier(backbone, create(name, chosen).plan(backbone, classes))
        tiny.shaken(adapted)
    return adapted.eval()


def full_bank(backbone: Backbone) -> AdapterPool:
    pool = AdapterPool(backbone)
    for i, kind in enumerate(KINDS):
        pool.add(kind, build(backbone, kind, classes=2 + i % 4, seed=i))
    return pool


@cache
def whole() -> AdapterPool:
    """One of each kind; no test changes it."""
    return full_bank(tiny.plain())


@contextmanager
def forwards(backbone: Backbone) -> Iterator[list[int]]:
    """Batch sizes that the first block sees."""
    sizes: list[int] = []
    block = backbone.site("block.0.out").module
    handle = block.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    handle.remove()


def close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))


def check(pool: AdapterPool, images: Tensor, names: list[str | None]) -> None:
    answers = pool.mixed(images, names)
    assert [answer.adapter for answer in answers] == names
    for i, (name, answer) in enumerate(zip(names, answers, strict=True)):
        assert not answer.logits.requires_grad
        if name is None:
            state = pool.backbone.lower(images[i : i + 1], (pool.backbone.vector,))
            close(answer.vector, state[pool.backbone.vector][0])
            assert answer.logits.shape == (0,)
            assert answer.probabilities == {}
            continue
        alone = pool(images[i : i + 1], name)
        assert answer.logits.shape == alone.logits[0].shape
        close(answer.logits, alone.logits[0])
        close(answer.vector, alone.vector[0])


@settings(max_examples=25, deadline=None)
@given(
    names=st.lists(st.sampled_from([*KINDS, None]), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_any_mix_is_each_alone(names: list[str | None], seed: int) -> None:
    check(whole(), tiny.images(whole().backbone, len(names), seed), names)


def test_on_every_family(transformer: Backbone) -> None:
    pool = full_bank(transformer)
    names = [*KINDS, None, *reversed(KINDS)]
    check(pool, tiny.images(transformer, len(names)), names)
    hooks = [
        len(m._forward_hooks) + len(m._forward_pre_hooks) for m in transformer.module.modules()
    ]
    assert not any(hooks)


def test_all_that_can_share_run_the_backbone_once() -> None:
    shared = [kind for kind in KINDS if not bank_reason(kind)]
    images = tiny.images(whole().backbone, 3 * len(shared))
    with forwards(whole().backbone) as sizes:
        whole().mixed(images, shared * 3)
    assert sizes == [len(images)]
    with forwards(whole().backbone) as sizes:
        whole().mixed(images[:5], ["shallow", "biases", "shallow again", "biases", "more prompts"])
    assert sorted(sizes) == [1, 2, 2]


def bank_reason(kind: str) -> str:
    return whole().explain().get(kind, "")


def test_it_says_who_runs_alone_and_why() -> None:
    prompts = {"shallow", "shallow again", "more prompts", "deep"}
    assert whole().explain().keys() == ALONE | prompts
    assert "copies of 20 of the backbone's parameters" in bank_reason("biases")
    assert "another library" in bank_reason("peft")
    assert "PromptTokens at block.0.in may change the number of tokens" in bank_reason("deep")


def test_one_adapter_in_a_batch_gives_its_own_bits() -> None:
    images = tiny.images(whole().backbone, 3)
    for name in KINDS:
        want = whole()(images, name).logits
        got = torch.stack([answer.logits for answer in whole().mixed(images, [name] * 3)])
        assert torch.equal(got, want)


def test_every_plan_keeps_its_own_order_on_a_module() -> None:
    """What joins after the MLP is scaled or not, as the plan says; rows of other plans do not matter."""
    backbone = tiny.plain()

    def adapted(scale_first: bool) -> AdaptedClassifier:
        with tiny.seeded(4):
            before = Attach("block.1.mid", Bottleneck(24, 3, init="xavier"))
            scale = Attach("block.1.mlp.out", Affine(24, std=0.7))
            attach = (scale, before) if scale_first else (before, scale)
            head = LinearHead(24, 3)
        return AdaptedClassifier(
            backbone, Plan(head=head, reads=("final.cls",), attach=attach)
        ).eval()

    pool = AdapterPool(backbone)
    pool.add("scaled first", adapted(True))
    pool.add("scaled last", adapted(False))
    images = tiny.images(backbone, 1)
    assert not torch.allclose(*(pool(images, name).logits for name in pool.names), atol=1e-4)
    check(pool, images.expand(4, -1, -1, -1), ["scaled last", "scaled first"] * 2)
    check(pool, images.expand(4, -1, -1, -1), ["scaled first", "scaled last"] * 2)


def test_mixed_precision_costs_no_more_than_alone() -> None:
    names = ["ssf", "tuned", "lora", "ssf"]
    images = tiny.images(whole().backbone, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answers = whole().mixed(images, names)
        alone = [whole()(images[i : i + 1], name).logits[0] for i, name in enumerate(names)]
    for answer, want in zip(answers, alone, strict=True):
        close(answer.logits.float(), want.float(), 2e-2)


def test_a_state_below_the_adapter_is_as_good_as_images() -> None:
    backbone = whole().backbone
    images = tiny.images(backbone, 2)
    for name, cut in (("thin", "block.2.in"), ("thin", "block.1.in"), ("probe", "block.2.in")):
        close(whole()(backbone.lower(images, (cut,)), name).logits, whole()(images, name).logits)
    stored = backbone.lower(images, ("final.cls",))
    assert torch.equal(whole()(stored, "probe").logits, whole()(images, "probe").logits)
    with pytest.raises(ConfigError, match=r"changes the backbone from block\.2\.in on.*final\.cls"):
        whole()(stored, "thin")
    with pytest.raises(ConfigError, match=r"from images on.*block\.1\.in"):
        whole()(backbone.lower(images, ("block.1.in",)), "tuned")


def test_two_threads_use_one_bank() -> None:
    images = tiny.images(whole().backbone, 4)
    mixes: list[list[str | None]] = [
        ["tuned", "lora", "biases", None],
        ["shallow", "peft", "tuned again", "lora"],
    ]
    wants = [[a.logits for a in whole().mixed(images, mix)] for mix in mixes]
    wrong: list[int] = []

    def workspace(index: int) -> None:
        for _ in range(6):
            got = [a.logits for a in whole().mixed(images, mixes[index])]
            if not all(map(torch.equal, got, wants[index])):
                wrong.append(index)

    threads = [threading.Thread(target=workspace, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., ClassificationAdapter]:
    """Writes an adapter on a fresh copy of the plain backbone."""

    def save(kind: str, folder: str = "adapter") -> ClassificationAdapter:
        adapted = build(tiny.plain(), kind)
        name, chosen = KINDS[kind]
        adapter = ClassificationAdapter.of(
            adapted,
            method=name,
            settings=settings_of(create(name, chosen)),
            classes=["ash", "birch", "cedar"],
            weights=None,
            image_size=None,
        )
        adapter.save(tmp_path / folder)
        return adapter

    return save


@pytest.mark.parametrize("kind", ["tuned", "dora", "biases", "peft"])
def test_it_takes_files_and_opened_ones(
    kind: str, saved: Callable[..., ClassificationAdapter], tmp_path: Path
) -> None:
    opened, pool = saved(kind), AdapterPool(tiny.plain())
    pool.add("file", tmp_path / "adapter")
    pool.add("opened", opened)
    pool.add("model", opened.adapted, classes=("a", "b", "c"))
    pool.add("bare model", opened.adapted)
    images = tiny.images(pool.backbone, 4)
    with torch.no_grad():
        want = opened.adapted({IMAGES: images}).logits
    with forwards(pool.backbone) as sizes:
        answers = pool.mixed(images, pool.names)
    assert sum(sizes) == 4  # on this backbone, not on the copy that the adapter came with
    for i, answer in enumerate(answers):
        close(answer.logits, want[i])
    assert [a.classes for a in answers] == [
        ("ash", "birch", "cedar"),
        ("ash", "birch", "cedar"),
        ("a", "b", "c"),
        ("0", "1", "2"),
    ]
    first = answers[0].probabilities
    assert list(first.values()) == sorted(first.values(), reverse=True)
    assert sum(first.values()) == pytest.approx(1)
    assert first["birch"] == pytest.approx(float(want[0].softmax(-1)[1]), abs=1e-5)


def test_what_is_given_in_training_answers_in_evaluation() -> None:
    pool = AdapterPool(tiny.plain())
    name, chosen = KINDS["tuned"]
    method = create(name, {**chosen, "dropout": 0.5})
    pool.add("dropping", AdaptedClassifier(pool.backbone, method.plan(pool.backbone, 3)).train())
    images = tiny.images(pool.backbone, 2)
    assert torch.equal(pool(images, "dropping").logits, pool(images, "dropping").logits)


def test_errors_name_what_to_do() -> None:
    pool = AdapterPool(tiny.plain())
    pool.add("birds", build(pool.backbone, "tuned"))
    images = tiny.images(pool.backbone, 2)
    with pytest.raises(
        AdapterError, match=r"Unknown adapter of this pool 'bird'.*Did you mean birds"
    ):
        pool.mixed(images, ["birds", "bird"])
    with pytest.raises(AdapterError, match="Did you mean birds"):
        pool(images, "birbs")
    with pytest.raises(AdapterError, match="Did you mean birds"):
        pool.remove("birbs")
    with pytest.raises(AdapterError, match="has an adapter 'birds' already"):
        pool.add("birds", build(pool.backbone, "lora"))
    with pytest.raises(ConfigError, match="2 images need as many names, not 1"):
        pool.mixed(images, ["birds"])
    assert pool.mixed(images[:0], []) == []
    pool.remove("birds")
    assert pool.names == ()


def test_an_adapter_of_another_backbone_is_refused(
    saved: Callable[..., ClassificationAdapter], tmp_path: Path
) -> None:
    saved("tuned")
    other = vit.wrap("test/other", tiny.timm_vit(init_values=0.4), tiny.preprocessing())
    with pytest.raises(AdapterError, match="fingerprint"):
        AdapterPool(other).add("birds", tmp_path / "adapter")
    with pytest.raises(AdapterError, match="Put it into a pool of its own"):
        AdapterPool(other).add("birds", build(tiny.plain(), "tuned"))
    resized = vit.wrap("test/vit", tiny.timm_vit(), tiny.preprocessing(42))
    with pytest.raises(AdapterError, match=r"\(28, 28\) px.*\(42, 42\) px"):
        AdapterPool(resized).add("birds", build(tiny.plain(), "tuned"))

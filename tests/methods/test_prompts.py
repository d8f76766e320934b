"""The prompt learners against their equations, written out with transformers' own modules."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from builders.prompts import adapted as on_clip
from petiole.backbones.frozen_network import IMAGES
from petiole.errors import ConfigError
from petiole.methods.prompt_learning.templates import SIXTY
from petiole.methods.prompt_learning.textrefiner import Semantics
from petiole.methods.registry import create
from petiole.tasks.classification.model import ANCHOR, AdaptedClassifier, ClassificationLoss
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips

NAMES = ("ash", "weeping willow", "red_oak")


adapted = partial(on_clip, names=NAMES)


def shaken(built: AdaptedClassifier) -> AdaptedClassifier:
    with tiny.seeded(3), torch.no_grad():
        for parameter in built.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return built


def ids(text: str) -> list[int]:
    letters = clips.Letters()
    return [letters.start, *letters(text), letters.end]


def encoded(words: Tensor, end: int, deep: Sequence[Tensor] = ()) -> Tensor:
    """One text from its word embeddings (T, d_t), with prompts overwriting rows 1.. of later layers."""
    text = clips.model().text_model
    x = (words + text.embeddings.position_embedding.weight[: len(words)])[None]
    mask = torch.full((len(words), len(words)), -torch.inf).triu(1)[None, None]
    for i, layer in enumerate(text.encoder.layers):
        if i and i <= len(deep):
            x = torch.cat([x[:, :1], deep[i - 1][None], x[:, 1 + len(deep[i - 1]) :]], dim=1)
        x = layer(x, attention_mask=mask)
    final = text.final_layer_norm(x)[0, end]
    return normalize(clips.model().text_projection(final), dim=-1)


def seen(images: Tensor, first: Tensor, deep: Sequence[Tensor]) -> Tensor:
    """Images through the vision tower with rows behind their patches, overwritten layer by layer."""
    model = clips.model()
    vision = model.vision_model
    x = vision.embeddings(images)
    x = vision.pre_layrnorm(torch.cat([x, first.expand(len(x), -1, -1)], dim=1))
    for i, layer in enumerate(vision.encoder.layers):
        if i and i <= len(deep):
            x = torch.cat([x[:, : -len(deep[i - 1])], deep[i - 1].expand(len(x), -1, -1)], dim=1)
        x = layer(x, attention_mask=None)
    return normalize(model.visual_projection(vision.post_layernorm(x[:, 0])), dim=-1)


def zero_shot(names: Sequence[str] = NAMES, template: str = "a photo of a {}.") -> Tensor:
    """E of the frozen model."""
    embedding = clips.model().text_model.embeddings.token_embedding.weight
    rows = []
    for name in names:
        tokens = ids(template.format(name.replace("_", " ")))
        rows.append(encoded(embedding[torch.tensor(tokens)], len(tokens) - 1))
    return torch.stack(rows)


def scale() -> Tensor:
    return clips.model().logit_scale.detach().exp()


def test_a_context_of_the_phrase_s_own_words_is_zero_shot() -> None:
    """To 0 error: CoOp's context (Zhou et al., 2022) with the phrase's own embeddings is the phrase."""
    images = tiny.images(clips.towers())
    phrase = "abcd"
    learned = adapted("coop", context=4, phrase=phrase)
    fixed = adapted(
        "zero-shot", templates=(phrase + "{} .",)
    )  # the letters know no word boundaries
    with torch.no_grad():
        got = learned({IMAGES: images}).logits
        want = fixed({IMAGES: images}).logits
    assert torch.equal(got, want)


@torch.no_grad()
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("specific", [False, True])
def test_coop(position: str, specific: bool) -> None:
    built = adapted("coop", context=4, phrase="", position=position, class_specific=specific)
    drawn = next(iter(built.attach.values())).value.detach()  # type: ignore[union-attr]
    assert drawn.std().item() == pytest.approx(0.02, rel=0.3), "as CoOp draws them"
    context = next(iter(shaken(built).attach.values())).value.detach()  # type: ignore[union-attr]
    embedding = clips.model().text_model.embeddings.token_embedding.weight
    letters, rows = clips.Letters(), []
    for c, name in enumerate(NAMES):
        own = context[c] if specific else context
        word = embedding[torch.tensor(letters(name.replace("_", " ")))]
        middle = {
            "end": [own, word],
            "middle": [own[:2], word, own[2:]],
            "front": [word, own],
        }[position]
        stop = embedding[torch.tensor([*letters(" ."), letters.end])]
        text = torch.cat([embedding[letters.start][None], *middle, stop])
        rows.append(encoded(text, len(text) - 1))
    images = tiny.images(clips.towers())
    vision = normalize(clips.towers().lower(images, ("final.image",))["final.image"], dim=-1)
    want = scale() * vision @ torch.stack(rows).T
    torch.testing.assert_close(built({IMAGES: images}).logits, want, rtol=1e-5, atol=1e-4)


@torch.no_grad()
def test_cocoop_shifts_every_word_by_the_image() -> None:
    built = shaken(adapted("cocoop", context=3, phrase="abc"))
    context = next(iter(built.attach.values())).value.detach()  # type: ignore[union-attr]
    embedding = clips.model().text_model.embeddings.token_embedding.weight
    letters = clips.Letters()
    images = tiny.images(clips.towers(), 5)
    vision = normalize(clips.towers().lower(images, ("final.image",))["final.image"], dim=-1)
    w1, b1, w2, b2 = (p.detach() for p in built.head.meta.parameters())  # type: ignore[union-attr]
    want = torch.zeros(5, len(NAMES))
    for i, v in enumerate(vision):
        shift = w2 @ (w1 @ v + b1).clamp(min=0) + b2
        for c, name in enumerate(NAMES):
            word = embedding[torch.tensor(letters(name.replace("_", " ")))]
            stop = embedding[torch.tensor([*letters(" ."), letters.end])]
            text = torch.cat([embedding[letters.start][None], context + shift, word, stop])
            want[i, c] = scale() * v @ encoded(text, len(text) - 1)
    torch.testing.assert_close(built({IMAGES: images}).logits, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["maple", "ivlp"])
def test_deep_prompts(name: str) -> None:
    """MaPLe makes the image's rows of the text's; "of a" stays before the class name."""
    settings = {"text_prompts": 2, "image_prompts": 2, "phrase": "x y z"}
    built = shaken(adapted(name, **settings))
    layers = dict(zip((a.role for a in built.plan.attach), built.attach.values(), strict=True))
    words = layers["text.embed"].value.detach()  # type: ignore[union-attr]
    deep = [layers[f"text.block.{i}.in"].rows.value.detach() for i in (1, 2)]  # type: ignore[union-attr]
    first, *later = (
        layers[role].rows().detach()  # type: ignore[union-attr, operator]
        for role in ("embed", "block.1.in", "block.2.in")
    )
    if name == "maple":
        maps = [layers[role].rows.map for role in ("embed", "block.1.in", "block.2.in")]  # type: ignore[union-attr]
        coupled = [m(p) for m, p in zip(maps, (words, *deep), strict=True)]  # type: ignore[operator]
        assert all(map(torch.equal, coupled, (first, *later)))
    embedding = clips.model().text_model.embeddings.token_embedding.weight
    letters, rows = clips.Letters(), []
    for class_name in NAMES:
        rest = embedding[torch.tensor(letters("z " + class_name.replace("_", " ")))]
        stop = embedding[torch.tensor([*letters(" ."), letters.end])]
        text = torch.cat([embedding[letters.start][None], words, rest, stop])
        rows.append(encoded(text, len(text) - 1, deep))
    images = tiny.images(clips.towers())
    want = scale() * seen(images, first, later) @ torch.stack(rows).T
    torch.testing.assert_close(built({IMAGES: images}).logits, want, rtol=1e-4, atol=1e-4)


def batch(built: AdaptedClassifier) -> tuple[dict[str, Tensor], Tensor]:
    """Images at the training cut, with the plan's anchors, and their labels."""
    backbone, images = built.backbone, tiny.images(built.backbone, 6, seed=4)
    state = dict(backbone.lower(images, built.training_cut))
    if built.plan.anchors:
        bare = backbone.lower(images, built.plan.anchors)
        state |= {ANCHOR + role: value for role, value in bare.items()}
    return state, torch.tensor([0, 1, 2, 2, 1, 0])


def loss_of(built: AdaptedClassifier) -> Tensor:
    state, labels = batch(built)
    loss: Tensor = ClassificationLoss(built, 0.5, 0.0)(
        state, labels, torch.ones(6, dtype=torch.bool)
    )
    return loss


def kl(teacher: Tensor, student: Tensor) -> Tensor:
    p, q = teacher.softmax(-1), student.softmax(-1)
    return (p * (p / q).log()).sum() / p.numel()


def test_promptsrc_loss() -> None:
    built = shaken(adapted("promptsrc", phrase="abcd", text_prompts=4))
    got = loss_of(built)
    images = tiny.images(built.backbone, 6, seed=4)
    with torch.no_grad():
        vision = normalize(built({IMAGES: images}).vector, dim=-1)
        with built.attached():
            texts = built.head.embeddings()  # type: ignore[union-attr, operator]
        bare = normalize(clips.towers().lower(images, ("final.image",))["final.image"], dim=-1)
        sixty = []
        for name in NAMES:  # averaged before normalising
            raw = []
            for template in SIXTY:
                tokens = torch.tensor([ids(template.format(name.replace("_", " ")))])
                raw.append(clips.towers().encode(tokens)[0])
            sixty.append(normalize(torch.stack(raw).mean(0), dim=-1))
        frozen = torch.stack(sixty)
        labels = batch(built)[1]
        ours = scale() * vision @ texts.T
        want = (
            cross_entropy(ours, labels)
            + 25 * (texts - frozen).abs().mean()
            + 10 * (vision - bare).abs().mean()
            + kl(scale() * bare @ frozen.T, ours)
        )
    torch.testing.assert_close(got.detach(), want, rtol=1e-4, atol=1e-4)


def test_promptkd_learns_from_the_teacher_alone() -> None:
    built = shaken(adapted("promptkd", weight=200.0))
    state, labels = batch(built)
    loss_module = ClassificationLoss(built, 0.5, 0.0)
    target = torch.ones(6, dtype=torch.bool)
    got = loss_module(state, labels, target)
    assert torch.equal(got, loss_module(state, labels.flip(0), target))  # labels do not matter
    frozen = zero_shot().detach()
    bare = normalize(state[ANCHOR + "final.image"], dim=-1)
    ours = scale() * normalize(built({IMAGES: state[IMAGES]}).vector, dim=-1) @ frozen.T
    want = 200 * kl(scale() * bare @ frozen.T, ours)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_student_knows_only_what_it_was_taught() -> None:
    built = adapted("promptkd")
    loss_of(built)
    images = tiny.images(built.backbone)
    with torch.no_grad():
        every = built({IMAGES: images}).logits
        built.name(("red_oak", "ash"))
        torch.testing.assert_close(built({IMAGES: images}).logits, every[:, [2, 0]])
    with pytest.raises(ConfigError, match="'birch' is none of them"):
        built.name(("birch",))


def test_textrefiner_without_alpha_is_its_host() -> None:
    """TextRefiner adds alpha times its own vector: equal logits at equal context, and nothing to retain."""
    images = tiny.images(clips.towers())
    refined, host = adapted("coop+textrefiner", alpha=0.0), adapted("coop")
    with torch.no_grad():
        assert torch.equal(refined({IMAGES: images}).logits, host({IMAGES: images}).logits)


def test_textrefiner_losses_and_where_their_gradients_go() -> None:
    built = shaken(adapted("coop+textrefiner", k=2))
    built.train()
    head, cache = built.head, built.head.refiner.cache  # type: ignore[union-attr]
    entries = cache.entries.clone()  # type: ignore[union-attr, operator]
    state, labels = batch(built)
    loss_module = ClassificationLoss(built, 0.5, 0.0).train()
    semantics = built.plan.losses[0]
    assert isinstance(semantics, Semantics)
    loss = loss_module(state, labels, torch.ones(6, dtype=torch.bool))
    torch.autograd.backward(loss)

    with built.attached():
        classes = head.host.embeddings().detach()  # type: ignore[union-attr, operator]
    weight = head.refiner.map.weight.detach()  # type: ignore[union-attr]
    shares = (classes @ entries.T).softmax(-1)
    refined = 0.2 * torch.cat([classes, shares @ entries], -1) @ weight.T + classes
    vision = normalize(state["final.image"], dim=-1)
    tokens = torch.cat([state["final.image"][:, None], state["final.patches"]], 1)
    align = semantics.align
    hidden = (tokens @ align.first.weight.T + align.first.bias).flatten(0, 1)
    hidden = (hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()
    hidden = (hidden * align.norm.weight + align.norm.bias).clamp(min=0)
    aligned = (hidden @ align.second.weight.T + align.second.bias).reshape(6, -1, 18).detach()
    chosen = []
    for b in range(6):
        best = state["final.attention"][b].topk(2).indices
        chosen += [aligned[b, 0], *aligned[b, 1 + best], aligned[b].mean(0)]
    semantic = cross_entropy(scale() * torch.stack(chosen) @ classes.T, labels.repeat_interleave(4))
    want = (
        cross_entropy(scale() * vision @ refined.T, labels)
        + semantic / 50
        + 20 * (normalize(refined, dim=-1) - classes).abs().mean()
    )
    torch.testing.assert_close(loss.detach(), want, rtol=1e-4, atol=1e-4)
    assert not torch.equal(cache.entries, entries)  # type: ignore[union-attr, arg-type]

    def grads(only: str) -> dict[str, bool]:
        parts: dict[str, nn.Parameter] = {
            "context": next(iter(built.attach.values())).value,  # type: ignore[union-attr, dict-item]
            "linear": head.refiner.map.weight,  # type: ignore[union-attr, dict-item]
            "align": align.second.weight,
        }
        with built.attached():
            head.forget()  # type: ignore[operator, union-attr]
            values = built.values(state, built.plan.studied)
            out = built.top(values)
            from petiole.methods.base import LossInputs

            step = LossInputs(out.vector, out.logits, labels, labels > -1, values, {})
            losses = {
                "class": lambda: cross_entropy(out.logits, labels),
                "semantic": lambda: semantics(step),
                "retention": lambda: built.plan.losses[1](step),
            }
            found = torch.autograd.grad(losses[only](), list(parts.values()), allow_unused=True)
        return {k: g is not None and bool(g.any()) for k, g in zip(parts, found, strict=True)}

    assert grads("class") == {"context": True, "linear": True, "align": False}
    assert grads("semantic") == {"context": True, "linear": False, "align": True}
    assert grads("retention") == {"context": True, "linear": True, "align": False}


def test_textrefiner_refines_the_class_vectors_of_each_image_where_they_differ() -> None:
    """CoCoOp as host: the equations of the head and of both losses, image by image."""
    built = shaken(adapted("cocoop+textrefiner", k=2)).train()
    head = built.head
    entries = head.refiner.cache.entries.clone()  # type: ignore[union-attr, operator]
    state, labels = batch(built)
    loss_module = ClassificationLoss(built, 0.5, 0.0).train()
    loss = loss_module(state, labels, torch.ones(6, dtype=torch.bool))
    torch.autograd.backward(loss)
    assert all(p.grad is not None for p in loss_module.parameters() if p.requires_grad)

    semantics = built.plan.losses[0]
    assert isinstance(semantics, Semantics)
    weight = head.refiner.map.weight.detach()  # type: ignore[union-attr]
    tokens = torch.cat([state["final.image"][:, None], state["final.patches"]], 1)
    with torch.no_grad(), built.attached():
        aligned = semantics.align(tokens)
    logits, semantic, distance = [], [], []
    for b, v in enumerate(normalize(state["final.image"], dim=-1)):
        with torch.no_grad(), built.attached():
            (own,) = head.host.embeddings_of(state["final.image"][b : b + 1])  # type: ignore[union-attr, operator]
        shares = (own @ entries.T).softmax(-1)
        refined = 0.2 * torch.cat([own, shares @ entries], -1) @ weight.T + own
        logits.append(scale() * refined @ v)
        best = state["final.attention"][b].topk(2).indices
        chosen = torch.stack([aligned[b, 0], *aligned[b, 1 + best], aligned[b].mean(0)])
        semantic.append(cross_entropy(scale() * chosen @ own.T, labels[b].expand(4)))
        distance.append((normalize(refined, dim=-1) - own).abs().mean())
    want = (
        cross_entropy(torch.stack(logits), labels)
        + torch.stack(semantic).mean() / 50
        + 20 * torch.stack(distance).mean()
    )
    torch.testing.assert_close(loss.detach(), want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_refined_cocoop_answers_alike_in_any_batch() -> None:
    built = shaken(adapted("cocoop+textrefiner"))
    images = tiny.images(clips.towers(), 5)
    whole = built({IMAGES: images}).logits
    built.head.host.at_once = 2 * len(NAMES)  # type: ignore[union-attr] - two images at once
    torch.testing.assert_close(built({IMAGES: images}).logits, whole, rtol=1e-4, atol=1e-4)
    host, zero = adapted("cocoop"), adapted("cocoop+textrefiner", alpha=0.0)
    torch.testing.assert_close(
        zero({IMAGES: images}).logits, host({IMAGES: images}).logits, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("cache", ["zeros", "noise", "mean", "none", "tokens"])
def test_the_controls_write_only_what_they_should(cache: str) -> None:
    built = adapted("coop+textrefiner", cache=cache)
    built.train()
    before = built.head.state_dict()
    old = {k: v.clone() for k, v in before.items()}
    loss_of(built)
    name = "refiner.cache.entries"
    if cache == "none":
        assert name not in old
        return
    assert torch.equal(built.head.state_dict()[name], old[name]) == (cache in ("zeros", "noise"))
    assert old[name].any() == (cache != "zeros")


def test_both_readings_and_a_host_that_cannot_be_refined() -> None:
    code, paper = (create("coop+textrefiner", {"mode": m}).reading for m in ("code", "paper"))  # type: ignore[attr-defined]
    assert all(getattr(code, f) != getattr(paper, f) for f in code.__dataclass_fields__)
    own = create("coop+textrefiner", {"mode": "paper", "mean_token": True})
    assert own.reading.mean_token  # type: ignore[attr-defined]
    for mode in ("code", "paper"):
        assert torch.isfinite(loss_of(adapted("coop+textrefiner", mode=mode).train()))
    with pytest.raises(ConfigError, match="needs a host whose head has one vector for each class"):
        adapted("coop+textrefiner", host="linear-probe")


def test_several_sentences_of_a_class_are_averaged_and_of_unit_length() -> None:
    built = adapted("zero-shot", templates=("a photo of a {} .", "{} .", "a {} leaf ."))
    head = built.head
    with torch.no_grad():
        texts = head.texts()  # type: ignore[union-attr,operator]
        found = head.embeddings()  # type: ignore[union-attr,operator]
    assert texts.shape[:2] == (found.shape[0], 3)
    want = normalize(torch.stack([normalize(of, dim=-1).mean(0) for of in texts]), dim=-1)
    torch.testing.assert_close(found, want)

"""CRAFT and the rows beside it: what they train, and every loss against its equation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.model import IGNORED
from petiole.data.text_dataset import TextDataset
from petiole.data.text_sample import TextSample
from petiole.errors import BackboneError, ConfigError, DataError
from petiole.methods.base import Loss
from petiole.methods.codebook.losses import (
    Captioning,
    CodebookLossInputs,
    Commitment,
    FeatureAnchor,
    GeneralAnchor,
    SigmoidContrast,
    SurrogateAlignment,
)
from petiole.methods.registry import create, methods, settings_of
from petiole.tasks.codebook.adapter import build_model, is_lvlm_method, method_of
from petiole.tasks.codebook.batches import BatchLoader
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel, CodebookBatch, CodebookLoss
from petiole.testing import codebook_lvlm as tiny

METHODS = [name for name in methods() if is_lvlm_method(name)]
ENCODERS: dict[str, dict[str, Any]] = {
    "full": {},
    "lora-qkv": {"rank": 2},
    "adaptertune": {"rank": 4},
    "vpt-deep": {"prompts": 2},
    "peft:lora": {"r": 2},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextDataset:
    return tiny.data(tmp_path_factory.mktemp("craft") / "tail", "tail", train=8, test=2)


def adapted(name: str, model: LVLM, **settings: Any) -> AdaptedCodebookModel:
    torch.manual_seed(0)
    return build_model(method_of(name, settings), model)


def lookout(
    adapted: AdaptedCodebookModel, name: str, data: TextDataset, *, rows: int = 4, **settings: Any
) -> CodebookBatch:
    image_folder = ImageFolder(data.root, adapted.model.tower)
    method = method_of(name, settings)
    feed = BatchLoader(adapted, method, image_folder, data["train"], 0, data)
    return feed(0, range(rows), 0, 1)


def trained(
    name: str, model: LVLM, data: TextDataset, steps: int = 2, **settings: Any
) -> AdaptedCodebookModel:
    """A few steps of plain descent on everything that asks for gradients."""
    made = adapted(name, model, **settings)
    method = method_of(name, settings)
    loss_module = CodebookLoss(made, method.losses(model)).train()
    own = [p for p in loss_module.parameters() if p.requires_grad]
    if not own:
        return made.eval()
    optimizer = torch.optim.Adam(own, lr=1e-2)
    batch = lookout(made, name, data, **settings)
    with made.attached():
        for _ in range(steps):
            optimizer.zero_grad()
            loss_module(batch).backward()
            optimizer.step()
    return made.eval()


def gradients(
    adapted: AdaptedCodebookModel, losses: Sequence[Loss[CodebookLossInputs]], batch: CodebookBatch
) -> tuple[Tensor, Any]:
    """Loss and gradients of everything trained."""
    adapted.zero_grad()
    with adapted.attached():
        loss = CodebookLoss(adapted, losses)(batch)
        loss.backward()
    return loss.detach(), {
        n: p.grad.clone() for n, p in adapted.named_parameters() if p.grad is not None
    }


def inputs(
    model: LVLM, seen: AdaptedCodebookModel, batch: CodebookBatch, **changes: Any
) -> CodebookLossInputs:
    vision_output = batch.vision_output or seen.encode_images(batch.pictures)
    plain = CodebookLossInputs(model=model, vision_output=vision_output, **batch.words())
    return replace(plain, **changes)


def continuous(name: str) -> bool:
    return methods()[name].cls.discrete is False  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", METHODS)
def test_only_what_is_declared_moves_and_all_of_it(name: str, data: TextDataset) -> None:
    """Codebook, projector, language model and the bare encoder keep every bit; nothing of them asks for gradients."""
    model = tiny.model(discrete=not continuous(name))
    before = tiny.hashes(model)
    start = adapted(name, model).state_dict()
    made = trained(name, model, data)
    assert tiny.hashes(model) == before
    assert not any(p.grad is not None or p.requires_grad for p in model.module.parameters())
    moved = {n for n, value in made.state_dict().items() if not torch.equal(value, start[n])}
    assert moved == {n for n, p in made.named_parameters() if p.requires_grad}
    assert bool(moved) == (name != "lvlm-zero-shot")
    assert all(n.startswith("encoder.") for n in moved) == (
        name not in ("projector-ft", "llm-lora")
    )


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_encoder_takes_any_layers_for_images(encoder: str, data: TextDataset) -> None:
    model = tiny.model()
    before, pictures = tiny.hashes(model), tiny.pictures()
    settings = {"encoder": encoder, "encoder_settings": ENCODERS[encoder]}
    start = adapted("craft", model, **settings)
    bare = model.tower.encode_images(pictures).z
    with torch.no_grad():
        first = start.encode_images(pictures).z
    if encoder != "vpt-deep":  # prompts are there from the start
        assert torch.equal(first, bare)
    made = trained("craft", model, data, **settings)
    assert tiny.hashes(model) == before
    declared = {n for n, p in made.named_parameters() if p.requires_grad}
    assert declared
    for n, p in start.named_parameters():
        assert torch.equal(p, made.get_parameter(n)) != (n in declared), n
    with torch.no_grad():
        now = made.encode_images(pictures)
    assert now.z.shape == bare.shape
    assert not torch.equal(now.z, first)
    assert torch.equal(model.tower.encode_images(pictures).z, bare)  # taken off without a trace


@pytest.mark.parametrize("encoder", ["linear-probe", "knn", "lora-linear"])
def test_a_method_that_leaves_the_encoder_alone_is_refused(encoder: str) -> None:
    with pytest.raises(ConfigError, match="changes nothing inside the encoder"):
        adapted("craft", tiny.model(), encoder=encoder)


def test_other_wrong_requests_are_refused() -> None:
    model, twin = tiny.model(), tiny.model(discrete=False)
    for name in METHODS:
        right, wrong = (twin, model) if continuous(name) else (model, twin)
        method_of(name, {}).check(right)
        if methods()[name].cls.discrete is not None:  # type: ignore[attr-defined]
            with pytest.raises(ConfigError, match=r"codes|continuous"):
                method_of(name, {}).check(wrong)
    with pytest.raises(ConfigError, match="no method for images"):
        adapted("craft", model, encoder="vision-ft-discrete")
    with pytest.raises(ConfigError, match="craft, vision-ft"):
        method_of("houlsby", {})
    with pytest.raises(ConfigError, match="frozen codebook"):
        create("craft").plan(model.tower.image_backbone, 3)
    plan = create("craft").plan(model, 3)
    assert plan.encoder.tune
    assert not plan.tune
    assert [type(loss) for loss in plan.losses] == [SurrogateAlignment, Commitment, SigmoidContrast]


def test_settings_are_the_published_ones_and_survive_their_record() -> None:
    craft = method_of("craft", {})
    weights = {type(t).__name__: t.weight for t in craft.losses(tiny.model())}
    assert weights == {"SurrogateAlignment": 1.0, "Commitment": 0.1, "SigmoidContrast": 0.1}
    bare = method_of("vision-ft-discrete", {})
    assert [type(t) for t in bare.losses(tiny.model())] == [SurrogateAlignment]
    for name in METHODS:
        method = method_of(name, {"lr": 1e-2})
        assert method_of(name, settings_of(method)) == method


def test_alignment_reaches_the_patches_and_nothing_else(data: TextDataset) -> None:
    """SAL alone: a gradient at the copy of the patch embedding, none at language model, projector, codebook."""
    model = tiny.model()
    made = adapted("vision-ft-discrete", model)
    _, got = gradients(made, (SurrogateAlignment(1.0),), lookout(made, "craft", data))
    assert got.keys() == {n for n, _ in made.named_parameters()}
    assert all(float(g.abs().max()) > 0 for n, g in got.items() if "patch_embed" in n)
    assert sum("patch_embed" in n for n in got) == 2
    tensors = [*model.module.parameters(), *model.module.buffers()]
    assert all(t.grad is None and not t.requires_grad for t in tensors)


@pytest.mark.parametrize(
    ("off", "left"),
    [
        ({"commit": 0, "contrast": 0}, (SurrogateAlignment(1.0),)),
        ({"sal": 0, "contrast": 0}, (Commitment(0.1),)),
        ({"sal": 0, "commit": 0}, (SigmoidContrast(0.1),)),
    ],
    ids=str,
)
def test_a_weight_of_zero_is_the_absence_of_a_term(
    data: TextDataset, off: dict[str, float], left: tuple[Loss[CodebookLossInputs], ...]
) -> None:
    """To the bit, in loss and gradients; and the weights are factors."""
    model = tiny.model()
    made = adapted("craft", model)
    batch = lookout(made, "craft", data)
    loss, own = gradients(made, method_of("craft", off).losses(model), batch)
    want, theirs = gradients(made, left, batch)
    assert torch.equal(loss, want)
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[n], theirs[n]) for n in own)
    full, _ = gradients(made, method_of("craft", {}).losses(model), batch)
    assert not torch.equal(full, want)
    twice, _ = gradients(made, tuple(type(t)(2 * t.weight) for t in left), batch)
    torch.testing.assert_close(twice, 2 * want)


@pytest.mark.parametrize(("questions", "end"), [(False, False), (False, True), (True, False)])
def test_alignment_is_the_mean_over_tokens(data: TextDataset, questions: bool, end: bool) -> None:
    """Of all rows together, so that long answers weigh more; in float64, row by row without padding."""
    model = tiny.model("gpt2")
    made = adapted("craft", model)
    batch = lookout(made, "craft", data)
    seen = inputs(model, made, batch)
    with torch.no_grad():
        got = SurrogateAlignment(1.0, questions=questions, end=end)(seen)
        losses = []
        for i, (question, answer) in enumerate(zip(batch.questions, batch.answers, strict=True)):
            row = model.turns(
                seen.vision_output.seen[i : i + 1], [question], [answer], learn_questions=questions
            )
            scores = model.logits(row)[0].double().log_softmax(-1)
            labels = row.labels[0].tolist()
            assert labels[-1] == model.prompt.end
            labels = labels if end else labels[:-1]
            losses += [-float(scores[t, w]) for t, w in enumerate(labels) if w != IGNORED]
    count = sum(len(a) + end for a in batch.answers)
    assert len(losses) == count + (sum(map(len, batch.questions)) if questions else 0)
    assert float(got) == pytest.approx(sum(losses) / len(losses), rel=1e-4)


def test_captions_are_learnt_where_there_are_some(data: TextDataset) -> None:
    model = tiny.model("gpt2")
    made = adapted("projector-ft", model)
    batch = lookout(made, "projector-ft", data)
    some = inputs(model, made, batch, captions=[batch.captions[0], [], batch.captions[2], []])
    assert not torch.equal(some.vision_output.seen[1], some.vision_output.seen[2])
    loss = Captioning(1.0, [9, 8])
    with torch.no_grad():
        rows = torch.tensor([0, 2])
        wanted = SurrogateAlignment(1.0, end=True)(
            replace(
                some,
                vision_output=some.vision_output._replace(seen=some.vision_output.seen[rows]),
                questions=[[9, 8]] * 2,
                answers=[batch.captions[0], batch.captions[2]],
            )
        )
        torch.testing.assert_close(loss(some), wanted)
        with pytest.raises(DataError, match="describe=0"):
            loss(replace(some, captions=[[]] * 4))
    assert method_of("projector-ft", {"describe": 0}).losses(model)[1:] == ()


def test_commitment_is_its_loop(data: TextDataset) -> None:
    model = tiny.model()
    made = adapted("craft", model)
    seen = inputs(model, made, lookout(made, "craft", data))
    z, total = seen.vision_output.z.double(), 0.0
    table = model.tower.quantiser.codebooks[0].double()
    for depth in range(1, tiny.DEPTH + 1):
        square = 0.0
        for b in range(z.shape[0]):
            for i in range(z.shape[1]):
                entry = sum(table[k] for k in seen.vision_output.codes[b, i, :depth].tolist())
                square += float((z[b, i] - entry).detach().square().sum())
        total += square / z.numel()
    loss = Commitment(1.0)(seen)
    assert float(loss.detach()) == pytest.approx(total / tiny.DEPTH, rel=1e-5)
    assert loss.requires_grad


def test_contrast_is_its_double_sum_without_false_negatives(data: TextDataset) -> None:
    model = tiny.model()
    made = adapted("craft", model)
    batch = lookout(made, "craft", data)
    groups = ["a", "b", "a", "c"]
    seen, heads = inputs(model, made, batch, groups=groups), model.tower.aligned
    with torch.no_grad():
        heads.bias.zero_()  # at -10 negatives weigh nothing yet
        heads.scale.fill_(1.0)
        got = SigmoidContrast(1.0)(seen)
        u = heads.image(seen.vision_output.seen).double()
        v = torch.cat([heads.texts([row]) for row in batch.texts]).double()
    total = 0.0
    for i in range(4):
        for j in range(4):
            if i != j and groups[i] == groups[j]:
                continue
            cosine = float(u[i] @ v[j] / u[i].norm() / v[j].norm())
            logit = math.exp(float(heads.scale)) * cosine + float(heads.bias)
            total += math.log1p(math.exp(-logit if i == j else logit))
    assert float(got) == pytest.approx(total / 4, rel=1e-4)
    with torch.no_grad():
        assert not torch.equal(SigmoidContrast(1.0)(replace(seen, groups=list("abcd"))), got)
    with pytest.raises(DataError, match="contrast=0"):
        SigmoidContrast(1.0)(replace(seen, texts=[[]] * 4))
    blind = tiny.model(over=tiny.tower(contrast=False))
    with pytest.raises(BackboneError, match="contrast=0"):
        SigmoidContrast(1.0)(replace(seen, model=blind))


@pytest.mark.parametrize("encoder", ["full", "adaptertune"])
def test_ldifs_is_zero_at_the_start_and_then_its_equation(data: TextDataset, encoder: str) -> None:
    """Phi_l as the changed encoder gives it, with whatever is added after block l."""
    model = tiny.model(discrete=False)
    settings = {"encoder": encoder, "encoder_settings": ENCODERS[encoder]}
    made = adapted("ldifs", model, **settings).eval()
    batch = lookout(made, "ldifs", data, **settings)
    anchor = method_of("ldifs", {}).losses(model)[-1]
    assert isinstance(anchor, FeatureAnchor)
    assert anchor.weight == 1.0
    assert anchor.studies == ("block.0.out", "block.1.out")
    loss_module = CodebookLoss(made, (anchor,))
    with torch.no_grad():
        assert float(loss_module(batch)) == 0
    last = [p for n, p in made.named_parameters() if "block/1" in n or "blocks/1/" in n]
    with torch.no_grad():
        for p in last:  # the last block alone
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
        got = float(loss_module(batch))
        outs: list[list[Tensor]] = []
        for changed in (True, False):
            values: list[Tensor] = []
            norm = model.tower.encoder.norm
            remove = norm.register_forward_pre_hook(lambda _, args, to=values: to.append(args[0]))
            if changed:
                made.encode_images(batch.pictures)
            else:
                model.tower.encode_images(batch.pictures)
            remove.remove()
            outs.append(values)
    # What comes after the last block is what the last layer reads.
    want = float((outs[0][0].double() - outs[1][0].double()).square().mean()) / 2
    assert want > 0
    assert got == pytest.approx(want, rel=1e-4)


def test_remembrance_commits_to_the_codes_of_the_start(data: TextDataset) -> None:
    model = tiny.model()
    made = adapted("craft", model, remember=0.5)
    batch = lookout(made, "craft", data, remember=0.5)
    assert batch.general is not None
    assert batch.general.shape == batch.pictures.shape
    losses = method_of("craft", {"sal": 0, "commit": 0, "contrast": 0, "remember": 0.5}).losses(
        model
    )
    with torch.no_grad():
        for p in made.parameters():
            p += 0.02 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    loss, got = gradients(made, losses, batch)
    with torch.no_grad():
        now, before = made.encode_images(batch.general), model.tower.encode_images(batch.general)
    want = sum(float((now.z - p).double().square().mean()) for p in before.partials) / tiny.DEPTH
    assert not torch.equal(now.codes, before.codes)
    assert float(loss) == pytest.approx(0.5 * want, rel=1e-5)
    assert got
    without = lookout(made, "craft", data)
    assert without.general is None
    with pytest.raises(DataError, match="remember=0"):
        CodebookLoss(made, (GeneralAnchor(1.0),))(without)


def test_what_the_text_tower_reads() -> None:
    known = TextSample("0", "what is it ?", ("i",), {"star": 1.0}, caption="a red star .")
    plain = method_of("craft", {})
    assert plain.text_of(known) == "a red star ."
    assert method_of("craft", {"texts": "caption+answer"}).text_of(known) == (
        "a red star . what is it ? star"
    )
    assert plain.text_of(replace(known, caption="")) == "what is it ? star"
    assert plain.text_of(TextSample("0", "", ("i",))) == ""


def test_pictures_are_looked_at_once_where_the_encoder_rests(data: TextDataset) -> None:
    model = tiny.model()
    still = adapted("projector-ft", model)
    batch = lookout(still, "projector-ft", data)
    assert batch.vision_output is not None
    moving = adapted("craft", model)
    pictures = lookout(moving, "craft", data).pictures
    with torch.no_grad():
        torch.testing.assert_close(batch.vision_output.z, model.tower.encode_images(pictures).z)
    assert torch.equal(batch.vision_output.codes, model.tower.encode_images(pictures).codes)

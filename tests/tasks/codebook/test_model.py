"""A viewer: looking, answering, pruning, other language models; and what feeds and measures it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from petiole.backbones.codebook_lvlm import LVLM, VisionOutput
from petiole.data.text_dataset import TextDataset
from petiole.errors import BackboneError
from petiole.layers.token_pruning import Pruning
from petiole.methods.base import Changes
from petiole.tasks.codebook.adapter import build_model, method_of
from petiole.tasks.codebook.batches import BatchLoader
from petiole.tasks.codebook.code_usage import CodeProbe, code_frequencies, counts
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.model import AdaptedCodebookModel, CodebookLoss
from petiole.tasks.codebook.training import answers
from petiole.testing import codebook_lvlm as tiny

QUESTIONS = ["what shape is the red thing ?", "how many things ?", "what is at top left ?"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TextDataset:
    return tiny.data(tmp_path_factory.mktemp("adapted") / "tail", "tail", train=10, test=4)


def moved(model: LVLM, name: str = "craft", **settings: Any) -> AdaptedCodebookModel:
    """With everything trained a little off its start."""
    torch.manual_seed(0)
    adapted = build_model(method_of(name, settings), model)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter += 0.03 * torch.randn(parameter.shape)
    return adapted.eval()


def by_hand(model: LVLM, vision_output: VisionOutput, kept: Tensor, positions: str) -> list[str]:
    """Answers to one image and question at a time, its kept tokens gathered in a loop."""
    assert model.tokenizer is not None
    said = []
    for i, question in enumerate(QUESTIONS):
        chosen = torch.stack([vision_output.seen[i, k] for k in kept[i].tolist()])[None]
        turns = model.turns(chosen, [model.tokenizer.split(question)])
        first, count = len(model.prompt.before), kept.shape[1]
        if positions == "keep":
            turns.positions[0, first : first + count] = first + kept[i]
            turns.positions[0, first + count :] += tiny.TOKENS - count
        said.append(model.tokenizer.decode(model.generate(turns, 6)[0]))
    return said


def test_keeping_all_tokens_is_no_pruning() -> None:
    model = tiny.model("gpt2")
    adapted = moved(model)
    vision_output = adapted.encode_images(tiny.pictures())
    plain = adapted.answer(vision_output, QUESTIONS, longest=6)
    assert len(set(plain)) > 1
    for positions in ("keep", "compact"):
        pruning = Pruning(1.0, positions=positions)
        assert adapted.answer(vision_output, QUESTIONS, pruning=pruning, longest=6) == plain


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_pruned_answer_is_that_to_the_gathered_tokens(family: tiny.Family) -> None:
    model = tiny.model(family)
    adapted = moved(model)
    with torch.no_grad():
        vision_output = adapted.encode_images(tiny.pictures())
    said: dict[str, list[str]] = {}
    for positions in ("keep", "compact"):
        pruning = Pruning(0.4, positions=positions)  # type: ignore[arg-type]
        own = torch.rand(tiny.ENTRIES, generator=torch.Generator().manual_seed(9)) + 0.01
        for frequencies in (None, own):
            used = model.tower.frequencies if frequencies is None else frequencies
            kept = pruning.select(vision_output.codes, vision_output.residual, used, tiny.GRID)
            assert kept.shape == (3, 6)
            got = adapted.answer(
                vision_output, QUESTIONS, pruning=pruning, frequencies=frequencies, longest=6
            )
            assert got == by_hand(model, vision_output, kept, positions)
        said[positions] = got
    assert said["keep"] != adapted.answer(vision_output, QUESTIONS, longest=6)
    if family != "lfm2":
        assert said["keep"] != said["compact"]


def test_an_encoder_goes_before_other_models_and_changes_none() -> None:
    tower = tiny.tower()
    model, other = tiny.model(over=tower), tiny.model("gpt2", over=tower)
    adapted, pictures = moved(model), tiny.pictures()
    before = tiny.hashes(model) | {f"other.{n}": b for n, b in tiny.hashes(other).items()}
    second = adapted.train().on(other)
    assert second.model is other
    assert not any(part.training for part in second.modules())
    assert second.encoder is adapted.encoder
    with torch.no_grad():
        vision_output, again = adapted.encode_images(pictures), second.encode_images(pictures)
        assert torch.equal(vision_output.seen, again.seen)
        assert not torch.equal(vision_output.codes, tower.encode_images(pictures).codes)
        said = second.answer(again, QUESTIONS, longest=5)
        bare = AdaptedCodebookModel(other, Changes(), Changes())
        assert said == bare.answer(vision_output, QUESTIONS, longest=5)
        assert said != adapted.answer(vision_output, QUESTIONS, longest=5)
    assert before == tiny.hashes(model) | {f"other.{n}": b for n, b in tiny.hashes(other).items()}
    # A tower of its own with the same codebook serves too: the encoder comes along.
    apart = tiny.model("gpt2", over=tiny.tower())
    with torch.no_grad():
        assert adapted.on(apart).answer(vision_output, QUESTIONS, longest=5) == said
        assert torch.equal(adapted.on(apart).encode_images(pictures).codes, vision_output.codes)


def test_another_codebook_is_refused_by_its_hash() -> None:
    with pytest.raises(BackboneError, match="sha256"):
        moved(tiny.model()).on(tiny.model("gpt2", over=tiny.tower(seed=5)))


@pytest.mark.parametrize("name", ["llm-lora", "projector-ft"])
def test_changes_of_the_language_side_are_at_work_in_answers_only(name: str) -> None:
    model = tiny.model()
    adapted = moved(model, name)
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter += torch.randn(parameter.shape)
        vision_output = adapted.encode_images(tiny.pictures())
        assert torch.equal(vision_output.seen, model.tower.encode_images(tiny.pictures()).seen)
        plain = AdaptedCodebookModel(model, Changes(), Changes())
        first = plain.answer(vision_output, QUESTIONS, longest=5)
        assert adapted.answer(vision_output, QUESTIONS, longest=5) != first
        assert plain.answer(vision_output, QUESTIONS, longest=5) == first
    assert adapted.changes_language
    assert not adapted.changes_encoder


def test_a_batch_is_a_function_of_seed_and_step(data: TextDataset) -> None:
    adapted = moved(tiny.model())
    method = method_of("craft", {"remember": 1.0})
    image_folder = ImageFolder(data.root, adapted.model.tower)
    feeds = [BatchLoader(adapted, method, image_folder, data["train"], 3, data) for _ in range(2)]
    rows = [5, 2, 7, 0]
    a, b = feeds[0](4, rows, 0, 1), feeds[1](4, rows, 0, 1)
    assert torch.equal(a.pictures, b.pictures)
    assert a.general is not None
    assert b.general is not None
    assert torch.equal(a.general, b.general)
    assert (a.questions, a.answers, a.groups) == (b.questions, b.answers, b.groups)
    other = feeds[0](5, rows, 0, 1)
    assert other.general is not None
    assert not torch.equal(other.general, a.general)
    words = adapted.model.tokenizer
    assert words is not None
    samples = [data["train"][i] for i in rows]
    assert a.questions == [words.split(s.text) for s in samples]
    assert a.captions == [words.split(s.caption) for s in samples]
    assert a.texts == a.captions
    assert [words.decode(t) for t in a.answers] == [
        words.decode(words.split(next(iter(s.targets)))) for s in samples
    ]
    assert a.groups == [s.label for s in samples]
    feeds[0].samples = [replace(s, label="", caption=s.caption * (i > 4)) for i, s in enumerate(data["train"])]  # fmt: skip
    bare = [s.caption if i > 4 else s.images[0] for i, s in ((i, data["train"][i]) for i in rows)]
    assert feeds[0](4, rows, 0, 1).groups == bare
    feeds[0].samples = data["train"]
    halves = [feeds[0](4, rows, process, 2) for process in range(2)]
    assert torch.equal(torch.cat([h.pictures for h in halves]), a.pictures)
    assert halves[0].answers + halves[1].answers == a.answers


def test_what_is_looked_at_once_is_what_is_seen(data: TextDataset) -> None:
    adapted = moved(tiny.model())
    image_folder = ImageFolder(data.root, adapted.model.tower)
    names = [s.images[0] for s in data["train"]]
    vision_outputs = image_folder.vision_outputs(adapted, [names[0], *names])
    with torch.no_grad():
        want = adapted.encode_images(image_folder([names[3], names[0], names[3]]))
    got = vision_outputs([names[3], names[0], names[3]])
    assert torch.equal(got.codes, want.codes)
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert vision_outputs.all.z.shape[0] == len(names)
    said = answers(adapted, vision_outputs, data["train"][:3])
    one = [
        adapted.answer(adapted.encode_images(image_folder([s.images[0]])), [s.text])[0]
        for s in data["train"][:3]
    ]
    assert said == one


def test_a_probe_tells_how_far_the_encoder_has_moved(data: TextDataset) -> None:
    model = tiny.model()
    adapted = build_model(method_of("craft", {}), model)
    image_folder = ImageFolder(data.root, model.tower)
    probe = CodeProbe(adapted, image_folder, data["train"])
    first = probe.diagnosis()
    assert first["flip_rate"] == 0
    with torch.no_grad():
        for parameter in adapted.parameters():
            parameter += 0.05 * torch.randn(parameter.shape)
        now = adapted.encode_images(image_folder([s.images[0] for s in data["train"]]))
        was = model.tower.encode_images(image_folder([s.images[0] for s in data["train"]]))
    got = probe.diagnosis()
    flips = [
        a != b
        for a, b in zip(now.codes.flatten().tolist(), was.codes.flatten().tolist(), strict=True)
    ]
    assert got["flip_rate"] == pytest.approx(sum(flips) / len(flips))
    assert got["flip_rate"] > 0
    used = torch.bincount(now.codes[..., 0].flatten(), minlength=tiny.ENTRIES).double()
    p = used[used > 0] / used.sum()
    assert got["perplexity"] == pytest.approx(float((-(p * p.log()).sum()).exp()))
    distance = (now.z - model.tower.quantiser.embed(now.codes)).norm(dim=-1).mean()
    assert got["residual"] == pytest.approx(float(distance), rel=1e-5)


def test_a_probe_sees_without_dropout_amid_training(data: TextDataset) -> None:
    model = tiny.model()
    adapted = moved(model, encoder="lora-qkv", encoder_settings={"dropout": 0.5})
    probe = CodeProbe(adapted, ImageFolder(data.root, model.tower), data["train"])
    calm = probe.diagnosis()
    adapted.train()
    assert probe.diagnosis() == calm
    assert adapted.training
    assert all(m.training for m in adapted.modules())


def test_codes_are_counted_by_image_once_for_both_encoders(data: TextDataset) -> None:
    model = tiny.model()
    adapted = moved(model)
    image_folder = ImageFolder(data.root, model.tower)
    samples = [*data["train"], data["train"][0]]
    got = counts(adapted, image_folder, samples)
    for table, sees in (
        (got.tuned, adapted.encode_images),
        (got.original, model.tower.encode_images),
    ):
        want = torch.ones(tiny.DEPTH, tiny.ENTRIES, dtype=torch.float64)
        with torch.no_grad():
            for sample in data["train"]:
                for token in sees(image_folder(list(sample.images))).codes[0].tolist():
                    for depth, code in enumerate(token):
                        want[depth, code] += 1
        torch.testing.assert_close(table, (want / want.sum(1, keepdim=True)).float())
    assert not torch.equal(got.tuned, got.original)
    still = counts(moved(model, "projector-ft"), image_folder, samples)
    assert torch.equal(still.tuned, still.original)
    with torch.no_grad():
        torch.testing.assert_close(
            code_frequencies(
                model.tower.encode_images(image_folder([s.images[0] for s in data["train"]])),
                tiny.ENTRIES,
            ),
            got.original,
        )


def test_frequencies_are_counted_depth_by_depth() -> None:
    codes = torch.randint(
        0, 5, (4, 7, 3), generator=torch.Generator().manual_seed(0)
    )  # images, tokens, depths
    codes[..., 1], codes[..., 2] = 1, 2
    blank = torch.zeros(4, 7, 2)
    got = code_frequencies(VisionOutput(blank, blank, codes, blank[None], blank[..., 0]), 5)
    assert got.shape == (3, 5)
    for depth in range(3):
        count = torch.bincount(codes[..., depth].flatten(), minlength=5) + 1
        torch.testing.assert_close(got[depth].double(), count.double() / count.sum())


def test_a_loss_leaves_the_model_bare(data: TextDataset) -> None:
    """Changes in the encoder are on while it looks, not between."""
    model = tiny.model()
    adapted = moved(model)
    method = method_of("craft", {})
    feed = BatchLoader(adapted, method, ImageFolder(data.root, model.tower), data["train"], 0)
    bare = model.tower.encode_images(tiny.pictures()).z
    with adapted.attached():
        CodebookLoss(adapted, method.losses(model))(feed(0, [0, 1], 0, 1)).backward()
        assert torch.equal(model.tower.encode_images(tiny.pictures()).z, bare)
    assert not model.carries
    assert not model.tower.image_backbone.carries

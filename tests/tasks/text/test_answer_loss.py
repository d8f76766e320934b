"""Answers as classes: a head over the encoder learns a closed list."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from builders import seq2seq as tiny
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.data.text_sample import TextSample
from petiole.engine.run import run
from petiole.errors import ConfigError
from petiole.layers.answer_head import AnswerHead
from petiole.methods.base import Changes
from petiole.methods.registry import create
from petiole.tasks.text.adapter import TextAdapter
from petiole.tasks.text.answer_loss import AnswerLoss, answer_batch, listed
from petiole.tasks.text.collator import Collator, TaskData, part_of
from petiole.tasks.text.model import AdaptedTextModel
from petiole.tasks.text.registry import TASKS, find
from petiole.tasks.text.visual import InMemoryVisuals
from petiole.testing import encoder_decoder as language

ANSWERS = ("red", "blue", "dog", "cat")


class Words:
    """Ids of words as they come."""

    pad = 1

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def __call__(self, text: str, most: int | None = None) -> list[int]:
        ids = [self.known.setdefault(word, len(self.known) + 3) for word in text.split()]
        return [0, *ids[: None if most is None else most - 2], 2]

    def decode(self, ids: object) -> str:
        raise AssertionError(f"nothing is generated: {ids}")


@pytest.fixture(params=["bart", "t5"])
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    made = tiny.model(request.param)
    made.tokenizer = Words()
    return made


def toy() -> TaskData:
    """The question asks for colour or animal; the picture has one of two of each."""
    generator = torch.Generator().manual_seed(0)
    pictures, samples = {}, []
    for i in range(24):
        colour, animal = i % 2, i // 2 % 2
        mark = torch.zeros(4, tiny.SEEN)
        mark[0, colour], mark[1, 2 + animal] = 3.0, 3.0
        pictures[f"p{i}"] = mark + 0.1 * torch.randn(mark.shape, generator=generator)
        for question, answer in (("colour", ANSWERS[colour]), ("animal", ANSWERS[2 + animal])):
            targets = {answer: 1.0, "unlisted": 0.3}
            samples.append(
                TextSample(
                    f"{i}{question}", f"which {question}", (f"p{i}",), targets, (answer,) * 10
                )
            )
    return TaskData(TASKS["vqa"], {"train": tuple(samples)}, InMemoryVisuals(pictures))


def speaker_of(model: Seq2Seq) -> AdaptedTextModel:
    method = create("vl-adapter", {"tasks": 1, "reduction": 2.0})
    head = AnswerHead(model.width, ANSWERS)
    return AdaptedTextModel(model, method.plan(model), head=head)  # type: ignore[attr-defined]


def test_a_head_learns_to_answer_from_question_and_picture(model: Seq2Seq) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapted = speaker_of(model)
    data = toy()
    collator, samples = Collator(model, [data]), data.parts["train"]
    batch = answer_batch(collator, [(0, sample) for sample in samples[:40]], ANSWERS)
    loss_module = AnswerLoss(adapted).train()
    optimiser = torch.optim.Adam([p for p in loss_module.parameters() if p.requires_grad], 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = loss_module(batch)
        loss.backward()
        optimiser.step()
    held_out = samples[40:]
    said = adapted.answer(collator.inputs([data] * len(held_out), held_out), data.task, 0)
    right = sum(a == s.references[0] for a, s in zip(said, held_out, strict=True))
    assert right >= 7, "of 8; knowing the question alone gives 4"


def test_the_loss_is_the_mean_over_samples_of_the_sum_over_answers(model: Seq2Seq) -> None:
    adapted, data = speaker_of(model), toy()
    rows = [(0, sample) for sample in data.parts["train"][:3]]
    rows[1] = (0, replace(rows[1][1], targets={"red": 0.3, "cat": 0.9}))
    batch = answer_batch(Collator(model, [data]), rows, ANSWERS)
    assert batch.scores.tolist() == [
        pytest.approx(row) for row in ([1, 0, 0, 0], [0.3, 0, 0, 0.9], [0, 1, 0, 0])
    ]
    with torch.no_grad():
        z = adapted.judge(batch.inputs, batch.tasks).flatten().tolist()
        got = float(AnswerLoss(adapted)(batch))
    loss = 0.0
    for logit, score in zip(z, batch.scores.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        loss -= (score * math.log(p) + (1 - score) * math.log(1 - p)) / 3
    assert got == pytest.approx(loss, rel=1e-4)


def test_the_head_reads_the_first_word_also_behind_prompts(model: Seq2Seq) -> None:
    from petiole.backbones.hooks import Attach, attached
    from petiole.layers.rows import Prepend, Rows

    seen: list[torch.Tensor] = []
    head = AnswerHead(model.width, ANSWERS)
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    attach = Attach("encoder.text", Prepend(Rows(3, model.width)), how="replace")
    with torch.no_grad():
        AdaptedTextModel(model, Changes(attach=(attach,)), head=head).judge(
            tiny.inputs(), (0, 0, 0)
        )
        with attached(model, [attach]):
            states = model.encode(tiny.inputs()).states
    torch.testing.assert_close(seen[0], states[:, 3])


def test_a_task_with_choices_is_answered_by_one_of_them(model: Seq2Seq) -> None:
    adapted = speaker_of(model)
    task = find("choice", choices=("dog", "blue"))
    with torch.no_grad():
        last = adapted.head.layers[-1]  # type: ignore[union-attr]
        last.bias.copy_(torch.tensor([9.0, 1.0, 5.0, 9.0]))  # type: ignore[operator,union-attr]
        last.weight.zero_()  # type: ignore[operator,union-attr]
    ids = torch.tensor([[0, 3, 2]])
    inputs = Inputs(ids, torch.ones_like(ids, dtype=torch.bool))
    assert adapted.answer(inputs, task, 0) == ["dog"]
    assert adapted.answer(inputs, TASKS["vqa"], 0) == ["red"]
    with pytest.raises(ConfigError, match="true, false"):
        adapted.answer(inputs, TASKS["nlvr"], 0)


def test_the_head_has_the_published_size() -> None:
    head = AnswerHead(768, [str(i) for i in range(3129)])
    assert [tuple(p.shape) for p in head.parameters()] == [
        (1536, 768), (1536,), (1536,), (1536,), (3129, 1536), (3129,),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="twice"):
        AnswerHead(8, ["yes", "yes"])
    with pytest.raises(ConfigError):
        AnswerHead(8, [])


def test_the_list_has_fixed_choices_and_then_the_commonest_answers() -> None:
    def data(name: str, *answers: str) -> TaskData:
        samples = (TextSample(str(i), "", (), {a: 1.0}, (a,)) for i, a in enumerate(answers))
        return TaskData(TASKS[name], {"train": tuple(samples)})

    asked = data("gqa", "cat", "two", "red", "cat", "two", "cat", "true")
    pairs = data("nlvr", "false", "false")
    assert listed([asked], 3) == ["cat", "two", "red"]
    assert listed([asked], 100) == ["cat", "two", "red", "true"]
    assert listed([asked, pairs], 4) == ["true", "false", "cat", "two"]
    assert listed([asked, pairs], 1) == ["true", "false"]
    doubted = TaskData(
        TASKS["gqa"], {"train": (TextSample("0", targets={"cat": 0.0, "two": 0.1}),)}
    )
    assert listed([doubted], 9) == ["two"]
    assert [len(asked.training(share)) for share in (0.01, 0.5, 0.99, 1.0)] == [1, 4, 7, 7]
    order = np.random.default_rng(0).permutation(7)
    assert asked.training(0.5) == tuple(asked.parts["train"][i] for i in order[:4])
    half = listed([asked], 100, 0.5)
    assert set(half) == {next(iter(s.targets)) for s in asked.training(0.5)}
    with pytest.raises(ConfigError, match="caption"):
        listed([asked, data("caption", "a cat")], 3)
    sought = replace(asked, task=replace(asked.task, beams=2))
    with pytest.raises(ConfigError, match="answers of gqa are sentences"):
        listed([sought], 3)


def test_processes_take_runs_of_a_batch() -> None:
    for rows, processes in ((7, 3), (2, 3), (4, 1)):
        parts = [part_of(rows, process, processes) for process in range(processes)]
        assert [i for part in parts for i in part] == [*range(rows)]
        assert {len(part) for part in parts} <= {rows // processes, rows // processes + 1}


def test_the_loss_of_a_batch_is_the_mean_of_what_its_processes_have(model: Seq2Seq) -> None:
    adapted, data = speaker_of(model).eval(), toy()
    rows = [(0, sample) for sample in data.parts["train"][:5]]
    collator, loss_module = Collator(model, [data]), AnswerLoss(adapted)
    with torch.no_grad():
        whole = float(loss_module(answer_batch(collator, rows, ANSWERS)))
        parts = [float(loss_module(answer_batch(collator, rows, ANSWERS, p, 2))) for p in range(2)]
    assert sum(parts) / 2 == pytest.approx(whole, rel=1e-5)
    assert parts[0] != pytest.approx(whole, rel=1e-3)


@pytest.mark.parametrize("method", ["vl-adapters", "vl-full"])
def test_a_run_chooses_its_answers_from_the_list_and_needs_no_decoder(
    method: str, tmp_path: Path
) -> None:
    settings = {"steps": 3, "batch_size": 4, "lr": 1e-3, "classifier": 3}
    spec, workspace = language.text_run(tmp_path, method, settings, data=language.tasks()[:2])
    record, model = run(spec, workspace), workspace.model
    adapter = TextAdapter.load(tmp_path, backbone=language.model())
    assert adapter.details.answers == ["true", "false", "two"]
    said = {
        name: {json.loads(row)["prediction"] for row in lines.splitlines()}
        for name in ("vqa", "nlvr")
        for lines in [(tmp_path / "predictions" / f"{name}.jsonl").read_text()]
    }
    assert said["vqa"] <= {"true", "false", "two"}
    assert said["nlvr"] <= {"true", "false"}
    names = load_file(tmp_path / "adapter" / "adapter.safetensors")
    assert [n for n in names if "encoder" in n]
    assert not [n for n in names if "decoder" in n]
    head = 2 * model.width**2 + 6 * model.width + 3 * (2 * model.width + 1)
    assert sum(t.numel() for n, t in names.items() if n.startswith("head.")) == head
    assert record.ledger.trainable == sum(
        p.numel() for p in adapter.adapted.parameters() if p.requires_grad
    )


def test_a_run_that_cannot_choose_says_so_before_it_trains(tmp_path: Path) -> None:
    for folder, tasks, more in (("a", slice(2, 3), {}), ("b", slice(1), {"label_smoothing": 0.1})):
        settings = {"steps": 1, "classifier": 3, **more}
        data = language.tasks()[tasks]
        with pytest.raises(ConfigError, match="classifier"):
            run(*language.text_run(tmp_path / folder, settings=settings, data=data))
        assert not (tmp_path / folder / "metrics.jsonl").exists()

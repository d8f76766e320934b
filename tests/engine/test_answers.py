"""Answers as classes: a head over the encoder learns a closed list."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import seq2seq_for_tests as tiny
from petiole.backbones.seq2seq import Inputs, Seq2Seq
from petiole.data.vl.sample import Sample
from petiole.engine.answers import AnswerTrainee, judged
from petiole.engine.lessons import Lessons, TaskData
from petiole.engine.sight import Remembered
from petiole.engine.speaker import Speaker
from petiole.errors import ConfigError
from petiole.layers.answer_head import AnswerHead
from petiole.methods.base import Changes
from petiole.methods.registry import create
from petiole.tasks.registry import TASKS, find

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
                Sample(f"{i}{question}", f"which {question}", (f"p{i}",), targets, (answer,) * 10)
            )
    return TaskData(TASKS["vqa"], {"train": tuple(samples)}, Remembered(pictures))


def speaker_of(model: Seq2Seq) -> Speaker:
    method = create("vl-adapter", {"tasks": 1, "reduction": 2.0})
    head = AnswerHead(model.width, ANSWERS)
    return Speaker(model, method.changes(model), head=head)  # type: ignore[attr-defined]


def test_a_head_learns_to_answer_from_question_and_picture(model: Seq2Seq) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        speaker = speaker_of(model)
    data = toy()
    lessons, samples = Lessons(model, [data]), data.parts["train"]
    batch = judged(lessons, [(0, sample) for sample in samples[:40]], ANSWERS)
    trainee = AnswerTrainee(speaker).train()
    optimiser = torch.optim.Adam([p for p in trainee.parameters() if p.requires_grad], 1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        loss = trainee(batch)
        loss.backward()
        optimiser.step()
    held_out = samples[40:]
    said = speaker.answer(lessons.inputs([data] * len(held_out), held_out), data.task, 0)
    right = sum(a == s.references[0] for a, s in zip(said, held_out, strict=True))
    assert right >= 7, "of 8; knowing the question alone gives 4"


def test_the_loss_is_the_mean_over_samples_of_the_sum_over_answers(model: Seq2Seq) -> None:
    speaker, data = speaker_of(model), toy()
    rows = [(0, sample) for sample in data.parts["train"][:3]]
    rows[1] = (0, replace(rows[1][1], targets={"red": 0.3, "cat": 0.9}))
    batch = judged(Lessons(model, [data]), rows, ANSWERS)
    assert batch.scores.tolist() == [
        pytest.approx(row) for row in ([1, 0, 0, 0], [0.3, 0, 0, 0.9], [0, 1, 0, 0])
    ]
    with torch.no_grad():
        z = speaker.judge(batch.inputs, batch.tasks).flatten().tolist()
        got = float(AnswerTrainee(speaker)(batch))
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
        Speaker(model, Changes(attach=(attach,)), head=head).judge(tiny.inputs(), (0, 0, 0))
        with attached(model, [attach]):
            states = model.encode(tiny.inputs()).states
    torch.testing.assert_close(seen[0], states[:, 3])


def test_a_task_with_choices_is_answered_by_one_of_them(model: Seq2Seq) -> None:
    speaker = speaker_of(model)
    task = find("choice", choices=("dog", "blue"))
    with torch.no_grad():
        last = speaker.head.layers[-1]  # type: ignore[union-attr]
        last.bias.copy_(torch.tensor([9.0, 1.0, 5.0, 9.0]))  # type: ignore[operator,union-attr]
        last.weight.zero_()  # type: ignore[operator,union-attr]
    ids = torch.tensor([[0, 3, 2]])
    inputs = Inputs(ids, torch.ones_like(ids, dtype=torch.bool))
    assert speaker.answer(inputs, task, 0) == ["dog"]
    assert speaker.answer(inputs, TASKS["vqa"], 0) == ["red"]
    with pytest.raises(ConfigError, match="true, false"):
        speaker.answer(inputs, TASKS["nlvr"], 0)


def test_the_head_has_the_published_size() -> None:
    head = AnswerHead(768, [str(i) for i in range(3129)])
    assert [tuple(p.shape) for p in head.parameters()] == [
        (1536, 768), (1536,), (1536,), (1536,), (3129, 1536), (3129,),
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="twice"):
        AnswerHead(8, ["yes", "yes"])
    with pytest.raises(ConfigError):
        AnswerHead(8, [])

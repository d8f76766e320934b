"""What every method for language models must do, on a BART and on a T5. A new method gets all of it by existing."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import language_for_tests as tiny
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.weights import fingerprint
from petiole.ledger import sizes
from petiole.methods.registry import create, methods, settings_of
from petiole.methods.text import TextMethod
from petiole.tasks.text.collator import Collator
from petiole.tasks.text.model import AdaptedTextModel, GenerationBatch, GenerationLoss

NAMES = [name for name, entry in methods().items() if issubclass(entry.cls, TextMethod)]
PAIRS = [(family, name) for family in ("bart", "t5") for name in NAMES]
SHARED = [
    (name, sharing)
    for name in ("vl-adapter", "vl-compacter", "vl-compacter-original", "vl-lora", "vl-dora")
    for sharing in ("half_up", "half_down", "multiple")
] + [("vl-prompt", "half_up"), ("vl-prompt", "half_down"), ("vl-prefix", "multiple")]
SMALL = {"rank": 3, "hidden": 5, "prompts": 3, "prefix": 3}
DEAD = ("visual/boxes/weight",)
"""Zero boxes: these weights count as trained, as published, and never learn."""
ROUNDING = ("k_proj/bias",)
"""Softmax takes out what is the same for every key, so these move by rounding errors or not at all."""


@cache
def model(family: tiny.Family) -> Seq2Seq:
    """Weights large enough for every part of it to matter."""
    made = tiny.model(family)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in made.module.named_parameters():
            if "norm" not in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) / 5)
    return made


def method(name: str, **settings: Any) -> TextMethod:
    small = {k: v for k, v in SMALL.items() if k in settings_of(create(name))}
    if name == "vl-compacter":
        del small["rank"]
    made = create(name, {"tasks": 3, **small, **settings})
    assert isinstance(made, TextMethod)
    return made


def speaker(family: tiny.Family, made: TextMethod, seed: int = 0) -> AdaptedTextModel:
    torch.manual_seed(seed)
    return AdaptedTextModel(model(family), made.plan(model(family))).eval()


def shaken(one: AdaptedTextModel) -> AdaptedTextModel:
    """Trained, as far as numbers can tell."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 5)
    return one


def batch(family: tiny.Family, tasks: tuple[int, ...] = (0, 1, 2, 2, 0, 1)) -> GenerationBatch:
    data = tiny.tasks()
    rows = [(t, data[t].parts["train"][i]) for i, t in enumerate(tasks)]
    return Collator(model(family), data).lesson(rows, np.random.default_rng(0))


def scores(one: AdaptedTextModel, of: GenerationBatch) -> Tensor:
    with torch.no_grad():
        return one(of.inputs, of.labels, of.tasks)


def only(inputs: Inputs, rows: list[int]) -> Inputs:
    values = {k: v[rows] if isinstance(v, Tensor) else v for k, v in vars(inputs).items()}
    return Inputs(**values)


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_it_moves_all_it_declares_and_nothing_else(family: tiny.Family, name: str) -> None:
    frozen, one = model(family), speaker(family, method(name))
    before = fingerprint(frozen.module.state_dict())
    fresh = {key: value.clone() for key, value in one.state_dict().items()}
    trained = {key for key, p in one.named_parameters() if p.requires_grad}
    kept = {"tuned.visual/codes"} if name != "vl-full" else set()
    assert fresh.keys() == trained | kept
    optimiser = torch.optim.AdamW([p for p in one.parameters() if p.requires_grad], weight_decay=0)
    loss_module = GenerationLoss(one).train()
    for _ in range(2):
        optimiser.zero_grad()
        loss_module(batch(family)).backward()
        optimiser.step()
    for key, value in one.state_dict().items():
        assert torch.isfinite(value).all(), key
        if not key.endswith(ROUNDING):
            assert torch.equal(value, fresh[key]) == (key in kept or key.endswith(DEAD)), key
    assert fingerprint(frozen.module.state_dict()) == before
    assert not any(p.requires_grad or p.grad is not None for p in frozen.module.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in frozen.module.modules())
    assert not frozen.module.training


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_it_is_whole_in_its_state(family: tiny.Family, name: str) -> None:
    one, other = shaken(speaker(family, method(name))), speaker(family, method(name), seed=9)
    want = scores(one, batch(family))
    assert not torch.equal(scores(other, batch(family)), want)
    other.load_state_dict(one.state_dict())
    assert torch.equal(scores(other, batch(family)), want)


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_it_starts_as_the_bare_model_where_it_says_so(family: tiny.Family, name: str) -> None:
    one = speaker(family, method(name))
    bare = AdaptedTextModel(model(family), method("vl-projection").plan(model(family))).eval()
    with torch.no_grad():  # a V->L block without training is drawn anew
        for key, value in bare.copies.items():
            value.copy_(one.copies[key])
    want, got = scores(bare, batch(family)), scores(one, batch(family))
    assert torch.isfinite(got).all()
    assert torch.equal(got, want) == bool(one.changes.identity)


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_a_row_among_others_is_as_it_is_alone(family: tiny.Family, name: str) -> None:
    mixed_is_alone(family, method(name))


@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize(("name", "sharing"), SHARED)
def test_sharing_is_a_property_of_any_layer(family: tiny.Family, name: str, sharing: str) -> None:
    made = method(name, sharing=sharing)
    one = mixed_is_alone(family, made)
    single, several = (
        sizes(model(family), method(name, sharing=s).plan(model(family))).trained_parts["layers"]
        for s in ("single", "multiple")
    )
    got = sum(p.numel() for key, p in one.named_parameters() if not key.startswith("tuned."))
    assert single < got <= several
    assert (got == several) == (sharing == "multiple")


def mixed_is_alone(family: tiny.Family, made: TextMethod) -> AdaptedTextModel:
    one, of = shaken(speaker(family, made)), batch(family)
    mixed = scores(one, of)
    for task in range(3):
        rows = [i for i, t in enumerate(of.tasks) if t == task]
        with torch.no_grad():
            alone = one(only(of.inputs, rows), of.labels[rows], [task] * len(rows))
        torch.testing.assert_close(mixed[rows], alone, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        wrong = one(of.inputs, of.labels, [0] * len(of.tasks))
    several = made.sharing != "single" or type(made).__name__ == "VLHyperformer"
    assert torch.allclose(wrong, mixed, atol=1e-5) != several, "tasks must differ"
    return one


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_it_counts_as_the_ledger_says(family: tiny.Family, name: str) -> None:
    one = speaker(family, method(name))
    got = sizes(model(family), method(name).plan(model(family)))
    trained = [p.numel() for p in one.parameters() if p.requires_grad]
    assert got.trainable == sum(trained)
    assert got.trainable + got.fixed == sum(v.numel() for v in one.state_dict().values())
    tuned = sum(v.numel() for key, v in one.state_dict().items() if key.startswith("tuned."))
    assert got.trained_parts["layers"] == got.trainable + got.fixed - tuned
    assert got.total == model(family).parameter_count + got.trained_parts["layers"]


@pytest.mark.parametrize(("family", "name"), [p for p in PAIRS if p[1] != "vl-projection"])
def test_it_serves_one_task_and_a_model_without_eyes(family: tiny.Family, name: str) -> None:
    blind = tiny.model(family, seen=0)
    one = AdaptedTextModel(blind, method(name, tasks=1).plan(blind)).train()
    of = batch(family, (0, 0))
    inputs = Inputs(of.inputs.ids, of.inputs.mask)
    loss = GenerationLoss(one)(GenerationBatch(inputs, of.labels, of.weights, of.tasks))
    loss.backward()
    assert torch.isfinite(loss)
    assert not any("visual" in key for key in one.state_dict())


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_step_by_step_with_stored_keys_it_says_what_the_whole_pass_scores_highest(
    family: tiny.Family, name: str
) -> None:
    frozen, one = model(family), shaken(speaker(family, method(name)))
    of, longest = batch(family, (2, 0, 1)), 6
    with torch.no_grad(), one._at_work(of.tasks):
        encoded = frozen.encode(of.inputs)
        said = frozen.generate(encoded, longest=longest)
        several = frozen.generate(encoded, beams=3, longest=longest)
        labels = torch.tensor([row[1:] for row in said])
        best = frozen.logits(encoded, labels).argmax(dim=-1)
    assert len(several) == 3
    for row, want in zip(labels.tolist(), best.tolist(), strict=True):
        end = row.index(2) + 1 if 2 in row else longest - 2  # the last may be forced to end
        assert row[: min(end, longest - 2)] == want[: min(end, longest - 2)]
    for i, task in enumerate(of.tasks):
        with torch.no_grad(), one._at_work([task]):
            alone = frozen.encode(only(of.inputs, [i]))
            for rows, beams in ((said, 1), (several, 3)):
                got = frozen.generate(alone, beams=beams, longest=longest)[0]
                assert without_padding(got) == without_padding(rows[i])


def without_padding(row: list[int]) -> list[int]:
    return row[:1] + [token for token in row[1:] if token != tiny.Words.pad]

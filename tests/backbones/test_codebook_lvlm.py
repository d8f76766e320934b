"""A model over a codebook against rows laid out, read and answered one by one, without padding or cache."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from petiole.backbones.codebook_lvlm import LVLM, causal
from petiole.backbones.codebook_lvlm.model import IGNORED, Turns
from petiole.errors import BackboneError
from petiole.testing import codebook_lvlm as tiny

LAID = tiny.model(prompt=tiny.LONG_PROMPT)
QUESTIONS = [[9, 10, 11], [12], [13, 14, 15, 16, 17, 18]]
ANSWERS = [[20], [21, 22, 23], [24, 25]]
KEPT = torch.tensor([[0, 3, 4, 9, 15], [1, 2, 3, 4, 5], [7, 8, 12, 14, 15]])


def one(
    model: LVLM,
    seen: Tensor,
    question: list[int],
    answer: list[int] | None,
    kept: list[int],
    positions: str,
    learn: bool,
    end: bool = True,
) -> tuple[list[Tensor], list[int], list[int]]:
    """One row: what is embedded, its place, its label; token by token."""
    prompt, language = model.prompt, model.module.language
    table = language.get_input_embeddings().weight  # type: ignore[operator]
    visual = [model.module.projector(seen[k]) for k in kept]
    vectors, places, labels = [], [], []
    for at, token in enumerate(prompt.before):
        vectors.append(table[token])
        places.append(at)
        labels.append(IGNORED)
    for at, (k, vector) in enumerate(zip(kept, visual, strict=True)):
        vectors.append(vector)
        places.append(len(prompt.before) + (k if positions == "keep" else at))
        labels.append(IGNORED)
    place = len(prompt.before) + (len(seen) if positions == "keep" else len(kept))
    said = [] if answer is None else [*answer, prompt.end]
    for tokens, learnt in (
        (prompt.between, False),
        (question, learn),
        (prompt.after, False),
        (said[:-1], True),
        (said[-1:], end),
    ):
        for token in tokens:
            vectors.append(table[token])
            places.append(place)
            labels.append(token if learnt else IGNORED)
            place += 1
    return vectors, places, labels


@given(
    sizes=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=4),
    count=st.integers(0, tiny.TOKENS),
    positions=st.sampled_from(["keep", "compact"]),
    learn=st.booleans(),
    end=st.booleans(),
    asked=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_laid_out_as_one_by_one(
    sizes: list[tuple[int, int]],
    count: int,
    positions: Any,
    learn: bool,
    end: bool,
    asked: bool,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(size: int) -> list[int]:
        return torch.randint(7, 60, (size,), generator=generator).tolist()

    questions = [draw(q) for q, _ in sizes]
    answers = None if asked else [draw(a) for _, a in sizes]
    seen = torch.randn(len(sizes), tiny.TOKENS, tiny.D, generator=generator)
    kept = None
    if count:  # 0 stands for no pruning
        order = torch.rand(len(sizes), tiny.TOKENS, generator=generator).argsort(1)
        kept = order[:, :count].sort(1).values
    turns = LAID.turns(
        seen,
        questions,
        answers,
        kept=kept,
        positions=positions,
        learn_questions=learn,
        learn_end=end,
    )
    rows = [
        one(
            LAID,
            seen[i],
            questions[i],
            answers[i] if answers else None,
            list(range(tiny.TOKENS)) if kept is None else kept[i].tolist(),
            positions,
            learn,
            end,
        )
        for i in range(len(sizes))
    ]
    longest = max(len(vectors) for vectors, _, _ in rows)
    assert turns.embedded.shape == (len(sizes), longest, tiny.WIDTH)
    whole = torch.full((len(sizes), longest), IGNORED)
    for i, (vectors, places, labels) in enumerate(rows):
        size = len(vectors)
        assert turns.mask[i].tolist() == [False] * (longest - size) + [True] * size
        torch.testing.assert_close(
            turns.embedded[i, -size:], torch.stack(vectors), rtol=1e-4, atol=1e-4
        )
        assert turns.positions[i, -size:].tolist() == places
        whole[i, -size:] = torch.tensor(labels)
    learnt = (whole != IGNORED).any(0).nonzero().flatten().tolist()
    first = learnt[0] if learnt else longest
    assert torch.equal(turns.labels, whole[:, first:])


def bare_logits(model: LVLM, vectors: list[Tensor], places: list[int]) -> Tensor:
    """Scores at every place of one row, without padding, cache or anything left out."""
    # Without a mask transformers takes gaps between places for the borders of packed texts.
    told = {"attention_mask": torch.ones(1, len(vectors), dtype=torch.long)}
    if causal.accepts_positions(model.module.language):
        told["position_ids"] = torch.tensor([places])
    scores = model.module.language(
        inputs_embeds=torch.stack(vectors)[None], use_cache=False, **told
    )
    return scores.logits[0]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("positions", ["keep", "compact"])
@torch.no_grad()
def test_scores_of_a_batch_are_those_of_its_rows(family: tiny.Family, positions: Any) -> None:
    model = tiny.model(family, prompt=tiny.LONG_PROMPT)
    seen = model.tower.encode_images(tiny.pictures()).seen
    turns = model.turns(
        seen, QUESTIONS, ANSWERS, kept=KEPT, positions=positions, learn_questions=True
    )
    got = model.logits(turns)
    assert got.shape[:2] == turns.labels.shape
    checked = 0
    for i in range(3):
        row = one(model, seen[i], QUESTIONS[i], ANSWERS[i], KEPT[i].tolist(), positions, True)
        want = bare_logits(model, row[0], row[1])
        for back in range(1, turns.labels.shape[1] + 1):
            if turns.labels[i, -back] != IGNORED:
                assert row[2][-back] == turns.labels[i, -back]
                torch.testing.assert_close(got[i, -back], want[-back - 1], rtol=1e-4, atol=1e-4)
                checked += 1
    assert checked == sum(map(len, QUESTIONS)) + sum(len(a) + 1 for a in ANSWERS)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("kept", [None, KEPT], ids=["all", "kept"])
@pytest.mark.parametrize("positions", ["keep", "compact"])
@torch.no_grad()
def test_answers_are_greedy_token_by_token(
    family: tiny.Family, kept: Tensor | None, positions: Any
) -> None:
    """With padding and cache as without, and whoever else is in the batch."""
    model = tiny.model(family, prompt=tiny.LONG_PROMPT)
    seen = model.tower.encode_images(tiny.pictures()).seen
    got = model.generate(model.turns(seen, QUESTIONS, kept=kept, positions=positions), 6)
    table = model.module.language.get_input_embeddings().weight  # type: ignore[operator]
    for i, question in enumerate(QUESTIONS):
        own = list(range(tiny.TOKENS)) if kept is None else kept[i].tolist()
        vectors, places, _ = one(model, seen[i], question, None, own, positions, False)
        said: list[int] = []
        while len(said) < 6:
            token = int(bare_logits(model, vectors, places)[-1].argmax())
            if token == model.prompt.end:
                break
            said.append(token)
            vectors.append(table[token])
            places.append(places[-1] + 1)
        assert got[i] == said
        part = slice(i, i + 1)
        alone = model.turns(
            seen[part],
            [question],
            kept=None if kept is None else kept[part],
            positions=positions,
        )
        assert model.generate(alone, 6) == [said]
    assert len({tuple(row) for row in got}) > 1  # the test can see a difference


@torch.no_grad()
def test_an_answer_stops_at_its_end() -> None:
    """A model that ends at once says nothing; the end is not part of what is said."""
    model = tiny.model("gpt2")
    model.module.language.lm_head = torch.nn.Linear(tiny.WIDTH, len(tiny.words()))
    model.module.language.lm_head.weight.zero_()
    model.module.language.lm_head.bias.zero_()[model.prompt.end] = 1
    seen = model.tower.encode_images(tiny.pictures()).seen
    assert model.generate(model.turns(seen, QUESTIONS)) == [[], [], []]


def test_kept_places_and_closed_up_ones_differ() -> None:
    turns = {
        how: LAID.turns(torch.zeros(3, tiny.TOKENS, tiny.D), QUESTIONS, kept=KEPT, positions=how)
        for how in ("keep", "compact")
    }
    gap = turns["keep"].positions - turns["compact"].positions
    assert int(gap[:, -1].min()) == tiny.TOKENS - KEPT.shape[1]


def test_gradients_pass_the_quantiser_as_if_it_were_not_there() -> None:
    """Straight-through: forwards exactly z^, backwards the identity; a continuous twin sees z."""
    tower = tiny.tower()
    z = torch.randn(2, tiny.TOKENS, tiny.D, requires_grad=True)
    vision_output = tower.quantised(z)
    assert torch.equal(vision_output.seen, tower.quantiser.embed(vision_output.codes))
    assert not torch.equal(vision_output.seen, z)
    upstream = torch.randn_like(z)
    (gradient,) = torch.autograd.grad(vision_output.seen, z, upstream)
    assert torch.equal(gradient, upstream)
    assert not any(t.requires_grad for t in (vision_output.partials, vision_output.residual))
    plain = tower.quantised(z, discrete=False)
    assert plain.seen is z
    assert torch.equal(plain.codes, vision_output.codes)


def test_roles_cover_every_parameter() -> None:
    for family in tiny.FAMILIES:
        model = tiny.model(family)
        depth = len(causal.blocks(model.module.language)[1])
        roles = {model.role_of(name) for name, _ in model.module.named_parameters()}
        blocks = {f"language.block.{i}" for i in range(depth)}
        assert roles == {"tower", "visual", "language"} | blocks
        assert all(n.startswith("projector.") for n in model.parameters_under("visual"))
        own = {n.partition(".")[2] for n in model.parameters_under("visual")}
        assert own == {n for n, _ in model.module.projector.named_parameters()}
        layers = causal.attention_layers(model.module.language)
        assert layers
        assert all("mlp" not in n and "feed_forward" not in n for n in layers)


def test_a_model_that_is_not_known_is_refused() -> None:
    kernels = logging.getLogger("transformers.integrations.hub_kernels")
    kernels.setLevel(logging.NOTSET)
    with pytest.raises(BackboneError, match="no-such"):
        causal.build({"model_type": "no-such"})
    assert kernels.level == logging.ERROR
    with pytest.raises(BackboneError, match="mlp2x_gelu"):
        causal.projector("square", 2, 2)


def test_texts_beside_longer_ones_keep_their_vectors() -> None:
    heads = tiny.tower().aligned.eval()
    rows = [[9, 10], [11] * 40, [12, 13, 14]]
    got = heads.texts(rows)
    torch.testing.assert_close(got[:1], heads.texts(rows[:1]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got[1:2], heads.texts([[11] * tiny.ENCODER["longest"]]))
    with pytest.raises(BackboneError, match="contrast=0"):
        _ = tiny.tower(contrast=False).aligned


def test_turns_are_of_tensors() -> None:
    turns = LAID.turns(torch.zeros(1, tiny.TOKENS, tiny.D), [[9]], [[9]])
    assert isinstance(turns, Turns)
    assert turns.labels.tolist() == [[9, LAID.prompt.end]]

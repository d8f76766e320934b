"""Encoder-decoders with eyes against transformers' own forward and against the equations in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, pad

from builders import seq2seq as tiny
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.backbones.encoder_decoder.loading import architecture, with_visual
from petiole.backbones.hooks import Attach, attached
from petiole.backbones.registry import LoadRequest, load_any
from petiole.errors import ConfigError
from petiole.layers.rows import Prepend, Rows

KINDS = tuple(tiny.CONFIGS)


def close(got: Tensor, want: Tensor, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(got.double(), want.double(), rtol=tolerance, atol=tolerance)


# Text alone: the library's own forward


@pytest.mark.parametrize("kind", KINDS)
def test_without_vision_it_is_the_librarys_own_model(kind: str) -> None:
    made = tiny.model(kind, visual=False)
    batch = tiny.text_of(tiny.inputs())
    labels = torch.arange(3, 8).repeat(3, 1)
    labels[1, 3:] = -100
    with torch.no_grad():
        theirs = made.module.language(
            input_ids=batch.ids, attention_mask=batch.mask.long(), labels=labels
        )
        encoded = made.encode(batch)
        logits = made.logits(encoded, labels)
    assert encoded.front == 0
    close(encoded.states[batch.mask], theirs.encoder_last_hidden_state[batch.mask])
    close(logits, theirs.logits)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    close(loss, theirs.loss)


def test_the_output_of_t5_is_scaled_where_the_configuration_says_so() -> None:
    plain, unscaled = tiny.model("t5", visual=False), tiny.model("t5", visual=False)
    unscaled.module.language.config.scale_decoder_outputs = False  # type: ignore[union-attr]
    batch = tiny.text_of(tiny.inputs())
    close(tiny.scores(plain, batch), tiny.scores(unscaled, batch) / math.sqrt(tiny.WIDTH), 1e-5)


@pytest.mark.parametrize(("kind", "start", "fill"), [("bart", 2, 1), ("t5", 0, 0)])
def test_the_decoder_reads_the_labels_one_place_later(kind: str, start: int, fill: int) -> None:
    made = tiny.model(kind, visual=False)
    labels = torch.tensor([[5, 6, 7], [8, -100, -100]])
    assert made.shifted(labels).tolist() == [[start, 5, 6], [start, 8, fill]]


def test_t5_starts_with_the_pad_token_where_no_start_is_stated() -> None:
    stated = {k: v for k, v in tiny.T5.items() if k != "decoder_start_token_id"}
    language, family = architecture({**stated, "pad_token_id": 4})
    assert with_visual("t5", language, family, None).start == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_to_texts_are_those_of_the_librarys_search(kind: str, beams: int) -> None:
    made = tiny.model(kind, visual=False)
    batch = tiny.text_of(tiny.inputs())
    theirs = made.module.language.generate(  # type: ignore[union-attr,operator]
        input_ids=batch.ids,
        attention_mask=batch.mask.long(),
        num_beams=beams,
        max_length=7,
        do_sample=False,
        decoder_start_token_id=made.start,
    )
    with torch.no_grad():
        assert made.generate(made.encode(batch), beams=beams, longest=7) == theirs.tolist()


@pytest.mark.parametrize("kind", ["t5", "t5-gated"])
def test_greedy_answers_with_images_take_the_best_token_each_time(kind: str) -> None:
    made = tiny.model(kind)
    batch, longest = tiny.inputs(images=2), 7
    with torch.no_grad():
        encoded = made.encode(batch)
        answers = made.generate(encoded, longest=longest)
        for row, answer in enumerate(answers):
            one = type(encoded)(encoded.states[row : row + 1], encoded.mask[row : row + 1])
            said: list[int] = []
            while len(said) < longest - 1 and 1 not in said:
                scores = made.logits(one, torch.tensor([[*said, -100]]))
                said.append(int(scores[0, -1].argmax()))
            assert answer == [made.start, *said, *[0] * (len(answer) - 1 - len(said))]


# The V->L block


def norm64(block: Any, x: Tensor) -> Tensor:
    """LayerNorm, or T5's: no mean, no shift."""
    weight = block.weight.double()
    if getattr(block, "bias", None) is None:
        return weight * x / (x.square().mean(-1, keepdim=True) + block.variance_epsilon).sqrt()
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + block.eps).sqrt()
    return weight * scaled + block.bias.double()


def line64(layer: Any, x: Tensor) -> Tensor:
    y = x @ layer.weight.double().T
    return y if layer.bias is None else y + layer.bias.double()


def seen64(made: Seq2Seq, batch: Inputs, boxes: str, norms: str) -> Tensor:
    """Token by token, as the equation reads."""
    block: Any = made.module.visual
    assert batch.visual is not None
    assert batch.boxes is not None
    places = batch.visual.shape[1] // batch.images
    side = math.isqrt(places)
    rows = []
    for i in range(len(batch.ids)):
        tokens = []
        for t in range(batch.images * places):
            k, j = divmod(t, places)
            match boxes:
                case "zero":
                    x1 = y1 = x2 = y2 = 0.0
                case "grid":
                    row, column = divmod(j, side)
                    x1, y1 = column / side, row / side
                    x2, y2 = x1 + 1 / side, y1 + 1 / side
                case _:
                    x1, y1, x2, y2 = batch.boxes[i, t].tolist()
            corners = torch.tensor([x1, y1, x2, y2, (y2 - x2) * (y1 - x1)], dtype=torch.float64)
            feature = line64(block.features, batch.visual[i, t].double())
            where = line64(block.boxes, corners)
            extra = block.images.weight[k].double() + block.codes[-1 - j].double()
            if norms == "each":
                feature, where = norm64(block.feature_norm, feature), norm64(block.box_norm, where)
                tokens.append(feature + where + extra)
            else:
                tokens.append(norm64(block.norm, feature + where + extra))
        rows.append(torch.stack(tokens))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["bart", "t5"])
@pytest.mark.parametrize("boxes", ["zero", "grid", "given"])
@pytest.mark.parametrize("norms", ["each", "sum"])
@pytest.mark.parametrize("images", [1, 2])
def test_features_become_tokens_as_the_equation_says(
    kind: str, boxes: str, norms: str, images: int
) -> None:
    made = tiny.model(kind, boxes=boxes, norms=norms)
    batch = tiny.inputs(images=images)
    assert made.module.visual is not None
    assert batch.visual is not None
    got = made.module.visual(batch.visual, batch.boxes, images)
    close(got, seen64(made, batch, boxes, norms), 2e-6)


def test_an_option_that_does_not_exist_is_named() -> None:
    with pytest.raises(ConfigError, match="boxes"):
        tiny.model("bart", boxes="corner")
    made = tiny.model("bart", boxes="given")
    with pytest.raises(ConfigError, match="given needs features with boxes"):
        made.encode(replace(tiny.inputs(), boxes=None))
    grid = tiny.model("bart", boxes="grid")
    with pytest.raises(ConfigError, match="square"):
        grid.encode(tiny.inputs(places=5))


def test_features_of_another_width_or_too_many_are_refused() -> None:
    made = tiny.model("t5")
    batch = tiny.inputs(places=73)
    with pytest.raises(ConfigError, match="at most 72"):
        made.encode(batch)
    narrow = replace(tiny.inputs(), visual=torch.zeros(3, 4, 5))
    with pytest.raises(ConfigError, match="width 5"):
        made.encode(narrow)


# The joint encoder


def attention64(
    q: Tensor, k: Tensor, v: Tensor, heads: int, keep: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """Rows of one sample (S, inner), head by head."""
    width = q.shape[1] // heads
    out = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        score = scale * q[:, part] @ k[:, part].T
        if bias is not None:
            score = score + bias[h]
        score = score.masked_fill(~keep, -torch.inf)
        out.append(score.softmax(-1) @ v[:, part])
    return torch.cat(out, dim=-1)


def bart64(language: Any, text: Tensor, visual: Tensor, keep: Tensor) -> Tensor:
    """One sample: positions and the embedding norm for text (behind n prompts) were made by the caller."""
    encoder, x = language.model.encoder, torch.cat([text, visual])
    heads = language.config.encoder_attention_heads
    for layer in encoder.layers:
        own = layer.self_attn
        q, k, v = (line64(m, x) for m in (own.q_proj, own.k_proj, own.v_proj))
        mixed = attention64(q, k, v, heads, keep, None, (q.shape[1] / heads) ** -0.5)
        x = norm64(layer.self_attn_layer_norm, x + line64(own.out_proj, mixed))
        x = norm64(layer.final_layer_norm, x + line64(layer.fc2, gelu(line64(layer.fc1, x))))
    return x


def bucket(distance: int, buckets: int, furthest: int) -> int:
    """Of key minus query: the later half of the buckets for keys behind the query."""
    half = buckets // 2
    first = half if distance > 0 else 0
    distance, exact = abs(distance), half // 2
    if distance < exact:
        return first + distance
    grown = exact + int(math.log(distance / exact) / math.log(furthest / exact) * (half - exact))
    return first + min(grown, half - 1)


def t564(language: Any, text: Tensor, visual: Tensor, keep: Tensor) -> Tensor:
    """One sample: biases of position between texts (prompts are texts) and zero for all other pairs."""
    config, encoder = language.config, language.encoder
    table = encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.double()
    bias = torch.zeros(config.num_heads, len(text), len(text), dtype=torch.float64)
    for i in range(len(text)):
        for j in range(len(text)):
            where = bucket(
                j - i, config.relative_attention_num_buckets, config.relative_attention_max_distance
            )
            bias[:, i, j] = table[where]
    bias = pad(bias, (0, len(visual), 0, len(visual)))
    x = torch.cat([text, visual])
    for block in encoder.block:
        own, h = block.layer[0].SelfAttention, norm64(block.layer[0].layer_norm, x)
        q, k, v = (line64(m, h) for m in (own.q, own.k, own.v))
        x = x + line64(own.o, attention64(q, k, v, config.num_heads, keep, bias, 1.0))
        mlp, h = block.layer[1].DenseReluDense, norm64(block.layer[1].layer_norm, x)
        if config.is_gated_act:
            hidden = gelu(line64(mlp.wi_0, h), approximate="tanh") * line64(mlp.wi_1, h)
        else:
            hidden = line64(mlp.wi, h).relu()
        x = x + line64(mlp.wo, hidden)
    return norm64(encoder.final_layer_norm, x)


def encoded64(made: Seq2Seq, batch: Inputs, prompts: Tensor | None = None) -> Tensor:
    """All of it, sample by sample; only for sight options as they are by default."""
    language: Any = made.module.language
    visual, rows = seen64(made, batch, "zero", "each"), []
    for i, ids in enumerate(batch.ids):
        if made.config.model_type == "bart":
            places = language.model.encoder.embed_positions.weight.double()
            words = language.model.shared.weight.double()[ids] + places[2 : 2 + len(ids)]
        else:
            words = language.shared.weight.double()[ids]
        front = [] if prompts is None else [prompts.double()]
        text = torch.cat([*front, words])
        keep = torch.cat([torch.ones(len(text) - len(ids), dtype=torch.bool), batch.mask[i]])
        keep = torch.cat([keep, torch.ones(visual.shape[1], dtype=torch.bool)])
        if made.config.model_type == "bart":
            text = norm64(language.model.encoder.layernorm_embedding, text)
            rows.append(bart64(language, text, visual[i], keep))
        else:
            rows.append(t564(language, text, visual[i], keep))
    return torch.stack(rows)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length", [1, 13])
@pytest.mark.parametrize("prompted", [False, True])
def test_text_and_images_are_encoded_together(kind: str, length: int, prompted: bool) -> None:
    made = tiny.model(kind)
    batch = tiny.inputs(length=max(3, length), images=2)
    drawn = torch.randn(2, tiny.WIDTH, generator=torch.Generator().manual_seed(3))
    rows = Rows(2, tiny.WIDTH, drawn) if prompted else None
    attach = [Attach("encoder.text", Prepend(rows), how="replace")] if rows else []
    with torch.no_grad(), attached(made, attach):
        encoded = made.encode(batch)
    assert encoded.front == (2 if prompted else 0)
    assert encoded.mask[:, : encoded.front].all()
    want = encoded64(made, batch, rows.value.detach() if rows else None)
    close(encoded.states[encoded.mask], want[encoded.mask], 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_text_behind_the_mask_does_not_matter_nor_how_much_of_it_there_is(kind: str) -> None:
    made, batch = tiny.model(kind), tiny.inputs()
    other = batch.ids.clone()
    other[~batch.mask] = 7
    longer = replace(
        batch, ids=pad(batch.ids, (0, 3), value=1), mask=pad(batch.mask, (0, 3), value=False)
    )
    want = tiny.scores(made, batch)
    assert torch.equal(want, tiny.scores(made, replace(batch, ids=other)))
    close(want, tiny.scores(made, longer), 1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_image_is_no_image(kind: str) -> None:
    made, batch = tiny.model(kind), tiny.inputs(images=2)
    assert batch.visual is not None
    absent = torch.zeros(3, 8, dtype=torch.bool)
    absent[1, 4:] = True
    absent[2] = True
    got = tiny.scores(made, replace(batch, absent=absent))
    for row, many in ((0, 8), (1, 4), (2, 0)):
        alone = replace(
            batch,
            ids=batch.ids[row : row + 1],
            mask=batch.mask[row : row + 1],
            visual=batch.visual[row : row + 1, :many] if many else None,
            images=max(1, many // 4),
        )
        # Only the last row's answer is padded, and only there do the two scores differ.
        close(got[row, :4], tiny.scores(made, alone)[0, :4], 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_fill_up_a_video_are_seen_unless_they_are_masked(kind: str) -> None:
    batch = tiny.inputs()
    padding = torch.zeros(3, 4, dtype=torch.bool)
    padding[:, 2:] = True
    assert batch.visual is not None
    other = batch.visual.clone()
    other[padding] = 5.0
    for masked in (True, False):
        made = tiny.model(kind, mask_padding=masked)
        one, two = (
            tiny.scores(made, replace(batch, visual=seen, padding=padding))
            for seen in (batch.visual, other)
        )
        assert torch.equal(one, two) == masked


class Ramp(nn.Module):
    """A branch that adds the same to every token."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.linspace(-1, 1, x.shape[-1]).expand_as(x)


@pytest.mark.parametrize("kind", KINDS)
def test_every_role_changes_the_scores_and_leaves_no_trace(kind: str) -> None:
    made, batch = tiny.model(kind), tiny.inputs()
    before, fingerprint = tiny.scores(made, batch), made.fingerprint
    for role in made.roles:
        with attached(made, [Attach(role, Ramp())]):
            changed = tiny.scores(made, batch)
        # The same on all keys shifts the scores of one query alike, which softmax does not see.
        assert torch.allclose(changed, before, atol=1e-4) == role.endswith(".k"), role
    assert torch.equal(tiny.scores(made, batch), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.module.modules())
    del made.__dict__["fingerprint"]
    assert made.fingerprint == fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_has_a_role_and_norms_are_all_found(kind: str) -> None:
    made = tiny.model(kind)
    roles = {made.role_of(name) for name, _ in made.module.named_parameters()}
    blocks = {f"encoder.block.{i}" for i in range(2)} | {"decoder.block.0"}
    assert roles == blocks | {"encoder", "decoder", "words", "visual"}
    norms = 2 * 2 + 3 + 2  # of two encoder blocks, one decoder block, and one more for each stream
    assert len(made.norm_parameters()) == norms * (2 if kind == "bart" else 1)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("clip-bart-base", 141_156_864),
        ("clip-bart-base-video", 139_977_216),
        ("clip-t5-base", 224_540_160),
        ("hf/facebook/bart-base", 139_420_416),
        ("hf/google-t5/t5-base", 222_903_552),
    ],
)
def test_the_published_models_have_the_published_sizes(name: str, count: int) -> None:
    made = load_any(LoadRequest(name, meta=True))
    assert isinstance(made, Seq2Seq)
    assert made.parameter_count == count
    assert made.name == name

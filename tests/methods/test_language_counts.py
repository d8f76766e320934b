"""The ledger of language models against the published rows (Sung et al., 2022), to the last parameter."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
import torch

from petiole.backbones.encoder_decoder import Seq2Seq
from petiole.backbones.registry import LoadRequest, resolve
from petiole.cli import main
from petiole.commands.params import params
from petiole.errors import ConfigError
from petiole.layers.answer_head import AnswerHead
from petiole.ledger import Question, Sizes, ledger, sizes
from petiole.ledger.text import _flops, _unit
from petiole.methods.base import Plan
from petiole.methods.registry import create
from petiole.methods.text import TextMethod, attentions, blocks
from petiole.testing import encoder_decoder as tiny

BART, VIDEO, T5 = "clip-bart-base", "clip-bart-base-video", "clip-t5-base"
BART_ALONE, T5_ALONE = 139_420_416, 222_903_552

Row = tuple[str, str, dict[str, Any], int, int, float]
ROWS: list[Row] = [
    (BART, "vl-full", {}, 141_156_864, 141_156_864, 100),
    (BART, "vl-adapters", {}, 19_430_400, 158_955_264, 12.224),
    (BART, "vl-half-shared", {}, 12_725_760, 152_250_624, 8.358),
    (BART, "vl-half-shared", {"sharing": "half_down"}, 12_786_240, 152_311_104, 8.395),
    (BART, "vl-adapter", {}, 6_081_600, 145_606_464, 4.177),
    (BART, "vl-hyperformer", {}, 8_579_088, 148_103_952, 5.793),
    (BART, "vl-compacters", {}, 10_584_960, 150_109_824, 7.051),
    (BART, "vl-compacter", {}, 3_870_240, 143_395_104, 2.699),
    (BART, "vl-loras", {}, 30_020_352, 169_468_416, 17.714),
    (BART, "vl-lora", {}, 8_786_688, 148_234_752, 5.928),
    (BART, "vl-prompts", {}, 6_627_200, 146_201_216, 4.533),
    (BART, "vl-prompt", {}, 2_843_936, 142_417_952, 1.997),
    (BART, "vl-bitfit", {}, 1_708_800, 141_156_864, 1.211),
    (BART, "vl-projection", {}, 1_582_848, 141_156_864, 1.121),
    (BART, "vl-layernorm", {}, 1_632_000, 141_156_864, 1.156),
    (VIDEO, "vl-adapter", {}, 4_901_952, 144_426_816, 3.394),
    (VIDEO, "vl-lora", {}, 7_607_040, 147_055_104, 5.173),
    (VIDEO, "vl-prompt", {}, 1_664_288, 141_238_304, 1.178),
    (T5, "vl-adapter", {"reduction": 4, "unfreeze": "nothing"}, 19_333_632, 242_292_480, 7.980),
    (T5, "vl-adapter", {"reduction": 4}, 19_381_248, 242_292_480, 7.999),
    (T5, "vl-lora", {"rank": 150}, 18_170_880, 241_128_960, 7.536),
    (T5, "vl-prompt", {}, 2_842_400, 225_801_248, 1.259),
    # Beside the table: what was counted by hand, and rows of other papers.
    (BART, "vl-compacter-original", {}, 1_709_824, 141_234_688, 1.2106),
    (T5, "vl-adapter", {"unfreeze": "nothing"}, 10_480_512, 233_439_360, 4.4896),
    (VIDEO, "vl-dora", {}, 7_634_688, 147_082_752, 5.19),
]


RATES = {
    1e-4: {"vl-full"},
    3e-4: {"vl-adapters", "vl-half-shared"},
    1e-3: {"vl-adapter", "vl-hyperformer", "vl-compacter", "vl-compacters", "vl-lora", "vl-loras"}
    | {"vl-prompt", "vl-prompts", "vl-bitfit"},
}
"""As published for images on BART."""


@cache
def shape(name: str) -> Seq2Seq:
    model = resolve(LoadRequest(name, meta=True))
    assert isinstance(model, Seq2Seq)
    return model


def method(name: str, **settings: Any) -> TextMethod:
    made = create(name, settings)
    assert isinstance(made, TextMethod)
    return made


@cache
def counted(backbone: str, made: TextMethod) -> Sizes:
    model = shape(backbone)
    with torch.random.fork_rng(), torch.device("meta"):
        return sizes(model, made.plan(model))


def digits(percent: float) -> int:
    return len(str(percent).partition(".")[2].rstrip("0")) or 1


@pytest.mark.parametrize(
    ("backbone", "name", "settings", "trainable", "total", "percent"),
    ROWS,
    ids=[" ".join([row[0], row[1], *map(str, row[2].values())]) for row in ROWS],
)
def test_published_rows(
    backbone: str, name: str, settings: dict[str, Any], trainable: int, total: int, percent: float
) -> None:
    got = counted(backbone, method(name, **settings))
    assert (got.trainable, got.total) == (trainable, total)
    assert round(got.trainable_percent_of_total, digits(percent)) == percent
    alone = T5_ALONE if backbone == T5 else BART_ALONE
    assert got.parts["language"] == alone
    assert got.trainable_percent_of_language_model == pytest.approx(100 * trainable / alone)
    assert got.backbone == sum(got.parts.values())
    assert got.total == got.backbone + got.trained_parts["layers"]
    assert got.trainable == got.inference == got.adapters == sum(got.trained_parts.values())
    assert got.fixed == (0 if name == "vl-full" else got.parts["codes"])
    assert got.stored_bytes == 4 * (got.trainable + got.fixed)


@pytest.mark.parametrize("rate", list(RATES))
def test_published_training(rate: float) -> None:
    for name in RATES[rate]:
        recipe = method(name).recipe
        assert (recipe.lr, recipe.epochs, recipe.batch_size) == (rate, 20, 500)
        assert (recipe.schedule, recipe.warmup, recipe.clip) == ("linear", 0.1, 5.0)
        assert (recipe.weight_decay, recipe.epsilon) == (0.01, 1e-6)


@pytest.mark.parametrize(
    ("size", "of_total", "of_language"),
    [
        (24, 1.941, 1.981),
        (48, 2.698, 2.775),
        (64, 3.196, 3.304),
        (96, 4.177, 4.362),
        (128, 5.138, 5.420),
        (192, 7.004, 7.537),
        (384, 12.186, 13.887),
    ],
)
def test_widths_of_the_single_adapter(size: int, of_total: float, of_language: float) -> None:
    got = counted(BART, method("vl-adapter", reduction=768 / size))
    assert round(got.trainable_percent_of_total, 3) == of_total
    assert round(got.trainable_percent_of_language_model, 3) == of_language


@pytest.mark.parametrize(
    ("code", "percent"), [(4, 3.866), (8, 5.793), (16, 9.422), (32, 15.903), (64, 26.43)]
)
def test_codes_of_the_hyperformer(code: int, percent: float) -> None:
    got = counted(BART, method("vl-hyperformer", code=code))
    assert round(got.trainable_percent_of_total, digits(percent)) == percent


def test_two_published_rows_are_of_the_older_denominator_or_of_none() -> None:
    alone, norms = (counted(BART, method(name)) for name in ("vl-projection", "vl-layernorm"))
    assert round(alone.trainable_percent_of_language_model, 2) == 1.14
    assert round(alone.trainable_percent_of_total, 2) == 1.12
    assert round(norms.trainable_percent_of_language_model, 2) == 1.17, "and not 1.18, as published"


def test_parts_of_the_models() -> None:
    image, video, t5 = (counted(name, method("vl-full")) for name in (BART, VIDEO, T5))
    assert (image.parts["visual"], video.parts["visual"], t5.parts["visual"]) == (
        1_582_848,
        403_200,
        1_581_312,
    )
    assert (image.parts["codes"], video.parts["codes"], t5.parts["codes"]) == (
        153_600,
        153_600,
        55_296,
    )
    assert (image.trained_parts["norms"], t5.trained_parts["norms"]) == (49_152, 47_616)
    biases = counted(BART, method("vl-bitfit"))
    assert biases.trained_parts["norms"] == 49_152 // 2  # the shifts
    assert biases.trained_parts["norms"] + biases.trained_parts["biases"] == 125_952
    assert counted(T5, method("vl-bitfit")).trained_parts["biases"] == 768
    assert len(list(blocks(shape(BART)))) == 30
    assert len(list(blocks(shape(T5)))) == 60
    assert (len(list(attentions(shape(BART)))), len(list(attentions(shape(T5))))) == (18, 36)


@pytest.mark.parametrize("tasks", [1, 7])
def test_a_method_of_any_number_of_tasks(tasks: int) -> None:
    one = 30 * (2 * 768 * 96 + 96 + 768)
    assert counted(BART, method("vl-adapters", tasks=tasks)).trained_parts["layers"] == tasks * one
    prefix = counted(BART, method("vl-prefix", tasks=tasks, sharing="multiple"))
    assert prefix.trained_parts["layers"] == tasks * 12 * 2 * 40 * 768


@pytest.mark.parametrize(("text", "seen", "out"), [(20, 36, 10), (7, 5, 3), (9, 0, 2)])
def test_flops_are_those_of_the_products_written_out(text: int, seen: int, out: int) -> None:
    asked = Question(text_tokens=text, visual_tokens=seen, answer_tokens=out)
    usual = ledger(shape(BART), method("vl-adapter"))
    got = ledger(shape(BART), method("vl-adapter"), question=asked)
    assert (got == usual) == (text == 20)
    d, f, words = 768, 3072, 50_265
    read = text + seen
    encoder = 6 * (read * (4 * d * d + 2 * d * f) + 2 * read * read * d)
    cross = out * 2 * d * d + read * 2 * d * d + 2 * out * read * d
    decoder = 6 * (out * (4 * d * d + 2 * d * f) + 2 * out * out * d + cross)
    eyes = seen * (2048 + 5) * d
    assert got.flops_backbone == 2 * (encoder + decoder + eyes + out * d * words)
    branches = 12 * read + 18 * out
    assert got.flops_forward - got.flops_backbone == 2 * branches * 2 * d * 96
    assert got.unit == {"text_tokens": text, "visual_tokens": seen, "answer_tokens": out}
    assert got.flops_forward < got.flops_training < 3 * got.flops_forward


@pytest.mark.parametrize(
    ("backbone", "name", "asked", "said"),
    [
        (
            "clip-bart-base",
            "vl-adapter",
            {"keep": 0.5},
            "keep=0.5 is of no use: clip-bart-base takes",
        ),
        ("clip-bart-base", "vl-adapter", {"text_tokens": 1025}, "1024 positions"),
        ("clip-bart-base", "vl-adapter", {"answer_tokens": 0}, "at least 1"),
        ("clip-bart-base", "vl-adapter", {"visual_tokens": -1}, "at least 0"),
        ("clip-bart-base", "vl-adapter", {"classes": 3}, "no head over classes"),
        (
            "clip-vil-base",
            "vl-adapter",
            {"answer_tokens": 3, "settings": {"classifier": 100}},
            "takes text_tokens, visual_tokens alone",
        ),
        (
            "petiole/tiny-lvlm",
            "craft",
            {"visual_tokens": 3},
            "takes keep, text_tokens, answer_tokens",
        ),
        ("petiole/tiny-vit", "ridge", {"text_tokens": 3}, "petiole/tiny-vit is asked nothing"),
    ],
)
def test_what_a_network_is_not_asked_with_is_refused(
    backbone: str, name: str, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        params(backbone=backbone, method=name, **asked)


def test_a_detectors_boxes_are_counted_with_its_features() -> None:
    zero, given = (tiny.model("bart", boxes=boxes) for boxes in ("zero", "given"))
    unit = {"text_tokens": 2, "visual_tokens": 3, "answer_tokens": 0}
    assert _flops(given, Plan(), unit) == _flops(zero, Plan(), unit)


def test_what_is_refused_of_a_model_that_writes() -> None:
    model = tiny.model("bart")
    most = model.config.max_position_embeddings
    full = Question(text_tokens=most, visual_tokens=0, answer_tokens=1)
    assert [*_unit(model, full).values()] == [most, 0, 1]
    with pytest.raises(ConfigError, match=f"answer_tokens={most + 1}: tiny-bart has {most} pos"):
        _unit(model, Question(answer_tokens=most + 1))
    size = sum(p.numel() for p in AnswerHead(model.width, ("a", "b", "c")).parameters())
    with pytest.raises(ConfigError, match=f"A head over 3 answers adds {size:,} parameters"):
        ledger(model, method("vl-adapter", classifier=3))


@pytest.mark.parametrize("family", ["bart", "t5"])
@pytest.mark.parametrize("name", ["vl-adapters", "vl-dora", "vl-prefix", "vl-hyperformer"])
def test_the_shape_counts_as_the_weights_do_and_nothing_is_left_behind(
    family: tiny.Family, name: str
) -> None:
    settings = {"rank": 3} if name == "vl-dora" else {}
    real, meta = tiny.model(family), tiny.model(family)
    meta.module.to("meta")
    language: Any = meta.module.language
    language.tie_weights()  # which moving it tore apart
    state, before = torch.random.get_rng_state(), real.fingerprint
    want = ledger(real, method(name, **settings))
    assert ledger(meta, method(name, **settings)) == want
    assert torch.equal(torch.random.get_rng_state(), state)
    del real.__dict__["fingerprint"]
    assert real.fingerprint == before
    assert real.config._attn_implementation == "sdpa"
    assert not any(p.grad is not None or p.requires_grad for p in real.module.parameters())


def test_a_model_without_vision_has_none_to_train() -> None:
    got = ledger(tiny.model(seen=0), method("vl-layernorm"))
    assert (got.parts["visual"], got.parts["codes"], got.trained_parts["visual"]) == (0,) * 3
    assert (got.fixed, got.unit["visual_tokens"]) == (0, 0)
    assert got.trainable == got.trained_parts["norms"] > 0
    with pytest.raises(ConfigError, match=r"tiny-bart has no V->L block and unfreeze=nothing"):
        ledger(tiny.model(seen=0), method("vl-projection"))


def test_params_of_a_language_model(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["params", "--backbone", BART, "--method", "vl-adapter", "--set", "tasks=3", "--json"])
    flat = json.loads(capsys.readouterr().out)
    assert (flat["tasks"], flat["trainable"], flat["total"]) == (3, 6_081_600, 145_606_464)
    assert "classes" not in flat
    for key, value in flat.items():
        if value is not None:
            assert isinstance(value, float) == ("_percent_of_" in key)
    assert flat["backbone"] == sum(flat["parts"].values())
    assert flat["inference"] == 6_081_600
    with pytest.raises(SystemExit, match="0"):
        main(["params", "--backbone", BART, "--method", "vl-projection"])
    text = capsys.readouterr().out
    for words in ("vl-projection on clip-bart-base, 4 tasks", "trainable % of total", "1.135"):
        assert words in text
    assert "1.14 and 1.18 %" in " ".join(text.split())


@pytest.mark.parametrize(
    ("backbone", "name", "settings", "words"),
    [
        (BART, "lora-qkv", {}, "lora-qkv adapts image backbones"),
        ("petiole/tiny-vit", "vl-lora", {}, "petiole/tiny-vit has none. Use a CLIP-BART"),
        (BART, "vl-lora", {"rank": 0}, "rank=0: Input should be greater"),
        (BART, "vl-adapter", {"reduction": 1000}, "bottleneck must be at least 1"),
        (BART, "vl-adapters", {"tasks": 0}, "tasks=0: Input should be greater"),
        (BART, "vl-compacter", {"k": 5}, "k=5 must divide both widths"),
        (BART, "vl-prompt", {"prompts": 0}, "prompts=0: Input should be greater"),
        (BART, "vl-prefix", {"prefix": 0}, "prefix=0: Input should be greater"),
        (BART, "vl-prefix", {"sharing": "half_up"}, "no up part to share"),
        (BART, "vl-hyperformer", {"sharing": "multiple"}, "sharing=multiple means nothing"),
        (BART, "vl-full", {"sharing": "half_up"}, "sharing=half_up means nothing"),
        (BART, "vl-adapter", {"sharing": "some"}, "sharing='some'"),
    ],
)
def test_what_cannot_be_counted_says_why(
    backbone: str, name: str, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        params(backbone=backbone, method=name, settings=settings)
    assert words in str(caught.value)


def test_a_sample_is_of_the_first_task_however_many_there_are() -> None:
    model = tiny.model(seen=0)
    one, many = (ledger(model, method("vl-adapters", tasks=tasks)) for tasks in (1, 3))
    assert one.flops_training == many.flops_training > one.flops_forward
    assert one.trained_parts["layers"] < many.trained_parts["layers"]

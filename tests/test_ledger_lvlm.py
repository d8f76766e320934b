"""The ledger of vision-language models over a codebook, against torch's own counter and counts by hand."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from petiole.backbones.codebook_lvlm import LVLM, CodebookSpec, Tower, causal
from petiole.backbones.codebook_lvlm.bundle import PROMPT
from petiole.backbones.codebook_lvlm.model import LVLMModule
from petiole.backbones.registry import LoadRequest, load_any
from petiole.cli import main
from petiole.commands.params import params
from petiole.errors import ConfigError, PetioleError
from petiole.ledger import Question, ledger, question_flops
from petiole.ledger.codebook import _Language
from petiole.methods.base import Changes
from petiole.methods.codebook.base import CodebookMethod
from petiole.methods.registry import create
from petiole.tasks.codebook.adapter import build_model
from petiole.testing import codebook_lvlm as tiny

N, TEXT = tiny.TOKENS, 9


@cache
def llama() -> LVLM:
    return tiny.model("llama")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tiny.Family, Path]:
    return tiny.save(tmp_path_factory.mktemp("bundles"))


def shape(folder: Path) -> LVLM:
    found = load_any(LoadRequest(str(folder), meta=True), device="meta")
    assert isinstance(found, LVLM)
    return found


def method(name: str, **settings: Any) -> CodebookMethod:
    made = create(name, settings)
    assert isinstance(made, CodebookMethod)
    return made


def seen_by_counter(language: Any, tokens: int, cached: int = 0) -> tuple[int, int]:
    """FLOPs of a real forward by torch's counter: matrix products without those of angles, and convolutions."""
    before = language.config._attn_implementation
    language.set_attn_implementation("eager")
    words = torch.randn(1, cached + tokens, language.config.hidden_size)
    past = None
    with torch.no_grad():
        if cached:
            past = language(inputs_embeds=words[:, :cached], use_cache=True).past_key_values
        with FlopCounterMode(display=False) as counter:
            language(
                inputs_embeds=words[:, cached:],
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
    language.set_attn_implementation(before)
    angles = sum(
        sum(by_operation.values())
        for module, by_operation in counter.get_flop_counts().items()
        if module.endswith("rotary_emb")
    )
    convolved = counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution, 0)
    return counter.get_total_flops() - convolved - angles, convolved


def convolutions(language: nn.Module) -> int:
    """FLOPs of a token in short convolutions, by hand."""
    return sum(2 * m.weight.numel() for m in language.modules() if isinstance(m, nn.Conv1d))


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_flops_are_those_of_a_real_forward(family: tiny.Family, keep: float) -> None:
    model = tiny.model(family)
    language = model.module.language
    found = question_flops(model, keep, TEXT, answer_tokens=3)
    prompt = found.image_tokens + TEXT
    short = convolutions(language)
    products, convolved = seen_by_counter(language, prompt)
    assert found.prefill - short * prompt == products
    # the counter sees the places of the padding as well
    assert short * prompt <= convolved <= short * (prompt + 4)
    steps = [seen_by_counter(language, 1, prompt + j)[0] for j in range(2)]
    assert found.per_token - short == steps[0]
    assert found.decoding - 2 * short == sum(steps)
    assert found.language == found.prefill + found.decoding
    assert found.total == found.language + found.encoder + found.quantiser + found.projector


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_tower_and_the_projector_are_those_of_a_real_look(family: tiny.Family) -> None:
    model = tiny.model(family)
    found = question_flops(model, 0.5, TEXT)
    width, d = tiny.ENCODER["width"], tiny.D
    patches = 2 * N * width * 3 * tiny.ENCODER["patch"] ** 2
    blocks = tiny.ENCODER["blocks"] * (2 * N * 12 * width**2 + 4 * N**2 * width)
    assert found.encoder == patches + blocks + 2 * N * width * d
    z = torch.randn(1, N, d)
    with FlopCounterMode(display=False) as counter:
        model.tower.quantised(z)
    assert found.quantiser == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        model.module.projector(z[:, : N // 2])
    assert found.projector == counter.get_total_flops()


@settings(max_examples=25, deadline=None)
@given(
    keep=st.floats(0.05, 1),
    text=st.integers(0, 60),
    answer=st.integers(1, 20),
)
def test_fewer_image_tokens_never_cost_more(keep: float, text: int, answer: int) -> None:
    less, all_of_it = (question_flops(llama(), share, text, answer) for share in (keep, 1.0))
    assert (less.encoder, less.quantiser) == (all_of_it.encoder, all_of_it.quantiser)
    assert less.projector * N == all_of_it.projector * less.image_tokens
    assert less.language <= all_of_it.language
    assert less.image_percent_of_language_flops <= all_of_it.image_percent_of_language_flops <= 100
    assert (less.decoding == 0) == (answer == 1)


def vila() -> LVLM:
    """Four blocks of LLaMA-2-7B over 256 image tokens, as a shape; the encoder before them is a tiny one."""
    eyes = {**tiny.ENCODER, "size": 32, "patch": 2}
    with torch.device("meta"):
        eye = tiny.tiny_lvlm.encoder("eye", eyes)
        language = causal.build(
            {
                "model_type": "llama",
                "hidden_size": 4096,
                "intermediate_size": 11008,
                "num_hidden_layers": 4,
                "num_attention_heads": 32,
                "vocab_size": 32000,
            }
        )
        quantiser = tiny.ResidualQuantiser(16384, tiny.D, 4)
        projector = causal.projector("mlp2x_gelu", tiny.D, 4096)
    spec = CodebookSpec(
        entries=16384,
        width=tiny.D,
        depth=4,
        shared=True,
        sha256="",
        tap=1,
        grid=(16, 16),
        preprocessing=eye.preprocessing,
    )
    joint = LVLMModule(Tower(eye, quantiser, spec, None), projector, language)
    return LVLM("shape", joint, None, PROMPT)


def test_a_fifth_of_the_image_tokens_is_16_per_cent_where_they_are_80() -> None:
    model = vila()
    whole, pruned = (
        question_flops(model, keep, text_tokens=64, answer_tokens=1) for keep in (1.0, 0.8)
    )
    assert (whole.image_tokens, pruned.image_tokens) == (256, 205)
    # 4 x 202.4e6 numbers in the blocks, two FLOPs each
    assert whole.prefill == pytest.approx(2 * 320 * 4 * 202.4e6, rel=0.015)
    assert whole.image_percent_of_language_flops == pytest.approx(80, abs=0.5)
    assert 100 * (1 - pruned.language / whole.language) == pytest.approx(16, abs=0.5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("craft", {}),
        ("craft", {"encoder": "lora-qkv"}),
        ("craft", {"encoder": "adaptertune"}),
        ("vision-ft-discrete", {}),
        ("vision-ft", {}),
        ("ldifs", {}),
        ("projector-ft", {}),
        ("llm-lora", {}),
        ("lvlm-zero-shot", {}),
    ],
)
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_shape_counts_what_a_real_model_trains(
    name: str, settings: dict[str, Any], family: tiny.Family, folders: dict[tiny.Family, Path]
) -> None:
    own, real = method(name, **settings), tiny.model(family)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    found = ledger(shape(folders[family]), own)
    assert torch.equal(torch.random.get_rng_state(), before)
    viewer = build_model(own, real)
    trained = sum(p.numel() for p in viewer.parameters() if p.requires_grad)
    assert found.trainable == found.inference == trained
    assert sum(found.trained_parts.values()) == found.adapters == trained
    assert found.training_only == 0
    sizes = {"encoder": real.tower.encoder, "projector": real.module.projector}
    sizes |= {"language": real.module.language, "contrast": real.tower.contrast}
    for part, module in sizes.items():
        assert found.parts[part] == sum(p.numel() for p in module.parameters()), part
    assert found.parts["quantiser"] == tiny.ENTRIES * tiny.D
    copies = {*own.encoder_changes(real).tune, *own.language_changes(real).tune}
    added = 0 if copies else trained
    frozen = sum(found.parts[n] for n in ("encoder", "quantiser", "projector", "language"))
    assert found.backbone == frozen
    assert found.total == frozen + added
    assert found.trainable_percent_of_encoder == 100 * trained / found.parts["encoder"]
    assert found.trainable_percent_of_total == 100 * trained / found.total


def test_layers_cost_what_they_compute(folders: dict[tiny.Family, Path]) -> None:
    model = shape(folders["llama"])
    bare = question_flops(model, 1.0, TEXT, 4)
    rank, ways = 16, tiny.LANGUAGES["llama"]["num_hidden_layers"] * (2 * (32 + 32) + 2 * (32 + 16))
    asked = Question(keep=1.0, text_tokens=TEXT, answer_tokens=4)
    wide = ledger(model, method("llm-lora"), question=asked)
    assert wide.trained_parts["language"] == rank * ways
    assert (
        wide.flops_question.prefill - bare.prefill
        == 2 * (N + TEXT) * wide.trained_parts["language"]
    )
    assert wide.flops_question.encoder == bare.encoder
    assert wide.flops_question == wide.flops_pruned
    seen = ledger(model, method("craft", encoder="lora-qkv"), question=Question(text_tokens=TEXT))
    assert seen.flops_question.encoder == bare.encoder + 2 * N * seen.trained_parts["encoder"]
    tuned = ledger(model, method("craft"), question=Question(text_tokens=TEXT, answer_tokens=4))
    assert tuned.flops_question == bare
    assert tuned.trained_parts["encoder"] == tuned.parts["encoder"]


def test_numbers_out_of_range_and_unknown_matrices_are_refused() -> None:
    for wrong in ({"keep": 0.0}, {"keep": 1.2}, {"text_tokens": -1}, {"answer_tokens": 0}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
            question_flops(llama(), **wrong)  # type: ignore[arg-type]
    model = tiny.model("llama")
    language: Any = model.module.language
    language.model.layers[0].mlp.experts = nn.Parameter(torch.zeros(2, 4, 4))
    with pytest.raises(ConfigError, match=r"layers\.0\.mlp"):
        question_flops(model)


def test_the_command_prints_what_each_percentage_is_of(
    folders: dict[tiny.Family, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["params", "--backbone", str(folders["llama"]), "--method", "craft"]
    with pytest.raises(SystemExit) as left:
        main([*command, "--set", "encoder=lora-qkv", "--keep", "0.6", "--json"])
    assert left.value.code == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["text_tokens"], counts["answer_tokens"]) == (32, 8)
    assert counts["flops_pruned"]["image_tokens"] == 10
    for key in {**counts, **counts["flops_question"]}:
        assert "percent" not in key or "_percent_of_" in key, "a percentage says of what"
    with pytest.raises(SystemExit):
        main(command)
    text = capsys.readouterr().out
    for words in ("% of encoder", "% of language model", "% of total", "keep 0.8", "per token"):
        assert words in text
    assert "VL-Adapter" not in text


def test_a_grid_that_is_no_square_has_rows_times_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("gpt2")
    whole = question_flops(model, 1.0, TEXT)
    monkeypatch.setattr(model.tower, "spec", model.spec.model_copy(update={"grid": (2, 3)}))
    found = question_flops(model, 1.0, TEXT)
    assert (whole.image_tokens, found.image_tokens) == (N, 6)
    assert found.quantiser * N == whole.quantiser * 6


def test_methods_for_other_models_are_refused(folders: dict[tiny.Family, Path]) -> None:
    with pytest.raises(PetioleError, match="projector-ft"):
        params(backbone=str(folders["gpt2"]), method="lora-qkv")
    with pytest.raises(ConfigError, match=r"needs a frozen codebook"):
        params(backbone="petiole/tiny-vit", method="craft")


def test_the_image_s_share_is_what_a_question_without_it_would_save() -> None:
    for text, answer in ((9, 7), (0, 4)):
        found, alone = question_flops(llama(), 0.8, text, answer), _Language(llama(), Changes())
        blind = (alone(text) if text else 0) + alone.following(text, answer - 1)
        assert found.decoding > 0
        assert found.image_percent_of_language_flops == pytest.approx(
            100 * (1 - blind / (found.prefill + found.decoding))
        )

"""Static weights give the scores of the layers that made them, in memory and in files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from builders import seq2seq as tiny
from builders.cli import run as command
from petiole.backbones.encoder_decoder import Seq2Seq, stored
from petiole.backbones.hooks import Attach
from petiole.backbones.registry import LoadRequest, load_any
from petiole.errors import AdapterError
from petiole.layers.answer_head import AnswerHead
from petiole.layers.bottleneck import Bottleneck
from petiole.layers.dora import DoRA
from petiole.layers.hypernetwork import Hypernetwork, Written
from petiole.layers.lowrank import LowRank
from petiole.layers.phm import PHM, Rule
from petiole.layers.rows import Prepend, Reparametrised, Rows
from petiole.layers.tasks import PerTask, shared
from petiole.methods.base import Changes
from petiole.methods.text import blocks, encoder_decoder_of
from petiole.tasks.text.adapter import TaskName, TextAdapter, method_of
from petiole.tasks.text.fold import fold
from petiole.tasks.text.model import AdaptedTextModel

TASKS = (0, 2, 1)


def speaker_of(
    model: Seq2Seq, changes: Changes, head: AnswerHead | None = None
) -> AdaptedTextModel:
    """Trained, as far as numbers can tell."""
    made = AdaptedTextModel(model, changes, head=head)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) / 5)
    return made.eval()


def scores(adapted: AdaptedTextModel) -> Tensor:
    labels = torch.arange(3, 7).repeat(3, 1)
    with torch.no_grad():
        return adapted(tiny.inputs(), labels, TASKS)


def hypernetwork(model: Seq2Seq) -> Changes:
    encoder, decoder = model.depths
    streams = {
        "encoder": (encoder, ("attn", "mlp")),
        "decoder": (decoder, ("attn", "cross", "mlp")),
    }
    writer = Hypernetwork(3, dict(streams), model.width, 4, 2)
    attach = tuple(
        Attach(f"{stream}.block.{i}.{place}.out", Written(writer, stream, i, place))
        for stream, i, place in blocks(model)
    )
    return Changes(attach=attach, shared=(writer,))


def phm(model: Seq2Seq) -> Changes:
    rule = Rule(2)

    def make() -> nn.Module:
        return Bottleneck(model.width, 4, projection=lambda a, b: PHM(a, b, 2, rank=1, rule=rule))

    one = Attach("encoder.block.0.mlp.out", shared(make, 3, "half_up"))
    return Changes(attach=(one, Attach("decoder.block.0.cross.out", make())), shared=(rule,))


def prompts(model: Seq2Seq) -> Changes:
    def make() -> nn.Module:
        return Prepend(Reparametrised(3, model.width, 5))

    return Changes(attach=(Attach("encoder.text", shared(make, 3, "multiple"), how="replace"),))


def low_rank(model: Seq2Seq) -> Changes:
    module = model.module
    attach = []
    for at in ("encoder.block.1.attn", "decoder.block.0.attn", "decoder.block.0.cross"):
        for value, source in (("q", "in"), ("v", "memory")):
            maker = model.site(f"{at}.{value}").module
            assert isinstance(maker, nn.Linear)
            width, out = maker.in_features, maker.out_features
            layer = LowRank(width, 2, out=out, scale=0.5)
            attach.append(Attach(f"{at}.{value}", layer, reads=f"{at}.{source}"))
            dora = DoRA(maker.weight, 2)
            attach.append(Attach(f"{at}.{value}", dora, reads=f"{at}.{source}"))
    names = [name for name, _ in module.named_parameters() if "encoder" in name and "norm" in name]
    q = model.site("decoder.block.0.cross.q").module
    tuned = next(name for name, p in module.named_parameters() if p is q.weight)
    return Changes(attach=tuple(attach), tune=(*names, tuned))


MADE = {"hypernetwork": hypernetwork, "phm": phm, "prompts": prompts, "low rank": low_rank}
LEFT = (Written, PHM, Reparametrised, LowRank, Hypernetwork, Rule)


@pytest.mark.parametrize("kind", list(tiny.CONFIGS))
@pytest.mark.parametrize("layers", list(MADE))
def test_folded_layers_give_the_same_scores_and_nothing_is_left_to_make(
    kind: str, layers: str
) -> None:
    model = tiny.model(kind)
    torch.manual_seed(0)  # rounding differs by what is drawn
    adapted = speaker_of(model, MADE[layers](model))
    want = scores(adapted)
    bare = scores(AdaptedTextModel(model, Changes()).eval())
    folded = fold(adapted)
    torch.testing.assert_close(scores(folded), want, rtol=1e-5, atol=2e-5)
    assert not torch.allclose(want, bare, atol=1e-2), "the layers must matter"
    assert not [m for m in folded.modules() if isinstance(m, LEFT)]
    assert torch.equal(scores(adapted), want)
    assert {k.removeprefix("tuned.") for k in adapted.state_dict() if "tuned" in k} <= {
        k.removeprefix("tuned.") for k in folded.state_dict()
    }


def test_a_folded_speaker_needs_only_its_own_state(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model("bart")
    adapted = speaker_of(model, hypernetwork(model))
    folded = fold(adapted)
    want = scores(folded)
    monkeypatch.setattr(Hypernetwork, "weights", None)
    torch.testing.assert_close(scores(folded), want)
    assert len(folded.state_dict()) == 7 * 3 * 4  # places, tasks, weights and biases


def test_low_rank_layers_of_several_tasks_and_of_other_places_stay() -> None:
    model = tiny.model("bart")
    width, at = model.width, "encoder.block.0"

    def make() -> nn.Module:
        return LowRank(width, 2)

    several = Attach(f"{at}.attn.q", shared(make, 3, "multiple"), reads=f"{at}.attn.in")
    behind = Attach(f"{at}.mlp.out", make())
    adapted = speaker_of(model, Changes(attach=(several, behind)))
    folded = fold(adapted)
    assert isinstance(folded.attach["encoder/block/0/attn/q"], PerTask)
    assert isinstance(folded.attach["encoder/block/0/mlp/out"], LowRank)
    torch.testing.assert_close(scores(folded), scores(adapted))


def test_a_layer_that_changes_what_a_merged_one_reads_is_still_right() -> None:
    model = tiny.model("t5")
    at = "decoder.block.0.attn"
    first = Attach(f"{at}.in", Bottleneck(model.width, 2))
    second = Attach(f"{at}.q", LowRank(model.width, 2, out=15), reads=f"{at}.in")
    adapted = speaker_of(model, Changes(attach=(first, second)))
    torch.testing.assert_close(scores(fold(adapted)), scores(adapted), rtol=1e-5, atol=2e-5)


def test_plain_prompts_stay_as_they_are() -> None:
    model = tiny.model("bart")
    rows = Prepend(Rows(2, model.width))
    attach = Attach("encoder.text", rows, how="replace")
    folded = fold(speaker_of(model, replace(Changes(), attach=(attach,))))
    assert folded.attach["encoder/text"] is rows


@pytest.fixture(scope="module")
def stored_model(tmp_path_factory: pytest.TempPathFactory) -> Seq2Seq:
    """One that loads by its name, as adapter files need it."""
    folder = tmp_path_factory.mktemp("model")
    stored.write(tiny.model("bart"), folder)
    tiny.save_tokenizer(folder, "bart")
    return encoder_decoder_of(load_any(LoadRequest(str(folder), vision_width=tiny.SEEN)))


SETTINGS = {
    "vl-hyperformer": {"reduction": 4, "code": 3},
    "vl-prompts": {"prompts": 3, "hidden": 50},
    "vl-compacter-original": {"reduction": 4, "k": 2},
    "vl-lora": {"rank": 2},
    "vl-dora": {"rank": 2},
}


def saved(model: Seq2Seq, method: str, folder: Path, head: AnswerHead | None = None) -> Path:
    settings = {"tasks": 3, **SETTINGS.get(method, {})}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        changes = method_of(method, settings).plan(model)
        made = speaker_of(model, changes, head)
    tasks = [TaskName(name=name, kind="answers") for name in "abc"]
    TextAdapter.of(made, method=method, settings=settings, tasks=tasks).save(folder)
    return folder


@pytest.mark.parametrize("method", list(SETTINGS))
def test_a_folded_file_gives_the_same_scores_for_every_task(
    method: str, stored_model: Seq2Seq, tmp_path: Path
) -> None:
    adapter = saved(stored_model, method, tmp_path / "adapter")
    assert command("fold", adapter, "--out", tmp_path / "folded") == 0
    before = TextAdapter.load(adapter, backbone=stored_model)
    after = TextAdapter.load(tmp_path / "folded", backbone=stored_model)
    assert not any(p.training for one in (before, after) for p in one.adapted.modules())
    torch.testing.assert_close(scores(after.adapted), scores(before.adapted), rtol=1e-4, atol=1e-4)
    assert not [m for m in after.adapted.modules() if isinstance(m, LEFT)]
    assert after.manifest.tasks == before.manifest.tasks
    sizes = [(f / "adapter.safetensors").stat().st_size for f in (tmp_path / "folded", adapter)]
    assert (sizes[0] < sizes[1]) == (method in ("vl-hyperformer", "vl-prompts"))


def test_a_folded_file_keeps_its_head(stored_model: Seq2Seq, tmp_path: Path) -> None:
    head = AnswerHead(stored_model.width, ("red", "blue"))
    adapter = saved(stored_model, "vl-prompts", tmp_path / "adapter", head)
    assert command("fold", adapter, "--out", tmp_path / "folded") == 0
    both = [TextAdapter.load(f, backbone=stored_model) for f in (adapter, tmp_path / "folded")]
    assert both[1].details.answers == ["red", "blue"]
    with torch.no_grad():
        one, two = (a.adapted.judge(tiny.inputs(), TASKS) for a in both)
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)


def test_what_cannot_be_folded_is_said_and_writes_nothing(
    stored_model: Seq2Seq, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = saved(stored_model, "vl-adapter", tmp_path / "adapter")
    assert command("fold", adapter, "--out", tmp_path / "folded") == 1
    assert "static" in capsys.readouterr().err
    assert command("fold", adapter, "--out", tmp_path / "folded", "--weights", "x") == 1
    assert "--weights" in capsys.readouterr().err
    assert not (tmp_path / "folded").exists()


def test_inspect_says_what_a_folded_file_is(
    stored_model: Seq2Seq, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = saved(stored_model, "vl-prompts", tmp_path / "adapter")
    folded = TextAdapter.load(adapter, backbone=stored_model).fold()
    folded.save(tmp_path / "folded")
    assert command("inspect", tmp_path / "folded", "--json") == 0
    facts = json.loads(capsys.readouterr().out)["facts"]
    assert (facts["method"], facts["folded"], facts["tasks"]) == ("vl-prompts", "yes", [*"abc"])
    assert facts["language model"] == stored_model.name
    with pytest.raises(AdapterError, match="again"):
        folded.fold()

"""SigLIP's and BERT's text towers, and pairs, against transformers' own forward."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn.functional import normalize
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder import bert, pair
from petiole.backbones.dual_encoder.tokenizers import FolderTokenizer
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.hooks import Attach, attached, observed
from petiole.backbones.registry import load
from petiole.engine import pairing
from petiole.errors import BackboneError, ConfigError
from petiole.methods.registry import create, settings_of
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny

WORDS = ["<pad>", "</s>", "<s>", "a", "photo", "of", "cat", "dog", "x", ".", "lion", "<unk>"]


def tokenizer(folder: Path, around: str, **special: str) -> None:
    """A tokenizer of words, with the marks that its family puts around a sentence."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    ids = [(w, vocabulary[w]) for w in around.split() if w in vocabulary]
    inner.post_processor = processors.TemplateProcessing(single=around, special_tokens=ids)
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", **special)
    fast.save_pretrained(str(folder))


def siglip_folder(folder: Path) -> Path:
    folder.mkdir()
    config = {
        "model_type": "siglip",
        "text_config": {
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "vocab_size": len(WORDS),
            "max_position_embeddings": 12,
            "projection_size": 24,
        },
        "vision_config": {
            "hidden_size": 24,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "patch_size": 14,
            "image_size": 28,
        },
    }
    with tiny.seeded():
        module = tiny.shaken(SiglipModel(SiglipConfig(**config)))
    save_file(module.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    SiglipImageProcessor(size={"height": 28, "width": 28}).save_pretrained(folder)
    tokenizer(folder, "$A </s>", eos_token="</s>", pad_token="<pad>")
    return folder


def test_siglip_is_that_of_transformers(tmp_path: Path) -> None:
    towers = load(str(siglip_folder(tmp_path / "siglip")))
    assert isinstance(towers, TwoTowers)
    assert towers.text.first == 0
    theirs: Any = towers.module
    theirs.set_attn_implementation("eager")
    images = tiny.images(towers)
    ids = [[6, 1], [3, 4, 5, 3, 7, 1]]
    padded = torch.tensor([row + [0] * (12 - len(row)) for row in ids])
    ours = torch.tensor([row + [1] * (6 - len(row)) for row in ids])
    with torch.no_grad():
        vision = theirs.vision_model(images)
        text = theirs.text_model(padded).pooler_output
        head = theirs.vision_model.head
        tokens = vision.last_hidden_state
        _, weights = head.attention(
            head.probe.repeat(len(images), 1, 1), tokens, tokens, average_attn_weights=True
        )
        torch.testing.assert_close(towers.encode(ours), text, rtol=1e-5, atol=1e-5)
        # More classes, longer names: a text does not change by what stands beside it.
        torch.testing.assert_close(towers.encode(ours[:1, :2]), text[:1], rtol=1e-5, atol=1e-5)
    got = towers.lower(images, towers.finals)
    torch.testing.assert_close(got["final.image"], vision.pooler_output, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got["final.patches"], tokens, rtol=1e-5, atol=1e-5)
    assert (towers.local_tokens, towers.prefix_tokens) == (tokens.shape[1], 0)
    torch.testing.assert_close(got["final.attention"], weights[:, 0], rtol=1e-5, atol=1e-5)


def test_siglips_shape_needs_no_hub() -> None:
    towers = load("hf/google/siglip-base-patch16-224", device="meta")
    assert isinstance(towers, TwoTowers)
    assert towers.parameter_count == 203_155_970  # google/siglip-base-patch16-224, its safetensors
    assert towers.encode(torch.zeros(2, 8, dtype=torch.long, device="meta")).shape == (2, 768)


SIZES = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 20,
}


def encoder_folder(folder: Path, family: str) -> Path:
    folder.mkdir()
    config = {"model_type": family, "pad_token_id": 0, **SIZES}
    with tiny.seeded():
        module = (
            BertModel(BertConfig(**config))
            if family == "bert"
            else RobertaModel(RobertaConfig(**config))
        )
        tiny.shaken(module)
    save_file(module.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    marks = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>"}
    tokenizer(folder, "<s> $A </s>", **marks)
    return folder


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_is_that_of_transformers_pooled_by_its_mean(tmp_path: Path, family: str) -> None:
    folder = encoder_folder(tmp_path / family, family)
    theirs: Any = {"bert": BertModel, "roberta": RobertaModel}[family].from_pretrained(folder)
    marks = FolderTokenizer(folder)
    assert (marks.start, marks.end, marks("a cat")) == (2, 1, [3, 6])
    own = bert.build(folder, meta=False)
    own.load_state_dict(bert.own_tensors(theirs.state_dict()))
    texts = ["a cat", "a photo of a dog ."]
    found = pairing.sentence_vectors(own.eval().requires_grad_(True), marks, texts)
    assert not found.requires_grad
    batch = theirs.eval()
    want = []
    for text in texts:
        ids = torch.tensor([[2, *marks(text), 1]])
        with torch.no_grad():
            want.append(batch(ids).last_hidden_state.mean(1))
    torch.testing.assert_close(found, normalize(torch.cat(want), dim=-1), rtol=1e-5, atol=1e-5)


@pytest.fixture(params=["vit", "cnn"])
def towers(request: pytest.FixtureRequest, tmp_path: Path) -> TwoTowers:
    image = {"vit": tiny.plain, "cnn": tiny.resnet}[request.param]()
    text = encoder_folder(tmp_path / "text", "bert")
    targets = torch.randn(len(WORDS), image.width, generator=torch.Generator().manual_seed(1))
    made, _ = pairing.make(image, text, WORDS, targets, penalty=0.5, scale=40.0)
    return made


def test_a_pair_reads_its_image_tower_and_its_sentences(towers: TwoTowers) -> None:
    images = tiny.images(towers)
    eyes = towers.image.backbone
    own = eyes.lower(images, (eyes.vector, eyes.patches))
    got = towers.lower(images, towers.finals)
    torch.testing.assert_close(got["final.image"], own[eyes.vector])
    torch.testing.assert_close(got["final.patches"], own[eyes.patches])
    assert got["final.attention"].shape == (len(images), towers.local_tokens)
    assert (got["final.attention"] >= 0).all()
    assert (got["final.attention"].sum(-1) <= 1 + 1e-6).all()
    torch.testing.assert_close(towers.scale, torch.tensor(40.0))
    for cut in towers.cuts:
        with torch.no_grad():
            again = towers.upper(towers.lower(images, (cut,)), towers.finals)
        torch.testing.assert_close(again["final.image"], got["final.image"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("role", ["text.embed", "text.block.1.attn.q", "text.block.0.mid"])
def test_roles_of_a_sentence_encoder_carry_layers(towers: TwoTowers, role: str) -> None:
    ids = torch.tensor([[2, 3, 6, 1], [2, 7, 1, 1]])
    shift = torch.nn.Linear(towers.site(role).width, towers.site(role).width)
    with torch.no_grad():
        before = towers.encode(ids)
        with attached(towers, [Attach(role, shift)]):
            assert not torch.allclose(towers.encode(ids), before)
        assert torch.equal(towers.encode(ids), before)


def test_ridge_is_the_least_of_its_equation() -> None:
    generator = torch.Generator().manual_seed(0)
    e, w = torch.randn(30, 5, generator=generator), torch.randn(30, 4, generator=generator)

    def loss(p: Tensor) -> Tensor:
        return ((e @ p.T - w) ** 2).sum() + 0.7 * (p**2).sum()

    p = pairing.ridge(e, w, 0.7).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(p), p)
    assert gradient.abs().max() < 1e-3
    assert loss(p) < loss(p + 0.01)


def test_a_pairs_folder_loads_again(tmp_path: Path) -> None:
    text = encoder_folder(tmp_path / "bert", "bert")
    image = load("petiole/tiny-vit")
    targets = torch.randn(len(WORDS), image.width, generator=torch.Generator().manual_seed(1))
    made, tensors = pairing.make(image, text, WORDS, targets, penalty=1.0, scale=40.0)
    folder = tmp_path / "pair"
    pairing.save(
        folder, tensors, text, image="petiole/tiny-vit", image_weights=None, image_size=None
    )
    again = load(str(folder))
    assert again.fingerprint == made.fingerprint
    (folder / pair.PROJECTIONS).unlink()
    with pytest.raises(BackboneError, match=r"projections\.safetensors"):
        load(str(folder))
    (folder / "config.json").write_text(
        '{"model_type": "petiole-pair", "image": "petiole/tiny-vit"}'
    )
    with pytest.raises(BackboneError, match="states no pair: text Field required"):
        load(str(folder))


def test_a_cnn_takes_no_image_prompts() -> None:
    made = create("promptsrc", {})
    with pytest.raises(ConfigError, match="image_prompts=0"):
        made.plan(_pair_of_a_cnn(), 3)


@pytest.mark.parametrize("name", ["maple", "ivlp", "promptsrc", "promptkd", "vpt-deep"])
def test_prompts_join_the_tokens_of_a_vit_that_adds_its_places_itself(name: str) -> None:
    """Behind the class token and the positions, whatever the patch embedding gives."""
    towers = _pair(tiny.plain())
    case = {"depth": 2, "image_prompts": 3, "text_prompts": 3}
    settings = {k: v for k, v in case.items() if k in settings_of(create(name))}
    plan = create(name, settings).plan(towers, 2)
    adapted = AdaptedClassifier(towers, plan).eval()
    adapted.name(["cat", "dog"])
    eyes = towers.image.backbone
    images = tiny.images(towers)
    before = [a for a in plan.attach if a.role == "block.0.in"]
    assert len(before) == 1
    with torch.no_grad(), adapted.attached(), observed(eyes, ["block.0.in"]) as seen:
        logits = adapted(towers.lower(images, adapted.cut)).logits
    with torch.no_grad(), observed(eyes, ["block.0.in"]) as bare:
        eyes.upper({"images": images}, (eyes.vector,))
    own, found = bare["block.0.in"], seen["block.0.in"]
    assert found.shape[1] == own.shape[1] + settings.get("image_prompts", 10)
    torch.testing.assert_close(found[:, : own.shape[1]], own)
    assert logits.shape == (len(images), 2)


def _pair_of_a_cnn() -> TwoTowers:
    return _pair(tiny.resnet())


def _pair(image: Backbone) -> TwoTowers:
    with tempfile.TemporaryDirectory() as folder:
        text = encoder_folder(Path(folder) / "text", "bert")
        targets = torch.randn(len(WORDS), image.width)
        return pairing.make(image, text, WORDS, targets, penalty=1.0, scale=40.0)[0]

"""BERT with visual tokens (CLIP-ViL) against transformers' own forwards, and VL-Adapter's rows on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import petiole
from petiole.backbones.encoder_decoder import Inputs, Seq2Seq
from petiole.engine.run import RunSpec, run
from petiole.errors import ConfigError
from petiole.ledger import count_parameters, ledger
from petiole.methods.registry import create, methods
from petiole.tasks.text.adapter import TextAdapter
from petiole.tasks.text.workspace import TextGeneration, TextWorkspace
from petiole.testing import encoder_decoder as language

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "red"]
SIZES: dict[str, Any] = {
    **{name: value for name, value in language.CONFIGS["bert"].items() if name != "pad_token_id"},
    "vocab_size": len(WORDS),
}
SEEN = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers' own pre-training class leaves it, with pooler and head."""
    place = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    hf.BertForPreTraining(hf.BertConfig(**SIZES)).save_pretrained(place)
    (place / "vocab.txt").write_text("\n".join(WORDS))
    return place


def ids_and_mask() -> tuple[Tensor, Tensor]:
    ids = torch.tensor([[2, 5, 6, 7, 3], [2, 7, 3, 0, 0]])
    return ids, ids != 0


@torch.no_grad()
def test_text_alone_is_transformers_own_bert(folder: Path) -> None:
    model = petiole.load(str(folder))
    assert isinstance(model, Seq2Seq)
    assert model.tokenizer is not None
    assert model.tokenizer("what is red") == [2, 5, 6, 7, 3]
    ids, mask = ids_and_mask()
    want = hf.BertModel.from_pretrained(folder)(ids, attention_mask=mask.long()).last_hidden_state
    got = model.encode(Inputs(ids, mask))
    torch.testing.assert_close(got.states[mask], want[mask], rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_with_visual_tokens_it_is_transformers_own_visual_bert(folder: Path) -> None:
    """Where the V->L block is VisualBERT's: a projection, the second segment, and the norm of the text."""
    model = petiole.load(str(folder), vision_width=SEEN)
    theirs = hf.VisualBertModel(hf.VisualBertConfig(**SIZES, visual_embedding_dim=SEEN)).eval()
    own = hf.BertModel.from_pretrained(folder)
    theirs.load_state_dict(own.state_dict(), strict=False)
    visual, norm = model.module.visual, own.embeddings.LayerNorm
    for part in (visual.boxes, visual.images):
        part.weight.zero_()
    visual.boxes.bias.zero_()
    visual.box_norm.bias.zero_()
    visual.codes.zero_()
    visual.feature_norm.load_state_dict(norm.state_dict())
    visual.feature_norm.eps = norm.eps
    seen = theirs.embeddings
    seen.visual_projection.load_state_dict(visual.features.state_dict())
    seen.visual_token_type_embeddings.weight.zero_()
    seen.visual_position_embeddings.weight.zero_()
    features, (ids, mask) = torch.randn(2, 4, SEEN), ids_and_mask()
    want = theirs(
        ids,
        attention_mask=mask.long(),
        visual_embeds=features,
        visual_attention_mask=torch.ones(2, 4, dtype=torch.long),
    ).last_hidden_state
    got = model.encode(Inputs(ids, mask, visual=features))
    torch.testing.assert_close(got.states[got.mask], want[got.mask], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ["vl-half-shared", "vl-lora", "vl-prompt"])
def test_rows_of_vl_adapter_run_on_it(method: str, tmp_path: Path) -> None:
    data = tuple(language.tasks()[:2])
    task = TextGeneration("tiny-bert", tuple(one.name for one in data), quiet=True)
    settings = {"steps": 2, "batch_size": 4, "lr": 1e-3, "classifier": 3}
    record = run(
        RunSpec(task, method, tmp_path, settings), TextWorkspace(task, language.model("bert"), data)
    )
    adapter = TextAdapter.load(tmp_path, backbone=language.model("bert"))
    trained = [p for p in adapter.adapted.parameters() if p.requires_grad]
    assert record.ledger.trainable == sum(p.numel() for p in trained)
    assert set(record.scores) == {"vqa", "nlvr"}


def test_its_sizes_are_the_published_ones() -> None:
    """Adapters of width 192 at 24 places: 7,100,928; all 25 norms of BERT-base."""
    model = petiole.load("clip-vil-base", device="meta")
    assert not [name for name, _ in model.module.named_parameters() if "pooler" in name]
    counted = count_parameters(model, create("vl-adapter", {"reduction": 4, "classifier": 3129}))
    assert counted.trained_parts["layers"] == 24 * (2 * 768 * 192 + 192 + 768) == 7_100_928
    assert counted.trained_parts["norms"] == 25 * 2 * 768
    assert counted.head == 2 * 768**2 + 2 * 768 + 4 * 768 + 3129 * (2 * 768 + 1)
    small = language.model("bert")
    assert ledger(small, create("vl-adapter", {"classifier": 3})).flops_training > 0


def test_every_row_has_a_plan_on_it() -> None:
    bert = language.model("bert")
    rows = [name for name, entry in methods().items() if entry.cls.adapts == "language"]
    for name in rows:
        plan = create(name, {"classifier": 3}).plan(bert, 0)
        assert plan.attach or plan.tune, name


def test_it_writes_no_answers() -> None:
    with pytest.raises(ConfigError, match="has no decoder, so it cannot write answers"):
        create("vl-adapter").plan(language.model("bert"), 0)

"""Checkpoints of VILA-U: against transformers' SigLIP and a residual quantiser written out."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import SiglipConfig, SiglipModel

from builders import vila_u as tiny
from petiole.backbones.codebook_lvlm import LVLM
from petiole.backbones.codebook_lvlm.model import IMAGE
from petiole.backbones.codebook_lvlm.vila_u import SIGLIP, Heads
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.registry import LoadRequest, load_any
from petiole.errors import BackboneError


def loaded(folder: Path, **asked: Any) -> LVLM:
    model = load_any(
        LoadRequest(str(folder), **asked), device="meta" if asked.get("meta") else "cpu"
    )
    assert isinstance(model, LVLM)
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("vila-u")
    tiny.write(home)
    return home


@pytest.fixture(scope="module")
def model(folder: Path) -> LVLM:
    return loaded(folder)


@pytest.fixture(scope="module")
def siglip(folder: Path) -> SiglipModel:
    """Transformers' own, from the same tensors."""
    module = SiglipModel(SiglipConfig(**tiny.siglip_config()))
    at = "rqvaesiglip.siglip_model."
    stored = load_file(folder / "vision_tower/model.safetensors")
    own = {n.removeprefix(at): t for n, t in stored.items() if n.startswith(at)}
    own |= {n: stored[f"rqvaesiglip.{n}"] for n in ("logit_scale", "logit_bias")}
    del own["vision_model.embeddings.position_ids"]
    module.load_state_dict(own, strict=True)
    return module.eval()


def pictures() -> Tensor:
    side = tiny.SIDE * tiny.PATCH
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


def nearest(z: Tensor, tables: list[Tensor]) -> tuple[list[list[int]], list[Tensor]]:
    """Codes and z^ of tokens (n, d), one by one, in double precision."""
    codes, sums = [], []
    for token in z.double():
        rest, own = token.clone(), []
        for table in tables:
            own.append(min(range(len(table)), key=lambda k: float(((rest - table[k]) ** 2).sum())))
            rest -= table[own[-1]]
        codes.append(own)
        sums.append(token - rest)
    return codes, sums


@pytest.mark.parametrize("shared", [True, False])
def test_look_is_siglip_before_its_last_block_quantised(
    tmp_path: Path, siglip: SiglipModel, shared: bool
) -> None:
    tiny.write(tmp_path, shared=shared)
    model = loaded(tmp_path)
    with torch.no_grad():
        vision_output = model.tower.encode_images(pictures())
    # Tables are drawn after SigLIP, whose weights are so the same either way.
    seen = siglip.vision_model(pictures(), output_hidden_states=True).hidden_states[-2]
    assert torch.allclose(vision_output.z, seen, atol=1e-5)
    image = model.tower.image_backbone
    pooled = image.upper({IMAGES: pictures()}, (image.vector,))[image.vector]
    assert torch.allclose(pooled, seen.mean(1), atol=1e-5)
    stored = load_file(tmp_path / "vision_tower/model.safetensors")
    tables = [
        stored[f"rqvaesiglip.quantizer.codebooks.{0 if shared else d}.weight"][:-1].double()
        for d in range(tiny.DEPTH)
    ]
    codes, sums = nearest(vision_output.z.flatten(0, 1), tables)
    assert vision_output.codes.flatten(0, 1).tolist() == codes
    assert torch.allclose(vision_output.seen.flatten(0, 1).double(), torch.stack(sums), atol=1e-5)
    assert vision_output.z.shape == (2, tiny.SIDE**2, tiny.D)


def test_padding_row_is_no_entry(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    before = loaded(tmp_path).tower.encode_images(pictures())
    file = tmp_path / "vision_tower/model.safetensors"
    stored = load_file(file)
    name = "rqvaesiglip.quantizer.codebooks.0.weight"
    stored[name][-1] = before.z[0, 0]  # would be the nearest of all
    save_file(stored, file)
    model = loaded(tmp_path)
    assert torch.equal(model.tower.encode_images(pictures()).codes, before.codes)
    assert model.spec.entries == tiny.ENTRIES == model.tower.quantiser.codebooks.shape[1]
    assert not any(one.requires_grad for one in model.module.buffers())


def test_contract(model: LVLM, folder: Path) -> None:
    spec = model.spec
    assert (spec.width, spec.depth, spec.shared) == (tiny.D, tiny.DEPTH, True)
    assert (spec.tap, spec.grid) == (tiny.BLOCKS - 2, (tiny.SIDE, tiny.SIDE))
    assert spec.preprocessing.size == (32, 32)
    assert spec.preprocessing.mean == (0.5, 0.5, 0.5)
    spec.check(loaded(folder).spec, "one", "other")


def test_image_head_is_the_rest_of_siglip(model: LVLM, siglip: SiglipModel) -> None:
    tokens = model.tower.encode_images(pictures()).seen
    vision = siglip.vision_model
    out = vision.encoder.layers[-1](tokens, attention_mask=None)
    out = out[0] if isinstance(out, tuple) else out
    expected = vision.head(vision.post_layernorm(out))
    assert torch.allclose(model.tower.aligned.image(tokens), expected, atol=1e-5)
    # Not quantised it is all of SigLIP.
    z = model.tower.encode_images(pictures(), discrete=False).seen
    whole = siglip.get_image_features(pictures())
    whole = getattr(whole, "pooler_output", whole)
    assert torch.allclose(model.tower.aligned.image(z), whole, atol=1e-5)


def test_texts_fill_all_slots_and_end(model: LVLM, siglip: SiglipModel) -> None:
    heads = model.tower.aligned
    assert isinstance(heads, Heads)
    assert heads.tokenise is not None
    rows = [heads.tokenise("a red star"), heads.tokenise("a photo of a red star a red star")]
    assert rows[0] == [2, 3, 4]
    full = torch.tensor([[2, 3, 4, 1, 1, 1, 1], [2, 5, 6, 2, 3, 4, 1]])
    expected = siglip.text_model(input_ids=full).pooler_output
    assert torch.allclose(heads.texts(rows), expected, atol=1e-5)
    assert heads.scale.item() == siglip.logit_scale.item()
    assert heads.bias.item() == siglip.logit_bias.item()


@pytest.mark.parametrize("without", ["text", "words"])
def test_no_contrast_without_text_tower_or_its_words(tmp_path: Path, without: str) -> None:
    tiny.write(tmp_path, **{without: False})
    model = loaded(tmp_path)
    assert model.tower.contrast is None
    with pytest.raises(BackboneError, match="contrast=0"):
        _ = model.tower.aligned


def test_prompt_is_cut_as_the_repository_cuts_it(model: LVLM) -> None:
    """Its algorithm on the whole conversation: cut at <image>, each part told to the tokenizer."""
    words: Any = model.tokenizer
    said = f"{tiny.SYSTEM} USER: <im_start><image><im_end>\n what shape is this ? ASSISTANT: a red star</s>"
    ids = [words.inner.bos_token_id]
    for chunk in re.split("(<image>)", said):
        ids += [IMAGE] if chunk == "<image>" else words.split(chunk)
    p = model.prompt
    question, answer = words.split("what shape is this ?"), words.split("a red star")
    assert ids == [*p.before, IMAGE, *p.between, *question, *p.after, *answer, p.end]
    assert words.inner.unk_token_id not in ids
    assert p.before[-1] == words.inner.convert_tokens_to_ids("<im_start>")
    assert words.decode([*answer, p.end]).replace("▁", " ").split() == ["a", "red", "star"]


def test_no_marks_where_none_are_stated(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    tiny.put(tmp_path / "config.json", {"model_type": "vila_u_llama"})
    model = loaded(tmp_path)
    words: Any = model.tokenizer
    marks = {words.inner.convert_tokens_to_ids(f"<im_{m}>") for m in ("start", "end")}
    assert not marks & {*model.prompt.before, *model.prompt.between}


def test_answers_and_gradient_reaches_the_encoder(model: LVLM, folder: Path) -> None:
    assert model.tokenizer is not None
    question = model.tokenizer.split("what shape is this ?")
    turns = model.turns(model.tower.encode_images(pictures()).seen, [question, question[:2]])
    rows = model.generate(turns, 5)
    assert len(rows) == 2
    assert all(len(row) <= 5 and model.prompt.end not in row for row in rows)
    assert isinstance(model.tokenizer.decode(rows[0]), str)
    own = loaded(folder)
    images = pictures().requires_grad_()
    turns = own.turns(own.tower.encode_images(images).seen, [question] * 2, [question[1:3]] * 2)
    own.logits(turns).logsumexp(-1).sum().backward()
    assert images.grad is not None
    assert float(images.grad.abs().sum()) > 0


def test_projector_and_language_are_the_stored_ones(model: LVLM, folder: Path) -> None:
    stored = load_file(folder / "mm_projector/model.safetensors")
    x = torch.randn(3, tiny.D)
    hidden = torch.nn.functional.gelu(x @ stored["layers.0.weight"].T + stored["layers.0.bias"])
    expected = hidden @ stored["layers.2.weight"].T + stored["layers.2.bias"]
    assert torch.allclose(model.module.projector(x), expected, atol=1e-5)
    language = load_file(folder / "llm/model-1.safetensors")
    language |= load_file(folder / "llm/model-2.safetensors")
    own = model.module.language.state_dict()
    assert all(torch.equal(own[n], t) for n, t in language.items() if not n.endswith("inv_freq"))


def test_bin_files_and_tied_names(tmp_path: Path, model: LVLM) -> None:
    tiny.write(tmp_path)
    file = tmp_path / "vision_tower/model.safetensors"
    stored = load_file(file)
    file.unlink()
    at = "rqvaesiglip.quantizer.codebooks."
    for d in range(1, tiny.DEPTH):
        stored[f"{at}{d}.weight"] = stored[f"{at}0.weight"].clone()
    stored["rqvaesiglip.siglip_model.logit_scale"] = stored["rqvaesiglip.logit_scale"]
    torch.save(stored, tmp_path / "vision_tower/pytorch_model.bin")
    assert loaded(tmp_path).spec == model.spec
    stored[f"{at}1.weight"] = stored[f"{at}1.weight"] + 1
    torch.save(stored, tmp_path / "vision_tower/pytorch_model.bin")
    with pytest.raises(BackboneError, match=r"codebooks\.1\.weight are one tensor"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (
            "vision_tower/model.safetensors",
            "rqvaesiglip.siglip_model.vision_model.encoder.layers.2.mlp.fc1.bias",
        ),
        ("vision_tower/model.safetensors", "rqvaesiglip.siglip_model.text_model.head.bias"),
        ("vision_tower/model.safetensors", "rqvaesiglip.logit_scale"),
        ("vision_tower/model.safetensors", "rqvaesiglip.quantizer.codebooks.0.weight"),
        ("mm_projector/model.safetensors", "layers.2.bias"),
        ("llm/model-1.safetensors", "model.embed_tokens.weight"),
        ("llm/model-1.safetensors", "lm_head.weight"),
    ],
)
@pytest.mark.parametrize("fault", ["missing", "misshapen", "unexpected"])
def test_strict(tmp_path: Path, file: str, name: str, fault: str) -> None:
    tiny.write(tmp_path)
    if name not in load_file(tmp_path / file):
        file = file.replace("-1.", "-2.")
    stored = load_file(tmp_path / file)
    if fault == "misshapen":
        stored[name] = torch.cat([stored[name], stored[name]])
    elif fault == "missing":
        del stored[name]
    else:
        stored[f"{name}.more"] = torch.zeros(1)
    save_file(stored, tmp_path / file)
    with pytest.raises(BackboneError, match=fault) as caught:
        loaded(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("file", "key", "value", "message"),
    [
        ("vision_tower/config.json", "pretrained_model", "google/siglip-x", "siglip-so400m"),
        ("vision_tower/config.json", "code_shape", [2, 2, 3], "code_shape"),
        ("vision_tower/config.json", "n_embed", [20, 20, 9], r"\[9, 20\]"),
        ("vision_tower/config.json", "latent_shape", [4, 4, 8], "latent_shape"),
        ("vision_tower/config.json", "n_embed", None, "n_embed"),
        ("mm_projector/config.json", "mm_projector_type", "identity", "No projector 'identity'"),
        ("llm/config.json", "vocab_size", 5, "tokens"),
    ],
)
def test_configurations_that_do_not_fit(
    tmp_path: Path, file: str, key: str, value: object, message: str
) -> None:
    tiny.write(tmp_path)
    content = json.loads((tmp_path / file).read_text())
    part = content.get("rqvaesiglip", content)
    part[key] = value
    tiny.put(tmp_path / file, content)
    with pytest.raises(BackboneError, match=message):
        loaded(tmp_path, meta=True)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ("llm/tokenizer.json", "no tokenizer"),
        ("mm_projector/model.safetensors", "no weights"),
        ("llm/model-2.safetensors", "No weights at"),
        ("vision_tower/config.json", "no such file"),
    ],
)
def test_files_that_are_gone(tmp_path: Path, gone: str, message: str) -> None:
    tiny.write(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(BackboneError, match=message):
        loaded(tmp_path)


def test_shards_lie_beside_their_index(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    tiny.put(
        tmp_path / "llm/model.safetensors.index.json", {"weight_map": {"a": "../x.safetensors"}}
    )
    with pytest.raises(BackboneError, match="names no shards beside it"):
        loaded(tmp_path)


def test_own_weights_or_sizes_are_refused(folder: Path) -> None:
    with pytest.raises(BackboneError, match="from its folder"):
        loaded(folder, weights=folder / "x.safetensors")
    with pytest.raises(BackboneError, match="leave image_size out"):
        loaded(folder, image_size=64)


def test_shape_of_the_published_model(tmp_path: Path) -> None:
    """The 256 px tower in full size: nothing is read and nothing filled."""
    tiny.write(tmp_path)
    content = tiny.tower_config(shared=True)
    content["rqvaesiglip"] |= {
        "pretrained_model": "google/siglip-large-patch16-256",
        "n_embed": 16384,
        "latent_shape": [16, 16, 1024],
        "code_shape": [16, 16, 4],
    }
    tiny.put(tmp_path / "vision_tower/config.json", content)
    for file in tmp_path.rglob("*.safetensors"):
        file.unlink()
    model = loaded(tmp_path, meta=True)
    assert all(t.is_meta for t in [*model.module.parameters(), *model.module.buffers()])
    assert model.tokenizer is None
    assert (model.spec.grid, model.spec.tap, model.spec.width) == ((16, 16), 22, 1024)
    assert len(model.tower.encoder.layers) == 23
    image_backbone = model.tower.image_backbone
    images = torch.zeros(1, 3, 256, 256, device="meta")
    assert image_backbone.upper({"images": images}, ("final.patches",))["final.patches"].shape == (
        1,
        256,
        1024,
    )
    assert set(SIGLIP) > {"google/siglip-large-patch16-256"}


def test_a_language_model_whose_words_are_tied_may_store_them_once(tmp_path: Path) -> None:
    tiny.write(tmp_path)
    place = tmp_path / "llm"
    tiny.put(place / "config.json", {**tiny.llama_config(), "tie_word_embeddings": True})
    tensors = {k: v for f in sorted(place.glob("model-*.safetensors")) for k, v in load_file(f).items()}  # fmt: skip
    head = tensors.pop("lm_head.weight")
    for file in place.glob("model*"):
        file.unlink()
    save_file(tensors, place / "model.safetensors")
    language = loaded(tmp_path).module.language
    words = language.get_input_embeddings().weight  # type: ignore[operator]
    assert language.get_output_embeddings().weight is words  # type: ignore[operator]
    assert torch.equal(words, tensors["model.embed_tokens.weight"])
    assert not torch.equal(words, head)

"""The packaged models over one codebook: they know the board, and CRAFT's equations hold on real weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from petiole.backbones.codebook_lvlm.bundle import PACKAGED, digest
from petiole.backbones.codebook_lvlm.loading import load_lvlm
from petiole.backbones.registry import load, load_backbone
from petiole.data.readers.jsonl import open_plain
from petiole.data.synthetic.boards import write
from petiole.errors import BackboneError
from petiole.tasks.codebook.adapter import build_model, method_of
from petiole.tasks.codebook.images import ImageFolder
from petiole.tasks.codebook.training import answers
from petiole.tasks.text.registry import find

NAMES = tuple(f"petiole/tiny-lvlm{suffix}" for suffix in ("", "-gpt2", "-lfm2", "-small"))


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board") / "base"
    write(folder, "base", train=1, val=1, test=120, seed=5)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_questions_about_the_board_with_reasons(name: str, board: Path) -> None:
    model, data = load_lvlm(name), open_plain(board)
    samples = data["test"]
    viewer = build_model(method_of("lvlm-zero-shot", {}), model).eval()
    vision_outputs = ImageFolder(data.root, model.tower).vision_outputs(
        viewer, [s.images[0] for s in samples]
    )
    scores = find("question").score(samples, answers(viewer, vision_outputs, samples))
    assert scores["exact_match"] > 60  # of 120; docs/tiny-lvlm.md has it of 600
    assert scores["presence"] > 75  # what is asked to be described has no reason
    assert scores["format"] > 90  # briefly means briefly


def test_all_have_one_codebook_and_one_encoder() -> None:
    models = [load_lvlm(name) for name in NAMES]
    for model in models:
        models[0].spec.check(model.spec, "a", "b")
        assert model.spec.sha256 == digest(model.tower.quantiser.codebooks)
        assert model.tower.image_backbone.fingerprint == models[0].tower.image_backbone.fingerprint
    kinds = {type(m.module.language).__name__ for m in models}
    assert kinds == {"LlamaForCausalLM", "GPT2LMHeadModel", "Lfm2ForCausalLM"}
    assert len({m.fingerprint for m in models}) == len(models)


def test_they_are_small() -> None:
    assert sum(f.stat().st_size for f in PACKAGED.rglob("*") if f.is_file()) < 15e6


def test_the_encoder_is_a_backbone_of_its_own() -> None:
    eye = load("petiole/tiny-lvlm-tower")
    tower = load_lvlm("petiole/tiny-lvlm").tower
    pictures = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    z = eye.lower(pictures, (eye.patches,))[eye.patches]
    assert torch.equal(z, tower.encode_images(pictures).z)
    ramp = torch.linspace(-1, 1, 8 * tower.spec.width).reshape(2, 4, -1)
    texts, seen = tower.aligned.texts([[9, 10, 11], [12]]), tower.aligned.image(ramp)
    known = [[0.345978, -0.119906], [0.590193, 1.297431]]  # of what no tensor's shape tells
    torch.testing.assert_close(texts[:, :2], torch.tensor(known), rtol=1e-3, atol=1e-3)
    known = [[-2.213593, 0.270193], [2.579378, -0.482719]]
    torch.testing.assert_close(seen[:, :2], torch.tensor(known), rtol=1e-3, atol=1e-3)
    with pytest.raises(BackboneError, match="language model"):
        load_backbone("petiole/tiny-lvlm")

"""The two towers against transformers' own forward, with its eager attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from petiole.backbones.registry import load
from petiole.errors import BackboneError, ConfigError
from petiole.testing import backbones as tiny
from petiole.testing import dual_encoder as clips


def texts(*words: str) -> torch.Tensor:
    """Ids with start, end and padding behind it."""
    letters = clips.Letters()
    rows = [[letters.start, *letters(word), letters.end] for word in words]
    longest = max(map(len, rows)) + 3
    return torch.tensor([row + [letters.end] * (longest - len(row)) for row in rows])


def theirs(images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    module = clips.model()
    module.set_attn_implementation("eager")
    with torch.no_grad():
        vision = module.vision_model(images, output_attentions=True)
        text = module.text_model(ids)
        tokens = module.visual_projection(
            module.vision_model.post_layernorm(vision.last_hidden_state)
        )
        return {
            "final.image": module.visual_projection(vision.pooler_output),
            "final.patches": tokens[:, 1:],
            "final.attention": vision.attentions[-1].mean(1)[:, 0, 1:],
            "text": module.text_projection(text.pooler_output),
        }


def test_both_towers_are_those_of_transformers() -> None:
    towers = clips.towers()
    images, ids = tiny.images(towers), texts("cat", "a photo of a dog.")
    want = theirs(images, ids)
    got = towers.lower(images, towers.finals)
    assert set(got) == {"final.image", "final.patches", "final.attention"}
    for role, value in got.items():
        torch.testing.assert_close(value, want[role], rtol=1e-5, atol=1e-5)
        assert value.shape[-1] == towers.width_of(role)
    with torch.no_grad():
        torch.testing.assert_close(towers.encode(ids), want["text"], rtol=1e-5, atol=1e-5)


def test_what_stands_behind_the_last_end_changes_nothing() -> None:
    towers = clips.towers()
    ids = texts("cat", "lion")
    longer = torch.cat([ids, torch.full((2, 24 - ids.shape[1]), 39)], dim=1)
    with torch.no_grad():
        assert (towers.encode(ids) - towers.encode(longer)).abs().max() <= 2e-6
        assert (towers.encode(texts("cat")) - towers.encode(ids)[:1]).abs().max() <= 2e-6


def test_what_touches_texts_leaves_the_image_at_its_final_vector() -> None:
    towers = clips.towers()
    assert towers.cut_below(["text.embed", "text.block.1.in"], ["final.image"]) == ("final.image",)
    assert towers.cut_below(["text.embed", "block.2.in"], ["final.image"]) == ("block.2.in",)


def test_a_text_that_is_too_long_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"A text has 50 tokens, and this text tower takes 48"):
        clips.towers().encode(texts("a" * 48))


def test_a_folder_without_tokenizer_says_so(tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="has no tokenizer"):
        load(str(clips.folder(tmp_path / "clip")))


@pytest.mark.parametrize(
    ("name", "total", "width"),
    [
        ("openai/clip-vit-base-patch32", 151_277_313, 512),
        ("openai/clip-vit-base-patch16", 149_620_737, 512),
        ("openai/clip-vit-large-patch14", 427_616_513, 768),
    ],
)
def test_shapes_of_the_well_known(name: str, total: int, width: int) -> None:
    """Totals as published with the checkpoints."""
    shape = load(f"hf/{name}", device="meta")
    assert (shape.parameter_count, shape.width) == (total, width)

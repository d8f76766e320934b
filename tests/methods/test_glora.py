"""GLoRA's search in a training: on held-back training images, resumable, and counted as what is left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from builders.processes import start, two_ranks
from petiole.backbones.frozen_network import IMAGES
from petiole.engine.trainer import Callbacks
from petiole.errors import ConfigError
from petiole.files import read_lines
from petiole.layers.glora import LARGEST, GLoRA
from petiole.ledger import ledger
from petiole.methods.registry import create
from petiole.tasks.classification.held_back import HeldBack
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.path_search import PATHS
from petiole.tasks.classification.training import train
from petiole.testing import backbones as tiny
from petiole.testing.image_case import ImageCase, Memory, dataset

SETTINGS = {"population": 4, "rounds": 3, "blocks": "last:1", "held_back": 0.4}


def searched(folder: Path, checkpoint: Path | None = None) -> tuple[ImageCase, AdaptedClassifier]:
    case = ImageCase("glora-search", tiny.plain(), folder, SETTINGS)
    adapted = case.adapted()
    callbacks = Callbacks(quiet=True, checkpoint=checkpoint)
    table = Memory(adapted, stored=True)
    train(adapted, dataset(), table, case.method.recipe, seed=0, callbacks=callbacks)
    return case, adapted


def test_a_killed_search_asks_for_what_is_missing_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged: list[HeldBack] = []
    accuracy = HeldBack.accuracy

    def counted(held: HeldBack) -> float:
        judged.append(held)
        return accuracy(held)

    monkeypatch.setattr(HeldBack, "accuracy", counted)
    _, whole = searched(tmp_path, tmp_path / "checkpoint.safetensors")
    rows, _ = read_lines(tmp_path / PATHS)
    assert len(rows) == len(judged) > 4
    assert len({row["paths"] for row in rows}) == len(rows)
    # What judges is neither trained on nor anything but training images.
    held = judged[0]
    assert len(held.labels) == 3
    assert len(held.kept) + len(held.labels) == len(dataset())
    kept = (tmp_path / PATHS).read_text().splitlines(keepends=True)[:5]
    (tmp_path / PATHS).write_text("".join(kept))
    judged.clear()
    _, again = searched(tmp_path, tmp_path / "checkpoint.safetensors")
    assert len(judged) == len(rows) - 5
    assert again.plan.settled == whole.plan.settled
    stored = whole.state_dict()
    assert all(torch.equal(value, stored[name]) for name, value in again.state_dict().items())


def test_the_adapter_states_its_paths_and_the_ledger_counts_them(tmp_path: Path) -> None:
    case = ImageCase("glora-search", tiny.plain(), tmp_path, SETTINGS)
    manifest = case.saved.manifest
    paths = manifest.settings["paths"].split(",")
    widths = [a.layer._frozen[0].shape for a in case.trained.plan.attach]
    assert len(paths) == len(widths) == 5
    size = 0
    for path, (out, width) in zip(paths, widths, strict=True):
        a, b, c, d, e = path.split("-")
        size += sum(
            {"lora": 4 * (out + width), "vector": out, "scalar": 1, "none": 0}[k] for k in (a, b)
        )
        size += {"lora": 4 * (width + 1), "vector": width, "none": 0}[c]
        size += sum({"vector": out, "scalar": 1, "none": 0}[kind] for kind in (d, e))
    assert manifest.ledger.adapters == size


def test_a_supernet_counts_as_its_largest_paths_do_whatever_the_seed() -> None:
    backbone = tiny.plain()
    counted = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        counted.append(ledger(backbone, create("glora-search"), 3))
    torch.manual_seed(0)
    assert counted[0] == counted[1]
    whole = ledger(backbone, create("glora", {"paths": LARGEST}), 3)
    assert whole.flops_forward == counted[0].flops_forward > whole.flops_backbone
    assert whole.flops_training == counted[0].flops_training


def test_a_path_for_each_layer_or_one_for_all() -> None:
    backbone = tiny.plain()
    one = "vector-none-none-none-none"
    plan = create(
        "glora",
        {"paths": f"{one},none-{one[7:]},{one}", "targets": "k,proj,narrow", "blocks": "last:1"},
    ).plan(backbone, 3)
    assert [a.layer.path[:4] for a in plan.attach] == ["vect", "none", "vect"]
    with pytest.raises(ConfigError, match=r"paths has 2 paths, and .* has 5 layers"):
        create("glora", {"paths": f"{one},{one}", "blocks": "last:1"}).plan(backbone, 3)
    with pytest.raises(ConfigError, match="kind of D in GLoRA"):
        create("glora", {"paths": "none-none-none-lora-none"}).plan(backbone, 3)


LAYERS = {
    "vit": ("blocks.{}.", ("attn.qkv",) * 3 + ("attn.proj", "mlp.fc1", "mlp.fc2")),
    "dinov2": (
        "encoder.layer.{}.",
        (*(f"attention.{x}_proj" for x in "qkvo"), "mlp.fc1", "mlp.fc2"),
    ),
    "clip": (
        "vision_model.encoder.layers.{}.",
        (*(f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")), "mlp.fc1", "mlp.fc2"),
    ),
}
"""Where q, k, v, proj, hidden and narrow lie in a library's module."""


@pytest.mark.parametrize("name", LAYERS)
def test_each_target_is_a_change_of_one_layer_s_weight_and_bias(name: str, tmp_path: Path) -> None:
    backbone = tiny.build(name, tmp_path)
    method = create("glora", {"targets": "q,k,v,proj,hidden,narrow", "blocks": "last:2"})
    with tiny.seeded(0):
        adapted = AdaptedClassifier(backbone, method.plan(backbone, 3))
        tiny.shaken(adapted)
    images, own = tiny.images(backbone), backbone.module.state_dict()
    with torch.no_grad():
        want = adapted.eval()({IMAGES: images}).logits
        for number, attach in enumerate(adapted.plan.attach):
            block, target = divmod(number, 6)
            prefix, layers = LAYERS[name]
            at = prefix.format(backbone.depth - 2 + block) + layers[target]
            weight, bias = own[f"{at}.weight"], own[f"{at}.bias"]
            rows = slice(None)
            if name == "vit" and target < 3:
                rows = slice(target * backbone.width, (target + 1) * backbone.width)
            update, shift = attach.layer.update, attach.layer.shift
            weight[rows] += update
            bias[rows] += shift
        vector = backbone.upper({IMAGES: images}, (backbone.vector,))[backbone.vector]
    torch.testing.assert_close(adapted.head(vector), want)


RANK = """
import runpy
import sys
from pathlib import Path

import torch

from petiole.engine.together import open_group

open_group("cpu")
folder = Path(sys.argv[1])
_, adapted = runpy.run_path(sys.argv[3])["searched"](folder, folder / "checkpoint.safetensors")
torch.save((adapted.plan.settled, adapted.state_dict()), sys.argv[2])
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distribution")
def test_two_processes_find_what_one_finds(tmp_path: Path) -> None:
    """Each draws the same path in each step, and the search ends at one path with one state."""
    together, files = tmp_path / "together", [tmp_path / "first.pt", tmp_path / "second.pt"]
    together.mkdir()
    ranks = [
        start(RANK, together, file, __file__, environment=environment)
        for file, environment in zip(files, two_ranks(), strict=True)
    ]
    _, alone = searched(tmp_path, tmp_path / "checkpoint.safetensors")
    errors = [rank.communicate(timeout=120)[1][-1500:] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], errors
    first, second = (torch.load(file) for file in files)
    assert first[0] == second[0] == alone.plan.settled
    for name, value in alone.state_dict().items():
        assert torch.equal(first[1][name], second[1][name]), name
        torch.testing.assert_close(first[1][name], value, rtol=1e-3, atol=1e-4)
    tried = [(folder / PATHS).read_text() for folder in (together, tmp_path)]
    assert tried[0] == tried[1]


def test_frozen_weights_get_no_gradient_whatever_they_would_take() -> None:
    weight, bias = (torch.nn.Parameter(torch.randn(*shape)) for shape in ((4, 3), (4,)))
    layer = GLoRA(weight, bias, 2, "lora-lora-lora-vector-vector")
    with torch.no_grad():
        for p in layer.parameters():
            p.uniform_(0.1, 1.0)
    layer(torch.randn(5, 3)).sum().backward()
    assert weight.grad is None
    assert bias.grad is None
    assert all(p.grad is not None for p in layer.parameters())

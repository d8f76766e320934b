"""Every type of peft: the contract, peft's own count, and a folder that peft loads; or a reason."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from petiole.backbones.base import Backbone
from petiole.backbones.weights import fingerprint
from petiole.errors import ConfigError
from petiole.ledger import ledger
from petiole.methods.peft.library import REFUSED
from petiole.methods.registry import create
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.testing import backbones as tiny
from petiole.testing import image_case as contract
from petiole.testing.contract import hold
from petiole.testing.image_methods import CLAUSES

KINDS = sorted(key.value.lower() for key in PEFT_TYPE_TO_CONFIG_MAPPING)
SMALL: dict[str, dict[str, Any]] = {  # what does not fit a width of 24
    "miss": {"r": 4},
    "psoft": {"r": 4},
    "shira": {"r": 2},
    "c3a": {"block_size": 12},
    "road": {"group_size": 12},
    "vblora": {"vector_length": 12, "num_vectors": 16},
    "waveft": {"n_frequency": 50},
    "fourierft": {"n_frequency": 50},
}
USABLE = [kind for kind in KINDS if kind not in REFUSED]


def pair_of(
    name: str, backbone: Backbone, folder: Path, settings: dict[str, Any] | None = None
) -> contract.ImageCase:
    return contract.ImageCase(name, backbone, folder, settings or {})


def check(pair: contract.ImageCase) -> None:
    hold(CLAUSES, pair, f"{pair.name} with {pair.settings}")


def vector_in_peft(pair: contract.ImageCase) -> torch.Tensor:
    """What the bare network gives with the saved folder on it, by peft alone."""
    assert pair.saved
    model = PeftModel.from_pretrained(copy.deepcopy(pair.backbone.module), pair.folder / "peft")
    with torch.no_grad():
        out = model.eval().base_model.model(pair.images)
    return out if isinstance(out, torch.Tensor) else out.last_hidden_state[:, 0]


def vector_here(pair: contract.ImageCase) -> torch.Tensor:
    with torch.no_grad():
        vector: torch.Tensor = pair.saved.adapted.eval()({"images": pair.images}).vector
    return vector


def test_all_types_are_usable_or_refused() -> None:
    assert set(REFUSED) < set(KINDS)
    assert len(USABLE) >= 31


@pytest.mark.parametrize("kind", USABLE)
def test_a_type_keeps_the_contract_and_loads_in_peft(kind: str, tmp_path: Path) -> None:
    backbone = tiny.plain()
    pair = pair_of(f"peft:{kind}", backbone, tmp_path, SMALL.get(kind))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's own
        check(pair)
        assert torch.equal(vector_in_peft(pair), vector_here(pair))
        config = pair.method.config(backbone)
        theirs = get_peft_model(copy.deepcopy(backbone.module), config)
    assert pair.saved.manifest.ledger.adapters == theirs.get_nb_trainable_parameters()[0]
    assert not torch.equal(vector_here(pair), pair.bare[backbone.vector])


@pytest.mark.parametrize("method", ["lora-qkv", "dora"])
@pytest.mark.parametrize("family", ["vit", "dinov2"])
@pytest.mark.parametrize("settings", [{}, {"targets": "q,v", "blocks": "last:2", "scale": 0.5}])
def test_our_lora_loads_in_peft(
    method: str, family: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    backbone = tiny.build(family, tmp_path / "model")
    pair = pair_of(method, backbone, tmp_path / "adapter", {"rank": 3, **settings})
    torch.testing.assert_close(vector_in_peft(pair), vector_here(pair), rtol=0, atol=2e-6)
    assert (vector_here(pair) - pair.bare[backbone.vector]).abs().max() > 1e-2


@pytest.mark.parametrize("dora", [False, True])
def test_our_lora_is_that_of_peft(dora: bool, tmp_path: Path) -> None:
    """Same A and B, same output and same gradients, on separate projections."""
    backbone = tiny.build("dinov2", tmp_path)
    theirs = pair_of("peft:lora", backbone, tmp_path, {"r": 4, "lora_alpha": 6, "use_dora": dora})
    name = "dora" if dora else "lora-qkv"
    ours = pair_of(name, backbone, tmp_path, {"rank": 4, "scale": 1.5})
    one, two = ours.adapted(), theirs.adapted()
    given = dict(two.named_parameters())
    with torch.no_grad():
        for parameter in one.attach.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
        for key, parameter in one.named_parameters():
            given[_theirs(key)].copy_(parameter)
    for pair, adapted in ((ours, one), (theirs, two)):
        contract.backward(pair, adapted)
    for key, parameter in one.named_parameters():
        got, want = given[_theirs(key)], parameter
        assert want.grad is not None
        assert want.grad.any()
        torch.testing.assert_close(got.grad, want.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(theirs.logits(two), ours.logits(one), rtol=1e-5, atol=1e-5)


def _theirs(key: str) -> str:
    if key.startswith("head"):
        return key
    _, role, leaf = key.split(".")
    _, block, _, projection = role.split("/")
    module = f"injected.encoder/layer/{block}/attention/attention/{projection}"
    for hf, short in (("q_proj", "q"), ("k_proj", "k"), ("v_proj", "v")):
        module = module.replace(f"attention/attention/{short}", f"attention/{hf}")
    names = {"a": "lora_A/default/weight", "b": "lora_B/default/weight"}
    return f"{module}/{names.get(leaf, 'lora_magnitude_vector/default/weight')}"


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_cannot_be_says_why(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"peft:{kind} cannot adapt an image encoder: "):
        create(f"peft:{kind}")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("peft:lora", {"rnk": 4}, "Unknown setting of peft:lora 'rnk'"),
        ("peft:loro", {}, "Unknown peft type 'loro'"),
        ("peft:lora", {"r": 0}, "`r` should be a positive integer"),
        (
            "peft:lora",
            {"init_lora_weights": "pissa"},
            "rewrites the frozen weight blocks.0.attn.qkv",
        ),
        ("peft:lora", {"target_modules": ["nothing"]}, "not found in the base model"),
        ("peft:lora", {"targets": "attn.x"}, "block.0.attn.x"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    backbone = tiny.plain()
    before = fingerprint(backbone.module.state_dict())
    with pytest.raises(ConfigError) as error:
        create(name, settings).plan(backbone, 3)
    assert said in str(error.value)
    assert fingerprint(backbone.module.state_dict()) == before


@pytest.mark.parametrize("kind", ["boft", "vblora", "waveft"])
def test_what_reads_weights_cannot_be_counted_without_them(kind: str) -> None:
    shape = tiny.plain()
    shape.module.to("meta")
    with pytest.raises(ConfigError, match="cannot be counted"):
        ledger(shape, create(f"peft:{kind}", SMALL.get(kind)), 3)


def test_settings_come_as_text_and_survive_the_file(tmp_path: Path) -> None:
    """As the command line gives them: numbers, lists and switches."""
    texts = {"r": "4", "use_rslora": "true", "target_modules": '["mlp.fc1", "mlp.fc2"]'}
    pair = pair_of("peft:lora", tiny.plain(), tmp_path, {**texts, "bias": "all"})
    check(pair)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["r"], config["use_rslora"], config["bias"]) == (4, True, "all")
    assert set(config["target_modules"]) == {"mlp.fc1", "mlp.fc2"}
    assert any(key.endswith("norm1/bias") for key, _ in pair.trained.named_parameters())
    assert torch.equal(vector_in_peft(pair), vector_here(pair))


def test_a_cnn_takes_modules_by_name(tmp_path: Path) -> None:
    backbone = tiny.resnet()
    convolutions = [
        path
        for path, module in backbone.module.named_modules()
        if isinstance(module, torch.nn.Conv2d) and path.startswith("layer4")
    ]
    pair = pair_of("peft:loha", backbone, tmp_path, {"target_modules": convolutions})
    check(pair)
    assert torch.equal(vector_in_peft(pair), vector_here(pair))


def test_what_peft_injects_moves_between_devices() -> None:
    """Also fixed projections, which live in peft's own modules."""
    adapted: AdaptedClassifier = pair_of("peft:vera", tiny.plain(), Path()).adapted()
    injected = adapted.plan.injected
    assert injected is not None
    assert list(injected.buffers())
    injected.double()
    for name, (module, leaf) in injected._places.items():
        held = module._parameters.get(leaf, module._buffers.get(leaf))
        assert held is not None
        assert held.dtype == injected.get_buffer(name).dtype

